"""A relation to the label that turned is found and named; other inputs, or another share of a class, are none."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from concept_kit import LABEL, World, compared, concept_spec
from drift_kit import draw, judged
from evergreen.monitoring.baseline import DriftBaseline
from evergreen.monitoring.calibration import FEWEST_DAYS, LEAST_INDEX
from evergreen.monitoring.concept import compare_concept, fitted, relation_psi
from evergreen.monitoring.learning import learn_reference
from evergreen.monitoring.proposal import ConceptDrift
from evergreen.monitoring.relations import with_concept
from evergreen.spec import Task

TASKS = pytest.mark.parametrize("task", list(Task))


def windows(seed: int, rows: int, before: World, now: World) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return a reference and a window of one population of inputs."""
    rng = np.random.default_rng(seed)
    reference, current = draw(rng, rows)
    return before.labelled(rng, reference), now.labelled(rng, current)


@TASKS
@pytest.mark.parametrize("rows", [500, 5000])
def test_a_turned_relation_is_found_in_one_window_and_named_and_an_unturned_one_is_not(task: Task, rows: int) -> None:
    spec, same = concept_spec(task), World(task, day_effect=0.2)
    reference, current = windows(rows, rows, same, World(task, turned=("normal",), day_effect=0.2))
    found = compared(reference, current, spec)
    assert (found.verdict, found.changed) == ("drift", ["normal"])
    assert found.why.startswith("1 of 5 relations to late changed: normal")
    inputs = [frame.drop(columns=LABEL) for frame in (reference, current)]
    assert judged(*inputs).verdict == "stable"
    unturned = compared(*windows(rows, rows, same, same), spec)
    assert (unturned.verdict, unturned.changed) == ("stable", [])
    assert unturned.why == "0 of 5 relations to late changed"


def test_several_turned_relations_are_named_the_one_furthest_beyond_its_limit_first() -> None:
    found = compared(*windows(1, 10_000, World(), World(turned=("5 categories", "normal", "long tail"))))
    assert found.changed[0] == "normal"
    assert set(found.changed) == {"5 categories", "normal", "long tail"}


@TASKS
@pytest.mark.parametrize("base", [-1.0, 1.0])
def test_another_share_of_a_class_moves_the_label_and_no_relation(task: Task, base: float) -> None:
    found = compared(*windows(2, 10_000, World(task), World(task, base=base)), concept_spec(task))
    assert (found.verdict, found.changed, found.label_drifted) == ("stable", [], True)
    assert found.why == "0 of 5 relations to late changed; its own values moved"
    as_before = compared(*windows(2, 10_000, World(task), World(task)), concept_spec(task))
    assert not as_before.label_drifted


@TASKS
def test_other_inputs_are_no_other_relation(task: Task) -> None:
    """What follows from an input in the label is so still, of other rows."""
    rng, world = np.random.default_rng(3), World(task)
    reference, current = draw(rng, 10_000)
    moved = current.assign(
        normal=current["normal"] + 1,
        **{"5 categories": current["5 categories"].where(rng.random(len(current)) < 0.5, "level 4")},
    )
    frames = world.labelled(rng, reference), world.labelled(rng, moved)
    assert compared(*frames, concept_spec(task)).changed == []
    assert {"normal", "5 categories"} <= set(judged(reference, moved).drifted)


def test_a_rare_class_that_turns_is_found() -> None:
    """One row in a hundred: what there is to explain of such a label is little, and so is the limit."""
    rare = World(rare=3.5)
    reference, current = windows(4, 30_000, rare, World(rare=3.5, turned=("normal",)))
    assert 0.005 < reference[LABEL].mean() < 0.02
    found = compared(reference, current)
    assert found.changed == ["normal"]
    assert found.columns["normal"].indices["relation"].limit < LEAST_INDEX / 2
    assert compared(*windows(4, 30_000, rare, World(rare=3.5, base=1.0))).changed == []


def test_days_that_differ_in_a_relation_raise_its_limit() -> None:
    """Where an effect has another size each day, one more such day proves nothing."""
    rng = np.random.default_rng(5)
    reference, current = (World().labelled(rng, frame) for frame in draw(rng, 20_000))
    day = reference["ds"].astype("category").cat.codes
    sign = np.where(rng.random(day.max() + 1) < 0.5, -1, 1)[day]
    turned = World().labelled(rng, reference.assign(normal=reference["normal"] * sign))
    unsteady = turned.assign(normal=reference["normal"])
    limits = [compared(frame, current).columns["normal"].indices["relation"].limit for frame in (reference, unsteady)]
    assert limits[1] > 2 * limits[0]


def test_few_rows_on_either_side_and_few_days_get_no_verdict() -> None:
    turned = World(turned=("normal",))
    reference, current = windows(6, 2000, World(), turned)
    few = compared(reference, current.head(499))
    assert (few.verdict, few.changed, few.columns) == ("insufficient", [], {})
    assert few.why == f"{len(reference)} reference and 499 current labelled rows: 500 of each are needed"
    assert compared(reference.tail(499), current).verdict == "insufficient"
    for nothing in (compared(reference, current.head(0)), compared(reference.head(0), current)):
        assert nothing.verdict == "insufficient"
    assert compared(reference, current.head(600)).verdict == "drift"
    days = sorted(reference["ds"].unique())
    short = compared(reference[reference["ds"].isin(days[: FEWEST_DAYS - 1])], current)
    assert (short.verdict, short.changed) == ("insufficient", [])
    assert "the reference has 9 days" in short.why
    assert compared(reference[reference["ds"].isin(days[:FEWEST_DAYS])], current).verdict == "drift"


def test_a_column_that_went_silent_or_never_varied_has_no_relation_to_judge() -> None:
    reference, current = windows(7, 5000, World(), World())
    silent = compared(reference, current.assign(normal=np.nan))
    assert silent.columns["normal"].note == "fewer than 500 values"
    assert silent.why == "0 of 4 relations to late changed; normal not judged: fewer than 500 values"
    constant = compared(reference.assign(normal=1.0), current)
    assert constant.columns["normal"].note == "no two values that are frequent enough"
    assert constant.changed == []


def test_an_id_is_named_and_a_column_that_is_monitored_no_more_is_not() -> None:
    reference, current = windows(7, 2000, World(), World())
    ids = [frame.assign(**{"5 categories": [f"{side}{row}" for row in range(len(frame))]}) for side, frame in
           (("a", reference), ("b", current))]  # fmt: skip
    found = compared(*ids)
    assert found.why == (
        "0 of 4 relations to late changed; 5 categories not judged: almost every row has its own value, like an id"
    )
    spec, fewer = concept_spec(), concept_spec(columns=("long tail", "normal"))
    learned = with_concept(spec, learn_reference(spec, reference), reference)
    found = compare_concept(fewer, learned, current.drop(columns="5 categories"))
    assert set(found.columns) == {"long tail", "normal", LABEL}


def test_a_label_that_names_rows_has_no_verdict() -> None:
    reference, current = windows(7, 1000, World(Task.MULTICLASS), World(Task.MULTICLASS))
    ids = [frame.assign(**{LABEL: [f"class {row}" for row in range(len(frame))]}) for frame in (reference, current)]
    found = compared(*ids, concept_spec(Task.MULTICLASS))
    assert (found.verdict, found.why) == ("insufficient", "almost every row of the reference has its own label")


def mostly_zero(zeros: float, now: World) -> ConceptDrift:
    """Return what is found of labels that are zero in so large a share of the rows, as claims and sales are."""
    frames = [
        frame.assign(**{LABEL: (frame[LABEL] - frame[LABEL].quantile(zeros)).clip(lower=0)})
        for frame in windows(7, 5000, World(Task.REGRESSION), now)
    ]
    return compared(frames[0], frames[1], concept_spec(Task.REGRESSION))


@pytest.mark.parametrize("zeros", [0.86, 0.975])
def test_a_label_that_is_mostly_zero_is_compared_as_zero_and_more(zeros: float) -> None:
    turned = mostly_zero(zeros, World(Task.REGRESSION, turned=("normal",)))
    assert (turned.verdict, turned.changed) == ("drift", ["normal"])
    same = mostly_zero(zeros, World(Task.REGRESSION))
    assert (same.verdict, same.why) == ("stable", "0 of 5 relations to late changed")


def test_what_is_not_zero_must_be_frequent_enough() -> None:
    found = mostly_zero(0.985, World(Task.REGRESSION, turned=("normal",)))
    assert (found.verdict, found.changed) == ("insufficient", [])
    assert found.why.endswith("5 categories not judged: no two labels that are frequent enough")


@TASKS
@pytest.mark.parametrize("nothing", [False, True], ids=["one value", "missing"])
def test_a_label_that_is_always_the_same_has_no_relations(task: Task, nothing: bool) -> None:
    spec, world = concept_spec(task), World(task)
    reference, current = windows(7, 2000, world, world)
    value = None if nothing else reference[LABEL].iloc[0] if task is Task.MULTICLASS else 0.0
    constant, constant_now = (frame.assign(**{LABEL: value}) for frame in (reference, current))
    learned = with_concept(spec, learn_reference(spec, constant), constant)
    stored = DriftBaseline.parse(learned.model_dump_json())
    for now in (current, constant_now):
        found = compare_concept(spec, stored, now)
        assert (found.verdict, found.changed) == ("insufficient", [])
        assert found.why.startswith("no relation to late can be judged")
        assert found.why.endswith("5 categories not judged: no two labels that are frequent enough")
        assert found.label_drifted is (now is current)
    since = compared(reference, constant_now, spec)
    assert (since.verdict, since.changed) == ("insufficient", [])
    assert since.why.endswith("fewer than 500 values" if nothing else "no two labels in the window")


def test_a_column_whose_rows_have_one_label_is_not_judged() -> None:
    """Where each late flight lacks a value, and few do, the rows with one tell nothing of late flights."""
    reference, current = windows(4, 10_000, World(rare=4), World(rare=4))
    silent = [frame.assign(normal=frame["normal"].mask(frame[LABEL] == 1)) for frame in (reference, current)]
    assert 0 < reference[LABEL].mean() < 0.02
    found = compared(*silent)
    assert (found.verdict, found.changed) == ("stable", [])
    assert found.why == ("0 of 4 relations to late changed; normal not judged: no two labels that are frequent enough")


def test_where_no_relation_can_be_judged_there_is_no_verdict() -> None:
    reference, current = windows(7, 2000, World(), World(turned=("normal",)))
    nothing = dict.fromkeys(concept_spec().drift.columns, None)
    before, now = reference.assign(**nothing), current.assign(**nothing)
    for found, note in (
        (compared(reference, now), "fewer than 500 values; a tenth missing not judged: no two values in the window"),
        (compared(before, current), "no two values that are frequent enough"),
    ):
        assert (found.verdict, found.changed, found.label_drifted) == ("insufficient", [], False)
        assert found.why.startswith("no relation to late can be judged; ")
        assert found.why.endswith(f"5 categories not judged: {note}")
    assert compared(reference, current.assign(**{**nothing, "normal": current["normal"]})).verdict == "drift"


def test_a_value_that_the_reference_does_not_have_says_nothing_of_a_relation() -> None:
    rng = np.random.default_rng(8)
    reference, current = windows(8, 5000, World(), World())
    new = current["5 categories"].astype(object).where(rng.random(len(current)) < 0.7, "new")
    told = current[LABEL].where(new != "new", 1.0)
    found = compared(reference, current.assign(**{"5 categories": new, LABEL: told}))
    assert "5 categories" not in found.changed


def test_a_label_of_whole_numbers_booleans_or_floats_is_one_label() -> None:
    reference, current = windows(9, 2000, World(), World())
    indices = [
        compared(reference.astype({LABEL: before}), current.astype({LABEL: now})).columns[LABEL].indices["values"].value
        for before, now in (("float64", "float64"), ("bool", "int64"), ("int64", "bool"))
    ]
    assert indices[0] == indices[1] == indices[2] < 0.02


def test_nothing_but_counts_is_kept_of_the_rows() -> None:
    """However many rows there were, the document has as many numbers, and each row is counted once a column."""
    spec, rng = concept_spec(), np.random.default_rng(10)

    def baseline(rows: int) -> DriftBaseline:
        reference, _ = draw(rng, rows)
        frame = World().labelled(rng, reference)
        return with_concept(spec, learn_reference(spec, frame), frame)

    small, large = baseline(1000), baseline(10_000)
    numbers = [
        sum(len(day) for relation in of.concept.relations.values() for day in relation.counts)
        for of in (small, large)
        if of.concept is not None
    ]
    assert numbers[0] == numbers[1]
    assert large.concept is not None
    for name, relation in large.concept.relations.items():
        by_day = [sum(day) for day in relation.counts]
        assert by_day == [sum(day) for day in large.columns[name].counts]
        assert sum(by_day) == large.rows
    assert DriftBaseline.parse(large.model_dump_json()) == large
    assert "concept" in json.loads(large.model_dump_json())


def test_fitting_keeps_the_odds_ratios_and_takes_the_margins() -> None:
    rng = np.random.default_rng(11)
    tables, current = rng.uniform(1, 50, (20, 6, 3)), rng.uniform(0, 50, (20, 6, 3))
    current[:, 2, :] = 0  # a value that is not there now
    found = fitted(tables, current)
    for axis in (-1, -2):
        assert np.allclose(found.sum(axis=axis), current.sum(axis=axis), rtol=1e-4, atol=1e-3)

    def odds(table: np.ndarray) -> np.ndarray:
        kept = np.delete(table, 2, axis=-2)
        ratios: np.ndarray = kept[:, 1:, 1:] * kept[:, :1, :1] / (kept[:, 1:, :1] * kept[:, :1, 1:])
        return ratios

    assert np.allclose(odds(found), odds(tables))


def test_the_index_is_none_of_the_margins() -> None:
    """Rows and columns may be multiplied with anything: only the association is compared."""
    rng = np.random.default_rng(12)
    table = rng.uniform(500, 5000, (8, 3))
    scaled = table * rng.uniform(0.2, 5, (8, 1)) * rng.uniform(0.2, 5, (1, 3))
    turned = table[::-1]

    def index(current: np.ndarray) -> float:
        pairs = [np.append(counts.ravel(), 77.0) for counts in (table, current)]
        return float(relation_psi(3)(pairs[0], pairs[1]))

    assert index(table) < 1e-6
    assert index(scaled) < 1e-3
    assert index(turned) > 0.1
