"""What is too good to be true is found and named, and what is only good, or alike by chance, is not."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd
import pytest

from evergreen.catalog import load_model
from evergreen.contract import Window
from evergreen.judgement.evidence import Candidate, Check, Evaluation, Leaks, Verdict
from evergreen.judgement.leaks import alone, late_events, leaks_of, shared_rows
from evergreen.judgement.observations import LateEvents
from evergreen.judgement.rules import decide
from evergreen.spec import ModelSpec, Task
from flights_kit import labels_of

FIRST, DAYS, A_DAY = date(2024, 1, 1), 60, 200
ROWS = DAYS * A_DAY
DS = np.repeat([str(FIRST + timedelta(days=number)) for number in range(DAYS)], A_DAY)


def spec_for(task: Task, numeric: tuple[str, ...] = (), categorical: tuple[str, ...] = (), **gate: Any) -> ModelSpec:
    found = load_model("flight_delay")
    examples = found.features.examples.model_copy(update={"label": "label"})
    features = found.features.model_copy(update={"examples": examples, "numeric": numeric, "categorical": categorical})
    changed = found.gate.model_copy(update=gate)
    return found.model_copy(update={"task": task, "features": features, "gate": changed})


def windows(**columns: Any) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return 20 days to judge on, and the 40 before them."""
    rows = pd.DataFrame({"ds": DS, **columns})
    return rows[40 * A_DAY :].reset_index(drop=True), rows[: 40 * A_DAY].reset_index(drop=True)


def checks(spec: ModelSpec, leaks: Leaks) -> list[Check]:
    training = Window(start=FIRST, end=FIRST + timedelta(days=39))
    found = Evaluation(
        model="flight_delay",
        metric="auc",
        window=Window(start=FIRST + timedelta(days=40), end=FIRST + timedelta(days=59)),
        rows=20 * A_DAY,
        dataset="d",
        challenger=Candidate(run_id="r", training=training),
        confidence=0.95,
        leaks=leaks,
    )
    asked = {"gate.leak_threshold", "gate.maximum_shared_rows", "gate.maximum_late_events"}
    return [check for check in decide(found, spec).checks if check.rule in asked]


def generator() -> np.random.Generator:
    return np.random.default_rng(0)


NOISE, X = generator().normal(size=(2, ROWS))
LABELS = {
    Task.BINARY: (X + NOISE > 0).astype(float),
    Task.REGRESSION: X + NOISE,
    Task.MULTICLASS: np.digitize(X + NOISE, [-1, 1]).astype(float),
}


@pytest.mark.parametrize("task", list(Task))
def test_an_input_that_is_the_label_is_named_and_one_that_is_good_is_not(task: Task) -> None:
    label = LABELS[task]
    copied = label.copy()
    copied[::200] = label[1::200]  # one row in two hundred is another's
    frame, training = windows(label=label, x=X, outcome=-copied)
    spec = spec_for(task, numeric=("x", "outcome"))
    found = leaks_of(spec, frame, training)
    failed = [check for check in checks(spec, found) if check.verdict is Verdict.FAILED]
    assert [check.subject for check in failed] == ["outcome alone"]
    assert "the input 'outcome' alone tells label" in failed[0].why
    (honest, shared) = checks(spec, leaks_of(spec_for(task, numeric=("x",)), frame, training))
    assert (honest.subject, honest.verdict, shared.verdict) == ("x alone", Verdict.PASSED, Verdict.PASSED)
    allowed = spec_for(task, numeric=("x", "outcome"), leak_threshold=1.0)
    assert {check.verdict for check in checks(allowed, found)} == {Verdict.PASSED}


def test_a_category_that_gives_the_label_away_is_found_and_an_id_is_not() -> None:
    label = LABELS[Task.BINARY]
    status = np.where(label == 1, "late", np.where(X > 0, "on time", "early"))
    frame, training = windows(label=label, status=status, ticket=[f"t{number}" for number in range(ROWS)])
    spec = spec_for(Task.BINARY, categorical=("status", "ticket"))
    assert alone(spec, "status", frame, training) == 1
    assert alone(spec, "ticket", frame, training) is None, "no value of it was there in training"


def test_a_value_that_is_missing_where_nothing_happened_gives_it_away() -> None:
    label = LABELS[Task.BINARY]
    frame, training = windows(label=label, minutes=np.where(label == 1, NOISE, np.nan))
    assert alone(spec_for(Task.BINARY, numeric=("minutes",)), "minutes", frame, training) == 1
    frame, training = windows(label=label, minutes=np.where(NOISE > 0, generator().random(ROWS), np.nan))
    assert alone(spec_for(Task.BINARY, numeric=("minutes",)), "minutes", frame, training) < 0.9


def test_codes_of_a_class_need_not_be_in_its_order() -> None:
    label = LABELS[Task.MULTICLASS]
    frame, training = windows(label=label, code=np.array([7.0, 2.0, 5.0])[label.astype(int)])
    spec = spec_for(Task.MULTICLASS, numeric=("code",))
    assert alone(spec, "code", frame, training) == 1


def test_a_class_that_one_input_tells_is_no_leak() -> None:
    """One kind of flower is told by its petals alone, and the others are not."""
    label = LABELS[Task.MULTICLASS]
    frame, training = windows(label=label, petal=np.where(label == 0, 9.0, 0.0) + NOISE)
    score = alone(spec_for(Task.MULTICLASS, numeric=("petal",)), "petal", frame, training)
    assert 0.5 < score < 0.95


@pytest.mark.parametrize("positives", [0, 9, 10])
def test_a_few_positives_are_told_by_luck(positives: int) -> None:
    label = np.zeros(ROWS)
    label[40 * A_DAY : 40 * A_DAY + positives] = 1
    frame, training = windows(label=label, x=X)
    score = alone(spec_for(Task.BINARY, numeric=("x",)), "x", frame, training)
    assert (score is None) is (positives < 10)


def test_a_constant_input_tells_nothing() -> None:
    frame, training = windows(label=LABELS[Task.BINARY], x=np.ones(ROWS), site="a")
    spec = spec_for(Task.BINARY, numeric=("x",), categorical=("site",))
    assert [found.score for found in leaks_of(spec, frame, training).inputs] == [None, None]


@pytest.mark.parametrize("task", list(Task))
def test_rows_that_are_delivered_again_are_found(task: Task) -> None:
    frame, training = windows(label=LABELS[task], x=X)
    spec = spec_for(task, numeric=("x",))
    assert shared_rows(spec, frame, training) == (0, 0)
    again = pd.concat([frame.iloc[: len(frame) * 95 // 100], training.sample(len(frame) // 20, random_state=1)])
    leaks = leaks_of(spec, again.reset_index(drop=True), training)
    (check,) = (one for one in checks(spec, leaks) if one.rule == "gate.maximum_shared_rows")
    assert check.verdict is Verdict.FAILED
    assert check.value == pytest.approx(0.05)
    assert check.limit == 0.02
    assert "5.0% of the rows of 2024-02-10..2024-02-29 are in the training window too" in check.why
    lenient = spec_for(task, numeric=("x",), maximum_shared_rows=0.1)
    assert {one.verdict for one in checks(lenient, leaks)} == {Verdict.PASSED}


@pytest.mark.parametrize("values", [2, 30, 1000, 20_000])
def test_inputs_of_few_values_raise_no_alarm_in_a_hundred_windows(values: int) -> None:
    """Rows are alike by chance: nearly all of them with two values, some with a thousand."""
    spec, found = spec_for(Task.BINARY, categorical=("kind",)), []
    for seed in range(100):
        draw = np.random.default_rng(seed)
        frame, training = windows(label=draw.integers(0, 2, ROWS).astype(float), kind=draw.integers(0, values, ROWS))
        shared, chance = shared_rows(spec, frame, training)
        found.append(shared > chance + spec.gate.maximum_shared_rows)
    assert sum(found) == 0


def test_a_row_is_the_same_whatever_type_a_missing_value_forced() -> None:
    _, training = windows(label=LABELS[Task.BINARY], x=X, site=np.tile(["5", "6"], ROWS // 2))
    spec = spec_for(Task.BINARY, numeric=("x",), categorical=("site",))
    again = training.head(2000).assign(
        x=training["x"].astype("Float64"), site=training["site"].astype(float), label=training["label"].astype("Int64")
    )
    assert shared_rows(spec, again, training)[0] == 1
    assert shared_rows(spec, again.assign(label=1 - again["label"]), training)[0] == 0


def test_with_few_days_learned_from_nobody_can_say_what_chance_explains() -> None:
    frame, training = windows(label=LABELS[Task.BINARY], x=X)
    spec = spec_for(Task.BINARY, numeric=("x",))
    assert leaks_of(spec, frame, training.head(4 * A_DAY)).shared is None
    assert leaks_of(spec, frame, training.head(5 * A_DAY)).shared == 0


def test_evidence_of_before_leaks_were_looked_for_is_judged_as_it_was() -> None:
    spec = spec_for(Task.BINARY, numeric=("x",))
    assert checks(spec, Leaks()) == []


@pytest.fixture(scope="module")
def flights() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the flights of a month and of the ninety days before it, with what their plan says and their outcome."""
    rows = labels_of("2013-02-01", "2013-05-31").assign(ds=lambda year: year["known"]).reset_index(drop=True)
    departure = rows["at"].dt.tz_convert("America/New_York")
    rows = rows.assign(
        label=(rows["arr_delay"] > 15).astype(int),
        departure_minute=(60 * departure.dt.hour + departure.dt.minute).astype(float),
        departure_hour=departure.dt.strftime("%H"),
        weekday=departure.dt.day_name(),
    )
    judged = rows["ds"] >= "2013-05-02"
    return rows[judged].reset_index(drop=True), rows[~judged].reset_index(drop=True)


PLAN = ("carrier", "origin", "dest", "departure_hour", "weekday")


@pytest.mark.parametrize("categorical", [PLAN, PLAN[:2]])
def test_flights_that_are_planned_alike_raise_no_alarm(
    flights: tuple[pd.DataFrame, pd.DataFrame], categorical: tuple[str, ...]
) -> None:
    """A timetable repeats itself: half of a month's flights have been there with the same inputs and outcome."""
    spec = spec_for(Task.BINARY, ("distance", "departure_minute"), categorical)
    leaks = leaks_of(spec, *flights)
    assert leaks.shared > 0.4
    assert [check.verdict for check in checks(spec, leaks)] == [Verdict.PASSED, Verdict.PASSED]


def test_the_delay_is_a_leak_of_what_is_late_and_delays_of_the_departure_are_below_the_limit(
    flights: tuple[pd.DataFrame, pd.DataFrame],
) -> None:
    """docs/judgement.md says what the limit does not find."""
    spec = spec_for(Task.BINARY, ("distance", "dep_delay", "arr_delay"), PLAN)
    scores = {found.column: found.score for found in leaks_of(spec, *flights).inputs}
    assert [name for name, score in scores.items() if score > spec.gate.leak_threshold] == ["arr_delay"]
    assert 0.85 < scores["dep_delay"] < 0.98


def timed(spec: ModelSpec, hours: float, first: float | None = None) -> LateEvents:
    """Return the late events of rows asked so many hours after their day begins; ``first``: the very first one."""
    times = pd.to_datetime(pd.Series(DS), utc=True) + pd.Timedelta(hours=hours)
    if first is not None:
        times[0] = pd.Timestamp(str(DS[0]), tz="UTC") + pd.Timedelta(hours=first)
    leaks = leaks_of(spec, *windows(label=LABELS[Task.BINARY], x=X, event_timestamp=times))
    assert leaks.late is not None
    return leaks.late


def test_an_event_that_is_not_before_its_label_is_counted_and_the_latest_is_named() -> None:
    """A day is ingested at six of the next: a feature row of that moment may count the label."""
    spec = spec_for(Task.BINARY, numeric=("x",))
    almost = 30 - 1e-6
    assert timed(spec, almost) == LateEvents(count=0, rows=ROWS)
    assert timed(spec, 30).count == ROWS
    late = timed(spec, almost, first=54)
    assert (late.count, late.event, late.known) == (
        1,
        datetime(2024, 1, 3, 6, tzinfo=UTC),
        datetime(2024, 1, 2, 6, tzinfo=UTC),
    )
    (check,) = checks(spec, Leaks(late=LateEvents.model_validate_json(late.model_dump_json())))
    assert (check.rule, check.limit, check.rows) == ("gate.maximum_late_events", 0.0, ROWS)
    assert check.verdict is Verdict.FAILED
    assert f"1 of the {ROWS} examples of both windows are asked when their label is known already" in check.why
    assert "one of 2024-01-03T06:00Z has a label of 2024-01-02T06:00Z" in check.why
    assert "features/examples.sql" in check.why
    (passed,) = checks(spec, Leaks(late=timed(spec, almost)))
    assert (passed.verdict, passed.value) == (Verdict.PASSED, 0.0)
    (allowed,) = checks(spec_for(Task.BINARY, numeric=("x",), maximum_late_events=0.001), Leaks(late=late))
    assert allowed.verdict is Verdict.PASSED


def test_labels_that_come_days_later_are_known_days_later() -> None:
    spec = spec_for(Task.BINARY, numeric=("x",))
    examples = spec.features.examples.model_copy(update={"label_delay_days": 7})
    late = spec.model_copy(update={"features": spec.features.model_copy(update={"examples": examples})})
    assert timed(late, 30 + 7 * 24 - 1).count == 0
    assert timed(late, 30 + 7 * 24).count == ROWS
    assert timed(spec, 30 + 7 * 24 - 1).count == ROWS


def test_rows_without_a_time_and_evidence_of_before_are_not_looked_at() -> None:
    spec = spec_for(Task.BINARY, numeric=("x",))
    leaks = leaks_of(spec, *windows(label=LABELS[Task.BINARY], x=X))
    assert leaks.late is None
    assert "gate.maximum_late_events" not in {check.rule for check in checks(spec, leaks)}


def test_no_flight_is_asked_about_after_its_label_came(flights: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    """A flight in the air when its day is ingested is an example of the day after."""
    frame, training = (part.assign(ds=part["known"], event_timestamp=part["at"]) for part in flights)
    spec = load_model("flight_delay")
    assert late_events(spec, frame, training).count == 0
    by_departure = [part.assign(event_timestamp=part["at"] + pd.Timedelta(days=2)) for part in (frame, training)]
    assert late_events(spec, *by_departure).count > 0.9 * (len(frame) + len(training))
