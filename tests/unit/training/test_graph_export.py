"""A graph is written beside the weights if it answers as the network; else the training goes on, and it is said why."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from evergreen.contract import DataError, Stopped
from evergreen.judgement.metrics import deciding_metric
from evergreen.settings import PROJECT_ROOT
from evergreen.spec import Task
from evergreen.training import graph_export
from evergreen.training.encoder import load
from evergreen.training.golden import FILE, Golden, found_wrong
from evergreen.training.graph import DESCRIPTION, GRAPH, INT8, Graph, GraphDescription
from evergreen.training.graph_export import GRAPH_REFUSED, INT8_LOSS, INT8_REFUSED, write_graph
from evergreen.training.graph_rows import differences, edge_rows
from graph_kit import WIDE, files_of, frame_of, spec_of

FORWARD = """
import torch


class Network(torch.nn.Module):
    def __init__(self, schema):
        super().__init__()
        self.layer = torch.nn.Linear(len(schema["numeric"]), schema["outputs"])

    def forward(self, numeric, categorical):
        {body}


def build(schema):
    return Network(schema)
"""


def described(files: Path) -> GraphDescription:
    return GraphDescription.parse((files / DESCRIPTION).read_bytes())


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("return self.layer(numeric) * (2 if float(numeric.sum()) > 3 else 1)", "GuardOnDataDependentSymNode: "),
        ("return self.layer(numeric) + torch.rand(1)", "ValueError: among 226 row(s), it differs from the network by "),
        ("return self.layer(numeric) + (1 if len(numeric) == 1 else 0)", "ValueError: among 1 row(s), it differs "),
    ],
)
def test_a_network_that_cannot_be_exported_is_a_model_without_a_graph(
    tmp_path: Path, body: str, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    files = files_of(tmp_path, network=FORWARD.format(body=body))
    assert described(files).why.startswith(why)
    assert not (files / GRAPH).exists()
    assert f"the model has no graph, and cannot be served: {why}" in caplog.text
    with pytest.raises(DataError, match=r"there is no model\.onnx: .*Change network\.py"):
        Graph.load(files)
    assert write_graph(files, spec_of(tmp_path, Task.BINARY), frame_of(Task.BINARY), deciding_metric) == {
        GRAPH_REFUSED: described(files).why
    }


def test_who_stops_the_training_stops_the_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: object) -> None:
        raise Stopped

    monkeypatch.setattr(graph_export, "exported_network", stopped)
    with pytest.raises(Stopped):
        files_of(tmp_path)


def test_a_version_without_a_graph_is_whole(tmp_path: Path) -> None:
    assert (
        found_wrong(files_of(tmp_path, network=FORWARD.format(body="return self.layer(numeric).sin().detach()"))) == ""
    )
    files = tmp_path / "files"
    for name in (GRAPH, DESCRIPTION):
        (files / name).unlink()
    assert found_wrong(files) == ""


def test_where_a_model_is_not_served_nothing_is_exported(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from graph_kit import files_of\n"
        f"print(*sorted(path.name for path in files_of(Path({str(tmp_path)!r}), enabled=False).iterdir()))\n"
        "print(*sorted({'torch.onnx', 'onnx', 'onnxruntime', 'onnxscript'} & set(sys.modules)))"
    )
    done = in_a_process(code)
    assert done == ["encoder.json encoder.py golden.json network.py weights.safetensors", ""]


def in_a_process(code: str) -> list[str]:
    """Return the lines that Python code has printed, in a process with the tests' modules."""
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(PROJECT_ROOT / 'tests')!r})\n{code}"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\n")[:-1]


def test_the_same_training_writes_the_same_bytes(tmp_path: Path) -> None:
    """The digest of a model is of its files: a training that is asked for again has the same."""
    code = (
        "import hashlib; from pathlib import Path; from graph_kit import WIDE, files_of\n"
        "for name in sys.argv[1:]:\n"
        "    place = Path(name); place.mkdir()\n"
        "    for path in sorted(files_of(place, network=WIDE, int8_maximum_loss=1).iterdir()):\n"
        "        print(path.name, hashlib.sha256(path.read_bytes()).hexdigest())"
    )
    first, second = (in_a_process(code.replace("sys.argv[1:]", repr([f"{tmp_path / name}"]))) for name in "ab")
    assert first == second
    assert {line.split()[0] for line in first} >= {GRAPH, INT8, DESCRIPTION}


def test_the_graph_says_nothing_of_the_machine(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    content = (files_of(tmp_path) / GRAPH).read_bytes()
    assert str(tmp_path).encode() not in content
    assert b"network.py" not in content
    assert not any(node.metadata_props or node.doc_string for node in onnx.load_from_string(content).graph.node)
    assert capfd.readouterr().out == ""


def test_the_rows_that_are_compared_reach_every_edge(tmp_path: Path) -> None:
    encoder, _ = load(files_of(tmp_path))
    rows = edge_rows(encoder, frame_of(Task.BINARY))
    made = rows.iloc[200:]
    assert rows.iloc[:200]["x"].isna().sum() == 29  # the training rows as they are
    assert made.iloc[0].isna().all()
    for name in encoder.mean:
        z = (made[name] - encoder.mean[name]) / encoder.scale[name]
        assert {np.inf, -np.inf} <= set(z)
        assert (z[np.isfinite(z)].min(), z[np.isfinite(z)].max()) == (pytest.approx(-1e12), pytest.approx(1e12))
    for name, known in encoder.vocabulary.items():
        assert {None, "?", *known} <= set(made[name])


def test_answers_apart_are_measured_as_golden_requests_are(tmp_path: Path) -> None:
    import pandas as pd

    encoder, _ = load(files_of(tmp_path, Task.REGRESSION))
    mean, unit = encoder.target_mean, encoder.target_scale
    expected = pd.DataFrame({"prediction": [mean, mean, mean + 100 * unit, np.nan, np.nan, mean]})
    got = np.array([mean, mean + unit, mean + 101 * unit, np.inf, 1.0, np.nan])
    apart = differences(encoder, expected, {"prediction": got})
    assert apart == pytest.approx([0, 1, 0.01, 0, np.inf, np.inf])


def changed(files: Path, name: str, factor: float) -> None:
    """Multiply a graph's weights."""
    model = onnx.load(files / name)
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT and len(tensor.dims) > 1:
            values = onnx.numpy_helper.to_array(tensor) * np.float32(factor)
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    onnx.save(model, files / name)


def test_a_graph_that_answers_otherwise_is_found_in_a_fresh_process(tmp_path: Path) -> None:
    files = files_of(tmp_path)
    assert found_wrong(files) == ""
    changed(files, GRAPH, 1.01)
    said = found_wrong(files)
    assert said.startswith("its graph does not answer as the network did: row 1 of golden.json: probability: expected ")
    (files / GRAPH).write_bytes(b"no graph")
    assert "this is no graph that can be run" in found_wrong(files)


def test_a_graph_that_is_wrong_where_nothing_is_known_is_found(tmp_path: Path) -> None:
    """Golden requests may have every value: what a missing one comes to is asked all the same."""
    files = files_of(tmp_path)
    golden = Golden.parse((files / FILE).read_bytes())
    whole = [row for row in range(golden.rows) if None not in (values[row] for values in golden.inputs.values())]
    kept = {
        part: {name: [values[row] for row in whole] for name, values in getattr(golden, part).items()}
        for part in ("inputs", "answers")
    }
    (files / FILE).write_text(Golden.model_validate(golden.model_dump() | kept).model_dump_json())
    assert found_wrong(files) == ""
    model = onnx.load(files / GRAPH)
    (filled,) = (node for node in model.graph.node if [*node.output] == ["filled"])
    filled.input[1] = "highest"  # in place of zero
    onnx.save(model, files / GRAPH)
    wrong = "its graph does not answer as the network did: a row of nothing known: probability: expected "
    assert found_wrong(files).startswith(wrong)


def test_the_smaller_graph_is_kept_where_it_loses_little_enough(tmp_path: Path) -> None:
    files = files_of(tmp_path, network=WIDE, int8_maximum_loss=0.05)
    int8 = described(files).int8
    assert int8 is not None
    assert (int8.metric, int8.limit, int8.kept) == ("auc", 0.05, True)
    assert int8.loss == pytest.approx(int8.float32 - int8.int8)
    assert int8.int8_bytes == (files / INT8).stat().st_size < int8.float32_bytes / 2
    nothing = {name: [None] for name in ("x", "n", "constant", "site", "hour")}
    smaller, whole = (Graph.load(files, int8=which).run(nothing)["probability"][0] for which in (True, False))
    assert smaller == Graph.load(files).run(nothing)["probability"][0]
    assert 0 < abs(smaller - whole) <= 2 * int8.difference
    assert found_wrong(files) == ""
    changed_int8 = onnx.load(files / INT8)
    for tensor in changed_int8.graph.initializer:
        if tensor.name.endswith("_scale"):
            tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor) * 3, tensor.name))
    onnx.save(changed_int8, files / INT8)
    assert found_wrong(files).startswith("its int8 graph is further from the network than it was when it was made: ")


def test_the_smaller_graph_is_not_kept_where_it_loses_more_or_is_not_smaller(tmp_path: Path) -> None:
    spec, frame = spec_of(tmp_path, Task.BINARY, WIDE, int8_maximum_loss=0.05), frame_of(Task.BINARY)
    files = files_of(tmp_path, network=WIDE)
    said = iter([0.9, 0.8])
    facts = write_graph(files, spec, frame, lambda *_: next(said))
    assert facts[INT8_LOSS] == repr(0.9 - 0.8)
    assert facts[INT8_REFUSED].startswith("auc loses 0.1, and may lose 0.05; it has ")
    assert not (files / INT8).exists()
    assert described(files).int8 is not None
    assert not described(files).int8.kept
    assert Graph.load(files).outputs == ("probability",)
    said = iter([0.9, float("nan")])
    facts = write_graph(files, spec, frame, lambda *_: next(said))
    assert facts[INT8_REFUSED].startswith("ValueError: auc is nan, and 0.9 as float32; ")
    assert not (files / INT8).exists()
    assert Graph.load(files).outputs == ("probability",)
    (tmp_path / "small").mkdir()
    small = files_of(tmp_path / "small", int8_maximum_loss=1)
    assert described(small).int8 is not None
    assert not (small / INT8).exists()


def test_a_smaller_graph_that_cannot_be_made_leaves_the_other(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def broken(*_: object) -> float:
        raise RuntimeError("no metric today")

    files = files_of(tmp_path, network=WIDE)
    spec = spec_of(tmp_path, Task.BINARY, WIDE, int8_maximum_loss=0.05)
    with caplog.at_level(logging.WARNING):
        facts = write_graph(files, spec, frame_of(Task.BINARY), broken)
    assert facts == {INT8_REFUSED: "RuntimeError: no metric today"}
    assert "the model has no int8 graph: RuntimeError: no metric today" in caplog.text
    assert not (files / INT8).exists()
    assert found_wrong(files) == ""


@pytest.mark.parametrize("task", [Task.MULTICLASS, Task.REGRESSION])
def test_a_loss_is_what_the_metric_gets_worse_by(tmp_path: Path, task: Task) -> None:
    files = files_of(tmp_path, task, WIDE, int8_maximum_loss=1e6)
    int8 = described(files).int8
    assert int8 is not None
    assert int8.loss == pytest.approx(int8.int8 - int8.float32)
    assert found_wrong(files) == ""
