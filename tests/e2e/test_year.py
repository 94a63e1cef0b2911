"""A whole year of flights: the real steps decide as the replay of policies says, and the policy is worth its effort."""

from __future__ import annotations

import re
from typing import Any

import pytest

from benchmarks import policy
from evergreen.contract import Manifest, Status
from evergreen.judgement.audit import read_events
from evergreen.judgement.events import EventKind
from evergreen.settings import PROJECT_ROOT
from evergreen.store import get_store
from evergreen_airflow.replay.summary import Row, Summary
from installation import Installation, installed
from isolation import inside

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(3600)]

MODEL, THROUGH = "flight_delay", "2013-12"
MONTHS = 9


@pytest.fixture(scope="module", name="year")
def replayed_year() -> Any:
    """An installation in which the year was replayed, step by step, in one process."""
    with installed() as installation:
        installation.run("loop", "--in-process", f"--through={THROUGH}", timeout=2400)
        yield installation


def rows_of(installation: Installation) -> tuple[Row, ...]:
    return Summary.model_validate_json((installation.state / "loop" / "summary.json").read_text()).rows


def table_of(page: str) -> dict[str, tuple[float | None, str]]:
    """Return the champion's metric and the decision of each period, as a table of a page has them."""
    found = re.findall(r"^(history|2013-\d\d) +\S+ +\d+ +\S+ +(\S+) .* {2}(\w[\w ]+)$", page, re.MULTILINE)
    return {period: (None if metric == "-" else float(metric), decision) for period, metric, decision in found}


def test_the_year_is_decided_as_the_first_page_shows_it(year: Installation) -> None:
    shown = table_of((PROJECT_ROOT / "README.md").read_text())
    assert len(shown) == MONTHS + 1
    for row in rows_of(year):
        metric, decision = shown[row.period]
        assert (row.decision.replace("_", " "), row.champion) == (decision, pytest.approx(metric, abs=0.01)), row.period


def test_the_audit_log_says_the_same_and_holds_no_other_promotion(year: Installation) -> None:
    promoted = [row for row in rows_of(year) if row.decision in {"first_champion", "promote"}]
    with inside(year.environment):
        events = read_events(get_store(), MODEL)
    moves = [event for event in events if event.kind is EventKind.PROMOTED]
    assert [event.partition for event in moves] == [row.window.end for row in promoted]
    decided = [event for event in events if event.kind is EventKind.DECIDED]
    assert len(decided) == sum(row.challenger is not None for row in rows_of(year))


def test_the_policy_is_worth_its_effort(year: Installation) -> None:
    figures = policy.measure_in(year, MODEL, THROUGH, seeds=1)
    assert policy.aims_missed(figures) == []
    by_name = figures["policies"]
    served = [row.champion for row in rows_of(year)[1:] if row.champion is not None]
    assert len(served) == MONTHS
    assert sum(served) / MONTHS >= max(by_name["always"]["mean"], by_name["never"]["mean"])
    with inside(year.environment):
        trainings = trainings_done()
    # the first, and one a month: the last month's serves nobody, and is trained all the same
    assert trainings <= policy.MOST_TRAININGS * (1 + MONTHS)


def trainings_done() -> int:
    """Return how many networks the steps have trained."""
    store = get_store()
    keys = [key for key in store.keys("runs/") if key.endswith(("/train/result.json", "/refit/result.json"))]
    found = [Manifest.model_validate_json(store.read(key) or b"") for key in keys]
    return sum(manifest.status is Status.OK and "model" in {one.name for one in manifest.outputs} for manifest in found)
