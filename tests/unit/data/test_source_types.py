"""A source of a built-in type: real files in, raw rows out, and what a person is told who slips."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, date, datetime
from importlib import import_module
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from evergreen.authoring.checks import check_model
from evergreen.authoring.scaffold import create_model
from evergreen.catalog import load_model
from evergreen.contract import ConfigurationError, DataError, StepError, Window
from evergreen.data.source_types import source_types
from evergreen.settings import PROJECT_ROOT, Settings, get_settings
from evergreen.spec import ModelSpec, Task
from evergreen.steps import ingest

FIRST, LAST = date(2024, 1, 1), date(2024, 1, 3)
FRAME = pd.DataFrame(
    {
        "entity_id": ["c17", "c03"],
        "event_time": [datetime(2024, 1, 1, 9, 12, tzinfo=UTC), datetime(2024, 1, 1, 10, 40, tzinfo=UTC)],
        "amount": [39.9, 12.5],
        "category": pd.Categorical(["shoes", None]),
        "outcome": pd.array([9_007_199_254_740_993, None], dtype="Int64"),  # more than a double can hold
    }
)

Change = Callable[..., ModelSpec]


@pytest.fixture
def change(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Change:
    """Return a function that gives the source of a new model other fields."""
    monkeypatch.setenv("EVERGREEN_MODELS_DIR", str(tmp_path / "models"))
    monkeypatch.setenv("EVERGREEN_FEATURE_REPO", str(tmp_path / "feature_repo"))
    get_settings.cache_clear()
    (tmp_path / "models").mkdir()
    create_model("orders", Task.BINARY, "anna", "webshop", FIRST)

    def to(**fields: Any) -> ModelSpec:
        path = tmp_path / "models/orders/model.yaml"
        content = yaml.safe_load(path.read_text())
        del content["sources"][0]["reader"]
        content["sources"][0] |= fields
        content["sources"][0]["columns"]["outcome"] = "int64"
        path.write_text(yaml.safe_dump(content))
        return load_model("orders")

    return to


@pytest.fixture
def orders(change: Change, tmp_path: Path) -> ModelSpec:
    """Return a model whose source is Parquet files below the temporary folder."""
    return change(type="parquet", options={"path": f"{tmp_path}/orders-{{partition}}.parquet"})


def test_a_file_a_day_is_read_and_a_day_without_one_is_missing(orders: ModelSpec, tmp_path: Path) -> None:
    for day in (FIRST, LAST):
        FRAME.to_parquet(tmp_path / f"orders-{day}.parquet")
    rows, missing = ingest._read(orders.sources[0], orders, Window(start=FIRST, end=LAST))
    assert missing == [date(2024, 1, 2)]
    assert rows["ds"].to_pylist() == ["2024-01-01", "2024-01-01", "2024-01-03", "2024-01-03"]
    assert rows["entity_id"].to_pylist()[:2] == ["c17", "c03"]
    assert rows["event_time"].to_pylist()[:2] == FRAME["event_time"].tolist()
    assert rows["amount"].to_pylist()[:2] == [39.9, 12.5]
    assert rows["category"].to_pylist()[:2] == ["shoes", None]
    assert rows["outcome"].to_pylist()[:2] == [9_007_199_254_740_993, None]
    assert rows["reason"].null_count == 4


def _broken(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("spoil", "kind", "expected"),
    [
        (_broken, DataError, "Parquet magic bytes not found"),
        (_folder, DataError, "Is a directory"),
        (lambda path: FRAME.drop(columns="amount").to_parquet(path), DataError, "missing amount"),
        (lambda path: FRAME.assign(colour="red").to_parquet(path), DataError, "not declared colour"),
    ],
)
def test_a_file_that_is_none_names_the_source_and_where_it_is(
    orders: ModelSpec, tmp_path: Path, spoil: Callable[[Path], None], kind: type[StepError], expected: str
) -> None:
    path = tmp_path / f"orders-{FIRST}.parquet"
    FRAME.to_parquet(path)
    spoil(path)
    with pytest.raises(kind, match=expected) as raised:
        ingest._read(orders.sources[0], orders, Window(start=FIRST, end=FIRST))
    for word in ("parquet", str(tmp_path), "events", str(FIRST)):
        assert word in raised.value.message


def test_a_valid_model_has_a_source_of_a_type(orders: ModelSpec) -> None:
    assert [str(problem) for problem in check_model("orders") if "source" in str(problem)] == []


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"type": "parqet"}, "model.yaml: sources.events.type: there is no type 'parqet'"),
        ({"type": "parquet"}, "model.yaml: sources.events.options.path: the field is missing"),
        (
            {"type": "parquet", "options": {"path": "/data/{partition}.parquet", "pth": "x"}},
            "model.yaml: sources.events.options.pth: there is no such field; did you mean 'path'? (value: 'x')",
        ),
        *(
            (
                {"type": "parquet", "options": {"path": path}},
                "model.yaml: sources.events.options.path: the file of a day, an absolute path or s3://bucket/key, with "
                f"{{partition}} in its name (value: {path!r})",
            )
            for path in (
                "/data/day.parquet",
                "data/{partition}.parquet",
                "/data/{day}{partition}",
                "gs://b/{partition}",
                "s3://{partition}.parquet",  # of no bucket
            )
        ),
    ],
)
def test_a_slip_is_refused_before_a_run_and_in_one(change: Change, fields: dict[str, Any], expected: str) -> None:
    spec = change(**fields)
    assert [problem.message for problem in check_model("orders") if expected in problem.message]
    with pytest.raises(ConfigurationError, match=re.escape(expected)):
        ingest._read(spec.sources[0], spec, Window(start=FIRST, end=FIRST))


def test_a_misspelt_type_is_told_those_there_are(change: Change) -> None:
    change(type="parqet")
    (hint,) = [problem.hint for problem in check_model("orders") if "parqet" in problem.message]
    assert all(name in hint for name in source_types())


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, "sources, entry 1, reader: the field is missing; give a reader, or a type with its options"),
        ({"type": "parquet", "reader": "source.py:read"}, "sources, entry 1, type: 'parquet', and there is the reader"),
        (
            {"options": {"path": "x"}, "reader": "source.py:read"},
            "sources, entry 1, options: {'path': 'x'} belong to a type",
        ),
        ({"type": "Par quet"}, "sources, entry 1, type: at most 63 lower-case letters"),
    ],
)
def test_a_source_has_one_reader_or_one_type(change: Change, fields: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(expected)):
        change(**fields)


def _rows(page: str) -> dict[str, list[str]]:
    rows = re.findall(r"^\| `type: (\w+)` \| ([^|]+) \| [^|]{20,} \|$", page, flags=re.M)
    return {name: re.findall(r"`(\w+)`", options) for name, options in rows}


def _modules(names: list[str]) -> dict[str, list[str]]:
    modules = {name: import_module(f"evergreen.data.source_types.{name}") for name in names}
    return {name: list(module.Options.model_fields) for name, module in modules.items()}


def test_every_type_has_its_row_in_the_documentation() -> None:
    page = (PROJECT_ROOT / "docs/models.md").read_text()
    assert _rows(page) == _modules(source_types()) != {}
    assert "parquet" not in _rows(page.replace("| `type: parquet` |", "| `type: parqet` |"))  # a missing row is seen
    assert _rows(page.replace("| `path` |", "| `file` |")) != _modules(source_types())
