"""What the loop prints, as it goes on and at its end, can be read on a small terminal."""

from __future__ import annotations

import io
from datetime import date

import pytest
from rich.console import Console

from evergreen.contract import Window
from evergreen_airflow.replay.loop import _Progress, _tables
from evergreen_airflow.replay.summary import PeriodRuns, Row, Summary
from evergreen_airflow.replay.traffic import Traffic

WHY = (
    "improvement of auc -0.0021 (95% interval -0.0071 to +0.0032): not better by more than 0 beyond noise; "
    "origin=LGA: auc worse by 0.0311 (8211 rows), more than the allowed 0.02"
)


def a_row(period: str, decision: str, why: str, **fields: object) -> Row:
    day = Window(start=date(2013, 4, 1), end=date(2013, 4, 30))
    counts = {"rows_in": 78_731, "quarantined": 1}
    return Row(period=period, window=day, decision=decision, why=why, runs=PeriodRuns(), **counts, **fields)


SUMMARY = Summary(
    model="flight_delay",
    metric="auc",
    history=Window(start=date(2013, 1, 1), end=date(2013, 3, 31)),
    rows=(
        a_row("history", "first_champion", "there is no champion yet", challenger=0.7),
        a_row(
            "2013-04-07",
            "not_justified",
            WHY,
            drifted_share=0.55,
            champion=0.7012,
            challenger=0.6991,
            improvement_low=-0.0071,
            improvement_high=0.0032,
        ),
    ),
)


@pytest.mark.parametrize("width", [80, 120])
def test_every_number_is_whole_and_every_reason_is_there(width: int) -> None:
    out = Console(file=io.StringIO(), width=width)
    out.print(*_tables(SUMMARY), sep="\n")
    text = out.file.getvalue()
    lines = text.splitlines()
    assert max(len(line) for line in lines) <= width
    (numbers,) = [line for line in lines if line.startswith("2013-04-07") and "78,731" in line]
    for cell in ("78,731", "1", "55%", "0.7012", "0.6991", "-0.007..+0.003", "not"):
        assert cell in numbers.split()
    assert "…" not in text
    words = " ".join(text.split())
    assert WHY in words
    assert len([line for line in lines if "improvement of auc" in line and "interval" in line]) == 1  # no narrow column


def test_what_the_server_was_asked_has_a_table_of_its_own() -> None:
    first, last = SUMMARY.rows
    counts = {"statuses": {"200": 1000, "503": 565}, "variants": {"champion": 750, "challenger": 250}}
    asked = Traffic(requests=1565, p99_ms=10.04, decision="canary: 2", **counts)
    out = Console(file=io.StringIO(), width=80)
    out.print(*_tables(SUMMARY.model_copy(update={"rows": (first, last.model_copy(update={"traffic": asked}))})))
    cells = out.file.getvalue().splitlines()[-1].split()
    assert cells == [
        "2013-04-07",
        "1,565",
        "(565",
        "refused)",
        "10.0",
        "challenger",
        "25%,",
        "champion",
        "75%",
        "canary:",
        "2",
    ]
    assert len(list(_tables(SUMMARY))) == 2  # nothing was asked: no table


@pytest.mark.parametrize(("longest", "passed", "said"), [(60, 200, 1), (60, 90, 0), (0, 9000, 0)])
def test_a_period_that_takes_longer_than_those_before_says_what_it_waits_for(
    longest: float, passed: float, said: int
) -> None:
    out = Console(file=io.StringIO(), width=120)
    with out.status("") as status:
        progress = _Progress(out, status)
        progress.longest = longest
        with progress.of("2013-05"):
            progress.begin -= passed
            progress.show("toy.train: train (up_for_retry)")
            progress.show("toy.train: train (up_for_retry)")  # not again until it has taken twice as long
    lines = [line for line in out.file.getvalue().splitlines() if "slow 2013-05" in line]
    assert len(lines) == said
    assert all("the longest before took 60 s; waiting for toy.train: train (up_for_retry)" in line for line in lines)
    assert progress.longest >= passed
