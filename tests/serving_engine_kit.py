"""A model with two feature views, of a text and a whole-number key, its features, and a real graph of it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pyarrow as pa
import yaml
from onnx import TensorProto, helper, numpy_helper

from evergreen.contract import Window
from evergreen.data.lake import get_lake
from evergreen.serving.deployment import Variant
from evergreen.settings import PROJECT_ROOT
from evergreen.training.graph import NUMERIC, Graph, GraphDescription

MODEL = "served_model"
DAY = Window(start=date(2024, 1, 1), end=date(2024, 1, 1))
KNOWN = datetime(2024, 1, 2, 6, tzinfo=UTC)
TTL = timedelta(hours=36)
VIEWS: dict[str, tuple[str, list[str]]] = {"places": ("place", ["height", "rain"]), "people": ("person", ["age"])}
NUMBERS = ("amount", "height", "rain", "age")

DEFINITIONS = f"""
from datetime import timedelta
from feast import Entity, FeatureView, Field, ValueType
from feast.types import Float64, Int64, String
from evergreen.features.feast_lake import LakeSource

place = Entity(name="place", value_type=ValueType.STRING)
person = Entity(name="person", value_type=ValueType.INT64)
places = FeatureView(
    name="{MODEL}_places",
    entities=[place],
    schema=[Field(name="place", dtype=String), Field(name="height", dtype=Float64), Field(name="rain", dtype=Float64)],
    source=LakeSource(model="{MODEL}", table="places"),
    ttl=timedelta(hours=36),
)
people = FeatureView(
    name="{MODEL}_people",
    entities=[person],
    schema=[Field(name="person", dtype=Int64), Field(name="age", dtype=Int64)],
    source=LakeSource(model="{MODEL}", table="people"),
)
"""


def write_model(folder: Path, **serving: Any) -> None:
    """Write a models folder and a feature repository with the one model."""
    (folder / "models" / MODEL).mkdir(parents=True)
    (folder / "feature_repo").mkdir()
    settings = (PROJECT_ROOT / "feature_repo/feature_store.yaml").read_text()
    (folder / "feature_repo/feature_store.yaml").write_text(settings)
    (folder / f"feature_repo/{MODEL}.py").write_text(DEFINITIONS)
    content = yaml.safe_load((PROJECT_ROOT / "include/models/flight_delay/model.yaml").read_text())
    content["name"] = MODEL
    content["features"] = {
        "examples": {"sql": "e.sql", "label": "outcome"},
        "views": [
            {"name": name, "sql": "v.sql", "entities": [key], "features": features}
            for name, (key, features) in VIEWS.items()
        ],
        "numeric": list(NUMBERS),
    }
    content["drift"]["columns"], content["gate"]["slices"] = ["amount"], []
    content["serving"] = serving
    (folder / "models" / MODEL / "model.yaml").write_text(yaml.safe_dump(content))


def write_features(view: str, rows: Sequence[tuple[Any, datetime, dict[str, Any]]], window: Window = DAY) -> None:
    """Write rows (key, time, features) of a view's day into the lake."""
    key, features = VIEWS[view]
    kind = pa.string() if key == "place" else pa.int64()
    value = pa.float64() if key == "place" else pa.int64()
    columns = {
        "ds": pa.array([str(window.start)] * len(rows)),
        key: pa.array([row[0] for row in rows], kind),
        "event_timestamp": pa.array([row[1] for row in rows], pa.timestamp("us", tz="UTC")),
        **{name: pa.array([row[2].get(name) for row in rows], value) for name in features},
    }
    get_lake().write(MODEL, view, pa.table(columns), window)


def summing_graph(weight: float = 1.0) -> Graph:
    """Return a real graph whose answer is the weighted sum of all numbers, a missing one counting as 1000."""
    nodes = [
        helper.make_node("IsNaN", [NUMERIC], ["missing"]),
        helper.make_node("Where", ["missing", "thousand", NUMERIC], ["filled"]),
        helper.make_node("MatMul", ["filled", "weights"], ["prediction"]),
    ]
    weights = np.full((len(NUMBERS), 1), weight)
    graph = helper.make_graph(
        nodes,
        "sum",
        [helper.make_tensor_value_info(NUMERIC, TensorProto.DOUBLE, ["rows", len(NUMBERS)])],
        [helper.make_tensor_value_info("prediction", TensorProto.DOUBLE, ["rows", 1])],
        [numpy_helper.from_array(weights, "weights"), numpy_helper.from_array(np.array(1000.0), "thousand")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return Graph(GraphDescription(numeric=NUMBERS, outputs=("probability",)), session)


def variant(version: str = "1", weight: float = 1.0) -> Variant:
    """Return a version whose answers tell its weight."""
    return Variant(version, summing_graph(weight))
