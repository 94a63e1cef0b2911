"""Features as Feast returns them, offline and online: under their names, at the bounds of time, and without a value."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest
import yaml

from evergreen.catalog import load_model
from evergreen.contract import Window
from evergreen.data.lake import get_lake
from evergreen.features.feast_repo import apply, get_feature_store
from evergreen.features.feature_store import materialize, training_set
from evergreen.settings import PROJECT_ROOT, get_settings
from evergreen.spec import ModelSpec
from isolation import own_settings

pytestmark = pytest.mark.integration
MODEL, ENTITY = "group", "select"
NAMES = ("order", "timestamp", "feature_name", "value", "index", "group", "speed_", "y", "left_only", "x" * 200)
"""Words of SQL, pandas and Feast, the model's own name, and a long one."""
NEVER = "never_known"
FIRST = Window(start=date(2024, 1, 1), end=date(2024, 1, 1))
SECOND = Window(start=date(2024, 1, 2), end=date(2024, 1, 2))
KNOWN = datetime(2024, 1, 2, 6, tzinfo=UTC)
"""When the rows of the first day were known: as early as they may be, and the moment at which both days' rows meet."""
MOMENT, TTL = timedelta(microseconds=1), timedelta(hours=36)
VIEWS = {"limited": (*NAMES, NEVER), "unlimited": ("forever",)}

DEFINITIONS = f"""
from datetime import timedelta
from feast import Entity, FeatureView, Field, ValueType
from feast.types import Float64, String
from evergreen.features.feast_lake import LakeSource

key = Entity(name="{ENTITY}", value_type=ValueType.STRING)


def view(table, features, **ttl):
    return FeatureView(
        name=f"{MODEL}_{{table}}",
        entities=[key],
        schema=[Field(name="{ENTITY}", dtype=String), *(Field(name=name, dtype=Float64) for name in features)],
        source=LakeSource(model="{MODEL}", table=table),
        **ttl,
    )


limited = view("limited", {VIEWS["limited"]}, ttl=timedelta(hours=36))
unlimited = view("unlimited", {VIEWS["unlimited"]})
"""


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory, postgres_url: str) -> Iterator[ModelSpec]:
    """Two days of a model's features in the lake, its definitions applied; the second day has another value."""
    folder = tmp_path_factory.mktemp("retrieval")
    with own_settings(folder, postgres_url), pytest.MonkeyPatch.context() as patch:
        patch.setenv("EVERGREEN_MODELS_DIR", str(folder / "models"))
        patch.setenv("EVERGREEN_FEATURE_REPO", str(folder / "feature_repo"))
        get_settings.cache_clear()
        write_model(folder)
        spec = load_model(MODEL)
        for window, known in ((FIRST, KNOWN), (SECOND, KNOWN + timedelta(days=1))):
            for view, features in VIEWS.items():
                write(view, window, [("a", known), ("b", known)], dict(zip(features, range(99), strict=False)))
        apply(spec)
        yield spec


def write_model(folder: Path) -> None:
    (folder / "models" / MODEL).mkdir(parents=True)
    (folder / "feature_repo").mkdir()
    settings = (PROJECT_ROOT / "feature_repo/feature_store.yaml").read_text()
    (folder / "feature_repo/feature_store.yaml").write_text(settings)
    (folder / f"feature_repo/{MODEL}.py").write_text(DEFINITIONS)
    content = yaml.safe_load((PROJECT_ROOT / "include/models/flight_delay/model.yaml").read_text())
    views = [
        {"name": view, "sql": "v.sql", "entities": [ENTITY], "features": list(names)} for view, names in VIEWS.items()
    ]
    content["name"] = MODEL
    content["features"] = {
        "examples": {"sql": "e.sql", "label": "outcome"},
        "views": views,
        "numeric": [*NAMES, NEVER, "forever"],
    }
    content["drift"]["columns"], content["gate"]["slices"] = ["value"], []
    (folder / "models" / MODEL / "model.yaml").write_text(yaml.safe_dump(content))


def write(table: str, window: Window, rows: list[tuple[str, datetime]], values: dict[str, float]) -> None:
    """Write rows (key, time) of a day; every column has one value, and on the second day ten more."""
    more = 10.0 * (window == SECOND)
    columns = {name: pa.array([None if name == NEVER else value + more] * len(rows)) for name, value in values.items()}
    columns = {name: column.cast(pa.float64()) for name, column in columns.items()}
    times = pa.array([at for _, at in rows], pa.timestamp("us", tz="UTC"))
    keys = {"ds": [str(window.start)] * len(rows), ENTITY: [key for key, _ in rows], "event_timestamp": times}
    get_lake().write(MODEL, table, pa.table({**keys, **columns}), window)


def offline(spec: ModelSpec, *times: datetime) -> list[dict[str, float | None]]:
    """Return what an example of the key ``a`` sees at each of the times."""
    write("examples", FIRST, [("a", at) for at in sorted(times)], {"outcome": 1.0})
    found = training_set(spec, FIRST)[list(spec.features.numeric)]
    rows: list[dict[str, float | None]] = found.astype(object).where(found.notna(), None).to_dict("records")
    return rows


def online(spec: ModelSpec, *keys: str, full: bool = False) -> dict[str, list[float | None]]:
    references = [f"{spec.feast_name(view)}:{name}" for view in spec.features.views for name in view.features]
    found = get_feature_store().get_online_features(
        references, [{ENTITY: key} for key in keys], full_feature_names=full
    )
    answered: dict[str, list[float | None]] = found.to_dict()
    del answered[ENTITY]
    return answered


def test_every_name_that_is_accepted_comes_back_as_it_is_offline_and_online(spec: ModelSpec) -> None:
    expected = {**{name: float(number) for number, name in enumerate(NAMES)}, NEVER: None, "forever": 0.0}
    assert materialize(spec, FIRST) == {"limited": 2, "unlimited": 2}
    assert offline(spec, KNOWN) == [expected]
    later = {name: [value if value is None else value + 10] for name, value in expected.items()}
    assert online(spec, "a") == later, "of the keys of the first day, the newest row"
    full = {f"{MODEL}_{view}__{name}": later[name] for view, names in VIEWS.items() for name in names}
    assert online(spec, "a", full=True) == full


def test_a_feature_without_any_value_is_null_and_the_rest_is_answered(spec: ModelSpec) -> None:
    from feast.protos.feast.serving.ServingService_pb2 import FieldStatus

    materialize(spec, SECOND)
    answered = online(spec, "a", "nobody")
    assert answered[NEVER] == [None, None]
    assert answered["value"] == [13.0, None]
    found = get_feature_store().get_online_features([f"{MODEL}_limited:{NEVER}"], [{ENTITY: "a"}, {ENTITY: "nobody"}])
    (statuses,) = [list(one.statuses) for one in found.proto.results[1:]]
    assert statuses == [FieldStatus.PRESENT, FieldStatus.NOT_FOUND], "the key is known, its value is null"


def test_a_row_at_a_bound_of_time_is_seen_once_offline(spec: ModelSpec) -> None:
    """At the moment at which it is known and at the end of its ttl, 36 hours: a day and 12 hours, to Python."""
    second = KNOWN + timedelta(days=1)
    moments = [KNOWN - MOMENT, KNOWN, second - MOMENT, second, second + TTL, second + TTL + MOMENT]
    seen = [(row["value"], row["forever"]) for row in offline(spec, *moments)]
    assert seen == [(None, None), (3.0, 0.0), (3.0, 0.0), (13.0, 10.0), (13.0, 10.0), (None, 10.0)]


def test_a_row_at_the_end_of_a_window_is_materialized_in_its_own_window_only(spec: ModelSpec) -> None:
    """A row of the first day that is known at the last moment of the second belongs to the first, and to it alone."""
    first, second = (Window(start=day, end=day) for day in (date(2024, 1, 5), date(2024, 1, 6)))
    last = datetime(2024, 1, 7, tzinfo=UTC) - MOMENT
    for view, features in VIEWS.items():
        write(view, first, [("c", last), ("d", last + MOMENT)], dict.fromkeys(features, 5.0))
        write(view, second, [("e", last)], dict.fromkeys(features, 6.0))
    assert materialize(spec, second) == {"limited": 1, "unlimited": 1}
    assert online(spec, "c", "d", "e")["value"] == [None, None, 6.0]
    assert materialize(spec, first) == {"limited": 2, "unlimited": 2}
    assert materialize(spec, Window(start=first.start, end=second.end)) == {"limited": 3, "unlimited": 3}
    assert online(spec, "c", "d", "e")["value"] == [5.0, 5.0, 6.0]
