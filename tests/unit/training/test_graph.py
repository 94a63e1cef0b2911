"""A graph takes raw values and answers as encoder and network do, whatever the values are."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evergreen.contract import DataError
from evergreen.spec import Task
from evergreen.training.encoder import category_names, load, predict
from evergreen.training.graph import DESCRIPTION, GRAPH, Graph, GraphDescription, category_name
from graph_kit import LABEL, NETWORK, files_of, frame_of

WHOLE = st.integers(-(2**63), 2**64 - 1)
CATEGORIES = st.none() | st.booleans() | WHOLE | st.floats() | st.text(st.characters(exclude_categories=["Cs"]))
NUMBERS = st.none() | st.floats()
ONLY_NUMBERS, ONLY_CATEGORIES = (["x", "constant"], []), ([], ["site", "hour"])


@pytest.fixture(scope="module")
def binary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return files_of(tmp_path_factory.mktemp("binary"))


def said(files: Path, columns: dict[str, list]) -> pd.DataFrame:
    """Return what encoder and network answer."""
    encoder, network = load(files)
    frame = pd.DataFrame({name: pd.Series(values, dtype=object) for name, values in columns.items()})
    for name in encoder.mean:
        frame[name] = frame[name].astype("Float64")
    return predict(network, encoder, frame)


def same(files: Path, columns: dict[str, list]) -> None:
    encoder, _ = load(files)
    answers, expected = Graph.load(files).run(columns), said(files, columns)
    assert list(answers) == list(expected)
    for name, values in answers.items():
        assert values.dtype == np.float64
        assert values == pytest.approx(expected[name].to_numpy(), abs=1e-5 * encoder.target_scale, rel=1e-5)


@given(CATEGORIES)
@settings(max_examples=300, deadline=None)
def test_a_category_is_named_as_a_column_of_it_is(value: object) -> None:
    assert category_name(value) == category_names(pd.Series([value], dtype=object))[0]


@pytest.mark.parametrize(
    ("value", "name"),
    [
        *[(5, "5"), (5.0, "5"), ("5", "5"), ("5.0", "5.0"), (-0.0, "0"), (1.5, "1.5"), (0.1 + 0.2, "0.3")],
        *[(True, "True"), (None, None), (float("nan"), None), (float("inf"), "inf"), ("", ""), ("nan", "nan")],
        *[(2**63, "9223372036854775808"), (2.0**63, "9.22337203685478e+18"), (1e16, "10000000000000000")],
        *[(10**30, "1" + 30 * "0"), (1e20, "1e+20")],
    ],
)
def test_a_category_s_name(value: object, name: str | None) -> None:
    assert category_name(value) == name


@given(st.lists(st.tuples(NUMBERS, NUMBERS, NUMBERS, CATEGORIES, CATEGORIES), min_size=1, max_size=5))
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_it_answers_anything_as_the_network_does(binary: Path, rows: list[tuple]) -> None:
    columns = {name: [row[place] for row in rows] for place, name in enumerate(["x", "n", "constant", "site", "hour"])}
    named = {name: [category_name(value) for value in columns[name]] for name in ("site", "hour")}
    answers = Graph.load(binary).run(columns)["probability"]
    assert answers == pytest.approx(said(binary, columns | named)["probability"].to_numpy(), abs=1e-5)


@pytest.mark.parametrize("inputs", [ONLY_NUMBERS, ONLY_CATEGORIES, (["x", "n"], ["site"])], ids=str)
@pytest.mark.parametrize("task", [*Task])
def test_every_task_and_kind_of_input(tmp_path: Path, task: Task, inputs: tuple[list[str], list[str]]) -> None:
    files = files_of(tmp_path, task, inputs=inputs)
    graph = Graph.load(files)
    assert (list(graph.numeric), list(graph.categorical)) == inputs
    expected = {"binary": ["probability"], "regression": ["prediction"], "multiclass": ["early", "late", "on time"]}
    assert list(graph.outputs) == expected[task]
    rows = frame_of(task).drop(columns=LABEL)[[*graph.numeric, *graph.categorical]].astype(object)
    columns = rows.where(rows.notna(), None).to_dict("list")
    for count in (1, 2, 7, 200):
        same(files, {name: values[:count] for name, values in columns.items()})
    nobody = graph.run({name: [] for name in columns})
    assert {name: values.shape for name, values in nobody.items()} == dict.fromkeys(graph.outputs, (0,))


def test_a_row_is_answered_as_among_others(binary: Path) -> None:
    rows = {"x": [1.0, None], "n": [3, 4], "constant": [4.0, 4.0], "site": ["a", "été"], "hour": [5, 6.0]}
    graph = Graph.load(binary)
    alone = [graph.run({name: values[row : row + 1] for name, values in rows.items()}) for row in range(2)]
    assert [answer["probability"][0] for answer in alone] == pytest.approx(graph.run(rows)["probability"], abs=1e-12)
    assert alone[0]["probability"] != alone[1]["probability"]


def test_missing_is_told_from_a_category_of_any_name(tmp_path: Path) -> None:
    """The empty text is a category of the training window: missing is marked by another one."""
    files = files_of(tmp_path)
    assert Graph.load(files).description.missing == "?"
    row = {"x": [0.0] * 4, "n": [1] * 4, "constant": [4.0] * 4, "site": [None, "", "?", "a\0"], "hour": [1] * 4}
    same(files, row)
    missing, empty, marker, with_nul = Graph.load(files).run(row)["probability"]
    assert missing == marker == with_nul
    assert missing != empty


def test_what_is_no_unicode_is_unknown(binary: Path) -> None:
    row = {"x": [0.0] * 2, "n": [1] * 2, "constant": [4.0] * 2, "site": [None, "\ud800"], "hour": [1] * 2}
    missing, broken = Graph.load(binary).run(row)["probability"]
    assert missing == broken


def test_a_wide_vocabulary_and_an_empty_one(tmp_path: Path) -> None:
    frame = frame_of(Task.BINARY, 10_000)
    frame["site"] = [f"user {number}" for number in range(10_000)]
    frame["hour"] = None
    files = files_of(tmp_path, frame=frame)
    encoder, _ = load(files)
    assert {name: len(known) for name, known in encoder.vocabulary.items()} == {"site": 10_000, "hour": 0}
    sites = ["user 0", "user 9999", "user 10000", None]
    same(files, {"x": [0.0] * 4, "n": [1] * 4, "constant": [4.0] * 4, "site": sites, "hour": [None, 5, "x", True]})


@pytest.mark.parametrize("wrong", [b"", b"no graph", None])
def test_a_file_that_is_no_graph_is_refused(binary: Path, tmp_path: Path, wrong: bytes | None) -> None:
    good = (binary / GRAPH).read_bytes()
    (tmp_path / DESCRIPTION).write_bytes((binary / DESCRIPTION).read_bytes())
    (tmp_path / GRAPH).write_bytes(good[: len(good) // 2] if wrong is None else wrong)
    with pytest.raises(DataError, match=rf"{GRAPH}: this is no graph that can be run: .*Train the model again"):
        Graph.load(tmp_path)


def test_why_there_is_no_graph_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no model.onnx: the version was trained before graphs were exported"):
        Graph.load(tmp_path)
    (tmp_path / DESCRIPTION).write_text('{"numeric": "x"}')
    with pytest.raises(DataError, match=r"graph.json: numeric: "):
        Graph.load(tmp_path)
    (tmp_path / DESCRIPTION).write_text(GraphDescription(why="it draws numbers").model_dump_json())
    with pytest.raises(DataError, match=r"there is no model.onnx: it draws numbers\. Change network.py"):
        Graph.load(tmp_path)


def test_it_is_run_without_torch_and_without_the_model_s_code(binary: Path, tmp_path: Path) -> None:
    for name in (GRAPH, DESCRIPTION):
        (tmp_path / name).write_bytes((binary / name).read_bytes())
    code = (
        "import json, sys; from pathlib import Path; from evergreen.training.graph import Graph\n"
        f"graph = Graph.load(Path({str(tmp_path)!r}))\n"
        "answer = graph.run({name: [None] for name in (*graph.numeric, *graph.categorical)})['probability'].tolist()\n"
        "heavy = {'torch', 'pandas', 'onnx', 'mlflow', 'onnxscript', 'pyarrow'} & set(sys.modules)\n"
        "print(json.dumps([answer, sorted(heavy)]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    answer, heavy = json.loads(done.stdout)
    assert heavy == []
    nothing = {name: [None] for name in ("x", "n", "constant", "site", "hour")}
    assert answer == pytest.approx(said(binary, nothing)["probability"].to_numpy(), abs=1e-5)
    assert NETWORK not in (tmp_path / GRAPH).read_bytes().decode(errors="replace")
