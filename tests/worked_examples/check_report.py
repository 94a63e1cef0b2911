"""The report of the worked example, as the command line prints it."""

from __future__ import annotations

from datetime import date

from typer.testing import CliRunner

from evergreen.cli import app
from evergreen.contract import Request, RunIdentity, Window
from evergreen.monitoring.proposal import DRIFT_REPORT, DriftDocument, report_key
from evergreen.settings import Settings
from evergreen.store import get_store


def test_every_drift_report_is_a_line(settings: Settings) -> None:
    assert "No reports yet" in CliRunner().invoke(app, ["drift", "flight_delay"]).output
    for day, verdict, share in ((1, "stable", 0.1), (2, "drift", 0.5), (3, "insufficient", None)):
        document = DriftDocument(report_id=f"r{day}", verdict=verdict, why="so", drifted_share=share)
        partition = date(2013, 4, day)
        run = RunIdentity(dag_id="flight_delay.monitor", run_id="r", task_id="check_drift")
        window = Window(start=partition, end=partition)
        key = report_key(Request(step="check_drift", model="flight_delay", window=window, run=run), DRIFT_REPORT)
        get_store().write(key, document.model_dump_json().encode())
    shown = CliRunner().invoke(app, ["drift", "flight_delay"])
    assert shown.exit_code == 0
    assert shown.output.splitlines() == [
        "2013-04-01\tstable\t10%\tso",
        "2013-04-02\tdrift\t50%\tso",
        "2013-04-03\tinsufficient\t-\tso",
    ]
