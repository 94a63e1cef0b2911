"""Where nothing can be asked of a server, a loop ends well and says why."""

from __future__ import annotations

from datetime import date

import pytest

from evergreen.catalog import load_model
from evergreen.contract import Window
from evergreen_airflow.replay import loop, traffic
from evergreen_airflow.replay.plan import PeriodLength, make_plan
from evergreen_airflow.replay.summary import PeriodRuns, Row, Summary

WINDOW = Window(start=date(2013, 4, 1), end=date(2013, 4, 30))


@pytest.mark.parametrize(
    ("enabled", "why"),
    [(True, "does not answer (ConnectError); see `evergreen status`"), (False, "serving.enabled is false")],
)
def test_why_nothing_was_asked_is_said(monkeypatch: pytest.MonkeyPatch, enabled: bool, why: str) -> None:
    monkeypatch.setattr(traffic, "READY_SECONDS", 0.1)
    spec = load_model("flight_delay")
    spec = spec.model_copy(update={"serving": spec.serving.model_copy(update={"enabled": enabled})})
    seen = traffic.send(spec, WINDOW, "http://127.0.0.1:1", None, "loop", lambda _: None)
    assert seen.requests == 0
    assert seen.decision.startswith("not served: ")
    assert why in seen.decision


@pytest.mark.parametrize("text", ["", '{"model": "flight_delay", "rows": [', "[]"])
def test_half_a_summary_of_an_interrupted_loop_is_none(monkeypatch: pytest.MonkeyPatch, tmp_path, text: str) -> None:
    (tmp_path / "summary.json").write_text(text)
    monkeypatch.setattr(loop, "_summary_file", lambda: tmp_path / "summary.json")
    plan = make_plan(load_model("flight_delay"), WINDOW.end, None, None, PeriodLength.MONTH)
    assert loop._earlier_traffic(plan) == {}


def test_what_was_answered_before_is_not_asked_again_and_what_was_refused_is(monkeypatch, tmp_path) -> None:
    def summary_of(traffic_: traffic.Traffic) -> Summary:
        row = Row(period="2013-04", window=WINDOW, rows_in=1, quarantined=0, decision="-", why="", runs=PeriodRuns())
        rows = (row.model_copy(update={"traffic": traffic_}),)
        return Summary(model="flight_delay", metric="auc", history=WINDOW, rows=rows)

    file = tmp_path / "summary.json"
    monkeypatch.setattr(loop, "_summary_file", lambda: file)
    plan = make_plan(load_model("flight_delay"), date(2013, 6, 30), None, None, PeriodLength.MONTH)
    answered = traffic.Traffic(requests=2, statuses={"200": 2}, variants={"champion": 2})
    file.write_text(summary_of(answered).model_dump_json())
    assert loop._earlier_traffic(plan) == {"2013-04": answered}
    file.write_text(summary_of(traffic.Traffic(requests=2, statuses={"422": 2})).model_dump_json())
    assert loop._earlier_traffic(plan) == {}
