"""The one table of steps: what follows from it, and what it says of itself is so."""

from __future__ import annotations

from itertools import pairwise

import pytest

from evergreen.pipelines import PIPELINES, PUBLISHERS, STEPS, Step, _in_bulk, arrows, outputs_of, upstream_of
from evergreen.settings import PROJECT_ROOT


def test_every_step_is_one_module_and_every_module_one_step() -> None:
    modules = {path.stem for path in (PROJECT_ROOT / "include/evergreen/steps").glob("*.py")} - {"__init__"}
    assert modules == set(STEPS)


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_a_step_reads_only_what_ran_before_it(pipeline: str) -> None:
    names = [step.name for step in PIPELINES[pipeline]]
    assert len(names) == len(set(names))
    for position, step in enumerate(PIPELINES[pipeline]):
        assert set(upstream_of(step, pipeline)) | set(step.after) <= set(names[:position])
        assert set(step.reads) <= set(STEPS)


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_an_arrow_leads_from_all_that_a_step_reads(pipeline: str) -> None:
    before: dict[str, set[str]] = {step.name: set() for step in PIPELINES[pipeline]}
    for first, second in arrows(pipeline):
        before[second] |= {first, *before[first]}
    for step in PIPELINES[pipeline]:
        assert set(upstream_of(step, pipeline)) <= before[step.name]


def test_the_arrows_of_the_pipelines() -> None:
    names = [step.name for step in PIPELINES["train"]]
    assert arrows("train") == list(pairwise(names))  # one chain, whatever step is put into it
    training = ["assemble", "train", "evaluate", "gate", "refit", "register", "promote"]
    assert [name for name in names if name in training] == training
    assert arrows("monitor") == [("check_performance", "check_drift")]
    assert ("publish", "build_features") in arrows("backfill")


def test_a_step_in_bulk_follows_what_it_follows_each_day() -> None:
    assert _in_bulk(Step("a", after=("b",))).after == ("b",)
    assert _in_bulk(Step("a", after=("b",)), after=("c",)).after == ("c",)


def test_what_publishes_a_partition_is_a_step_or_the_end_of_all() -> None:
    for pipeline, task in PUBLISHERS.items():
        assert task in {"done", *(step.name for step in PIPELINES[pipeline])}


def test_outputs_are_named_by_the_model_s_sources_and_views() -> None:
    published = {"flights", "weather", "flights_quarantine", "weather_quarantine"}
    assert outputs_of("publish", ("flights", "weather"), ("carriers",)) == published
    assert outputs_of("build_features", ("flights",), ("carriers", "routes")) == {"examples", "carriers", "routes"}
    assert outputs_of("build_features", ("flights",), ()) == {"examples"}
    assert outputs_of("gate", ("flights",), ()) == set()


def test_a_step_takes_what_its_own_pipeline_gives_it() -> None:
    assert STEPS["ingest"].resources == "default"
    assert {step.resources for step in PIPELINES["backfill"]} == {"training"}
    assert Step("new").time_limit == STEPS["gate"].time_limit < STEPS["train"].time_limit
