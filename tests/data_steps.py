"""Runs the data steps of flight_delay one after another, as Airflow would, without Airflow."""

from __future__ import annotations

from datetime import date

from evergreen.contract import Manifest, RunIdentity, Status, Window
from evergreen.pipelines import STEPS
from evergreen.runner import build_request, execute

MODEL = "flight_delay"
UPSTREAM = {"publish": {name: name for name in STEPS["publish"].reads}}
"""What a step cannot do without; the others take what is current where they are given no manifest."""
DATA = ("ingest", "validate", "publish", "build_features", "materialize")


def run(step: str, window: Window, upstream: dict[str, str] | None = None) -> Manifest:
    """Run one step as Airflow would, without Airflow; publish is always given what it cannot do without."""
    identity = RunIdentity(dag_id="test", run_id=str(window), task_id=step)
    upstream = upstream or UPSTREAM.get(step, {})
    return execute(build_request(step, MODEL, window, identity, upstream, {}))


def run_all(window: Window) -> dict[str, Manifest]:
    """Run the data steps one after another; all of them must end well."""
    manifests: dict[str, Manifest] = {}
    for step in DATA:
        manifests[step] = run(step, window, {name: name for name in STEPS[step].reads})
        assert manifests[step].status is Status.OK, manifests[step]
    return manifests


def day(text: str) -> Window:
    """Return the window of one day."""
    return Window(start=date.fromisoformat(text), end=date.fromisoformat(text))
