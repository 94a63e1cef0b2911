"""What a look at a rollout reads: only what it needs, each outcome once, and past files that nobody can read."""

from __future__ import annotations

import io
from collections.abc import Sequence
from datetime import date, timedelta
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_served import DAY, NOON, leave_examples, spec_of

from evergreen.judgement.guardrails import judge
from evergreen.judgement.rollouts import Rollout
from evergreen.serving.log_files import feedback_schema, log_key, log_schema
from evergreen.serving.observed import answers_of
from evergreen.settings import Settings
from evergreen.spec import Delivery, Direction, ModelSpec, Task
from evergreen.store import ArtifactStore, get_store

pytestmark = pytest.mark.integration
ROLLOUT = Rollout(
    *("e1", "canary", "1", "2", 0.5, False, 0, "s", ("user",), False),
    *(NOON - timedelta(hours=1), NOON - timedelta(hours=1), "t", DAY, {}, 1),
)
JUDGED = {"strategy": "canary", "guardrails": {"metric_drop": 0.1}}


@pytest.fixture
def store(lake_settings: Settings) -> ArtifactStore:
    return get_store()


def judged_spec(task: Task = Task.BINARY, delivery: dict[str, Any] = JUDGED) -> ModelSpec:
    return spec_of(task).model_copy(update={"delivery": Delivery.model_validate(delivery)})


def row(number: int, **other: Any) -> dict[str, Any]:
    """Return an answer about user ``number``, of whichever variant."""
    told = {"prediction_id": f"p{number}", "variant": ("champion", "challenger")[number % 2], "status": "ok"}
    told |= {"request_user": number, "request_shop": "a", "served_at": NOON, "event_timestamp": NOON}
    return {**told, "graph_ms": 2.0, "output_probability": 0.5, **other}


def leave(name: str, rows: Sequence[dict[str, Any]], outputs: Sequence[str] = ("probability",)) -> None:
    schema = log_schema(spec_of(), ["user"], outputs)
    put(log_key("m", "e1", DAY, name), pa.Table.from_pylist(rows, schema))


def put(key: str, table: pa.Table) -> None:
    content = io.BytesIO()
    pq.write_table(table, content)
    get_store().write(key, content.getvalue())


def leave_feedback(name: str, *said: tuple[str, str], day: date = DAY) -> None:
    rows = [
        {"prediction_id": one, "outcome": outcome, "at": NOON + timedelta(seconds=second), "client": "c"}
        for second, (one, outcome) in enumerate(said)
    ]
    put(f"feedback/m/{day}/{name}.parquet", pa.Table.from_pylist(rows, feedback_schema()))


def outcomes(rows: pd.DataFrame) -> list[Any]:
    return [None if pd.isna(one) else one for one in rows["outcome"]]


def test_before_anything_is_answered_there_is_nothing(store: ArtifactStore) -> None:
    rows, unreadable = answers_of(store, judged_spec(), ROLLOUT)
    assert (len(rows), unreadable) == (0, 0)
    assert {"variant", "entity", "at", "status", "graph_ms", "outcome"} <= set(rows.columns)


def test_a_file_that_cannot_be_read_is_counted_and_the_others_are_judged(store: ArtifactStore) -> None:
    leave("good", [row(0), row(1)])
    store.write(log_key("m", "e1", DAY, "torn"), b"PAR1 and no more")
    good = pa.Table.from_pylist([row(2)], log_schema(spec_of(), ["user"], ["probability"]))
    put(log_key("m", "e1", DAY, "lacks"), good.drop_columns(["status"]))
    words = pa.array(["soon"], pa.string())
    put(log_key("m", "e1", DAY, "typed"), good.set_column(good.column_names.index("served_at"), "served_at", words))
    store.write(f"feedback/m/{DAY}/torn.parquet", b"nothing")
    rows, unreadable = answers_of(store, judged_spec(), ROLLOUT)
    assert (len(rows), unreadable) == (2, 4)


def test_a_column_that_nobody_judges_may_be_of_any_type(store: ArtifactStore) -> None:
    table = pa.Table.from_pylist([row(0), row(1)], log_schema(spec_of(), ["user"], ["probability"]))
    for name in ("reason", "latency_ms", "request_shop"):
        odd = pa.array([[1], [2]], pa.list_(pa.int64()))
        table = table.set_column(table.column_names.index(name), name, odd)
    put(log_key("m", "e1", DAY, "odd"), table)
    rows, unreadable = answers_of(store, judged_spec(delivery={"strategy": "canary"}), ROLLOUT)
    assert (len(rows), unreadable) == (2, 0)


def test_files_of_servers_from_before_have_no_time_of_a_graph(store: ArtifactStore) -> None:
    table = pa.Table.from_pylist([row(0), row(1)], log_schema(spec_of(), ["user"], ["probability"]))
    put(log_key("m", "e1", DAY, "old"), table.drop_columns(["graph_ms"]))
    leave("new", [row(2)])
    rows, unreadable = answers_of(store, judged_spec(), ROLLOUT)
    assert (rows["graph_ms"].isna().tolist(), unreadable) == ([False, True, True], 0)


def test_feedback_is_read_for_the_metric_alone_and_of_the_days_of_the_rollout_alone(store: ArtifactStore) -> None:
    leave("a", [row(0), row(1)])
    leave_feedback("good", ("p0", "0"), ("p0", "1"), ("p1", "nonsense"))
    store.write(f"feedback/m/{DAY - timedelta(days=30)}/old.parquet", b"nothing")
    rows, unreadable = answers_of(store, judged_spec(), ROLLOUT)
    assert (outcomes(rows), unreadable) == ([1.0, None], 0)  # what is no number is no outcome, and stops nothing
    store.write(f"feedback/m/{DAY}/torn.parquet", b"nothing")
    rows, unreadable = answers_of(store, judged_spec(delivery={"strategy": "canary"}), ROLLOUT)
    assert (outcomes(rows), unreadable) == ([None, None], 0)


def test_labels_count_where_there_is_no_feedback(store: ArtifactStore) -> None:
    leave("a", [row(number) for number in range(4)])
    leave_examples((0, 1.0), (1, 0.0), (2, 1.0))
    leave_feedback("a", ("p1", "1"))
    assert outcomes(answers_of(store, judged_spec(), ROLLOUT).rows) == [1.0, 1.0, 1.0, None]


def test_what_was_refused_is_judged_of_nobody(store: ArtifactStore) -> None:
    leave("a", [row(0, status="refused"), row(1, status="error"), row(2)])
    assert answers_of(store, judged_spec(), ROLLOUT).rows["status"].tolist() == ["error", "ok"]


def test_an_entity_is_the_same_whatever_type_its_key_has(store: ArtifactStore) -> None:
    leave("whole", [row(0), row(2), row(2)])
    text = pa.Table.from_pylist([row(2)], log_schema(spec_of(), ["user"], ["probability"]))
    place = text.column_names.index("request_user")
    put(log_key("m", "e1", DAY, "z"), text.set_column(place, "request_user", text["request_user"].cast(pa.string())))
    assert answers_of(store, judged_spec(), ROLLOUT).rows["entity"].tolist() == [0, 1, 1, 1]


@pytest.mark.parametrize(("share", "broken"), [(0.001, set()), (0.9, {"prediction_shift", "metric_drop"})])
def test_a_class_that_the_champion_does_not_know_ends_a_rollout_only_if_it_is_given_much(
    store: ArtifactStore, share: float, broken: set[str]
) -> None:
    def classes(number: int) -> dict[str, float | None]:
        new = number % 2
        first = (1 - share * new) * (number // 2 % 100) / 100
        return {"output_a": first, "output_b": 1 - first - share * new, "output_c": share if new else None}

    leave("a", [row(number, **classes(number)) for number in range(2000)], ("a", "b", "c"))
    told = [(number, "a" if number // 2 % 100 > number // 2 % 7 * 10 else "b") for number in range(2000)]
    leave_feedback("a", *((f"p{number}", "c" if number // 2 % 100 == 99 else known) for number, known in told))
    delivery = {"strategy": "canary", "guardrails": {"prediction_shift": 0.3, "metric_drop": 0.2}}
    spec = judged_spec(Task.MULTICLASS, delivery)
    gate = spec.gate.model_copy(update={"metric": "log_loss", "direction": Direction.MINIMIZE})
    found = judge(spec.model_copy(update={"gate": gate}), answers_of(store, spec, ROLLOUT).rows, [ROLLOUT.started])
    assert all(one.low is not None for one in found)
    assert {one.guardrail for one in found if one.broken} == broken


def test_only_the_rollout_in_question_is_read(store: ArtifactStore) -> None:
    leave("a", [row(0)])
    put(log_key("m", "e2", DAY, "b"), pa.Table.from_pylist([row(1)], log_schema(spec_of(), ["user"], ["probability"])))
    assert len(answers_of(store, judged_spec(), ROLLOUT).rows) == 1
