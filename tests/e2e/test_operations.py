"""What a person does to a running Evergreen, through Airflow's own API: forms, answers, kills, clears, backfills."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import yaml

from evergreen.contract import RunIdentity
from evergreen.judgement.decisions import DecisionRecord, list_decisions
from evergreen.store import get_store
from evergreen.training.registry import by_alias
from installation import Installation, installed
from isolation import inside
from person_kit import Person, until
from small_model import scaled_models

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1500)]

MODEL = "flight_delay"


def asking_models(folder: Path) -> Path:
    """The small model, which asks a person before a promotion."""
    models = scaled_models(folder)
    path = models / MODEL / "model.yaml"
    spec = yaml.safe_load(path.read_text())
    spec["approval"] = {"required": True, "timeout_hours": 1}
    path.write_text(yaml.safe_dump(spec, sort_keys=False))
    return models


@pytest.fixture(scope="module")
def admin() -> Iterator[Person]:
    """The installation's administrator; four weeks of history are in the lake, and one kill has been survived."""
    with installed(asking_models) as made:
        person = Person(made, "admin")
        for pipeline in ("ingest", "features", "monitor", "retrain", "train", "backfill", "rollback", "release"):
            person.http.patch(f"/api/v2/dags/{MODEL}.{pipeline}", json={"is_paused": False}).raise_for_status()
        assert person.trigger("backfill", "history", start="2013-01-01", end="2013-01-27").is_success
        running = person.wait("backfill", "history", "ingest", "running")
        os.kill(running["pid"], signal.SIGKILL)
        person.wait("backfill", "history", "materialize", "success", "upstream_failed")
        yield person


def test_a_killed_task_is_tried_again(admin: Person) -> None:
    tasks = admin.tasks("backfill", "history")
    assert {task["state"] for task in tasks.values()} == {"success"}, tasks
    assert tasks["ingest"]["try_number"] == 2
    assert tasks["validate"]["try_number"] == 1


def test_the_graph_of_assets_is_drawn(admin: Person) -> None:
    graph = admin.get("/ui/dependencies")
    label = {node["id"]: f"{node['type']} {node['label']}" for node in graph["nodes"]}
    arrows = {(label[edge["source_id"]], label[edge["target_id"]]) for edge in graph["edges"]}
    assert arrows == {
        (f"dag {MODEL}.ingest", f"asset {MODEL}.published"),
        (f"asset {MODEL}.published", f"dag {MODEL}.features"),
        (f"dag {MODEL}.features", f"asset {MODEL}.features"),
        (f"asset {MODEL}.features", f"dag {MODEL}.monitor"),
        (f"asset {MODEL}.features", f"dag {MODEL}.predict"),
        (f"dag {MODEL}.monitor", f"asset {MODEL}.monitored"),
        (f"asset {MODEL}.monitored", f"dag {MODEL}.retrain"),
        (f"dag {MODEL}.retrain", "trigger trigger_training"),
        ("trigger trigger_training", f"dag {MODEL}.train"),
        (f"dag {MODEL}.release", "trigger trigger_ingest"),
        ("trigger trigger_ingest", f"dag {MODEL}.ingest"),
    }


@pytest.mark.parametrize(
    ("pipeline", "conf", "said"),
    [
        ("ingest", {"partition": "yesterday"}, "param partition: 'yesterday' is not a 'date'"),
        ("train", {"partition": "2013-02-30"}, "param partition: '2013-02-30' is not a 'date'"),
        ("backfill", {}, "param start: No value passed"),
        ("release", {"source": "sales", "partition": "2013-02-12", "why": "?"}, "param source: 'sales' is not one of"),
    ],
)
def test_a_wrong_form_is_refused(admin: Person, pipeline: str, conf: dict[str, str], said: str) -> None:
    refused = admin.trigger(pipeline, "wrong", **conf)
    assert refused.status_code == 400
    assert said in refused.json()["detail"]
    assert "wrong" not in admin.runs(pipeline)


def test_a_day_without_data_ends_skipped_with_the_reason(admin: Person) -> None:
    assert admin.trigger("ingest", "nothing", partition="2014-02-01").is_success
    admin.wait("ingest", "nothing", "publish", "skipped")
    tasks = admin.tasks("ingest", "nothing")
    assert {task["state"] for task in tasks.values()} == {"skipped"}
    run = RunIdentity(dag_id=f"{MODEL}.ingest", run_id="nothing", task_id="ingest")
    manifest = json.loads((admin.made.state / "artifacts" / run.key / "result.json").read_text())
    assert (manifest["status"], "2014-02-01" in manifest["reason"]) == ("skipped", True), manifest["reason"]


def test_a_wrong_model_is_shown_and_stops_nobody_else(admin: Person) -> None:
    def errors() -> list[str]:
        found = admin.get("/api/v2/importErrors")["import_errors"]
        return [error["stack_trace"] for error in found if error["filename"] == "models.py"]

    assert errors() == []
    models = Path(admin.made.environment["EVERGREEN_MODELS_DIR"])
    before = {dag["dag_id"] for dag in admin.get("/api/v2/dags")["dags"]}
    shutil.copytree(models / MODEL, models / "twin")
    path = models / "twin/model.yaml"
    path.write_text(path.read_text().replace(f"name: {MODEL}", "name: twin").replace("metric: auc", "metric: beauty"))
    until(errors, 120, lambda: admin.get("/api/v2/importErrors"))
    assert f"{path}: gate.metric: 'beauty' is not a metric of a binary model" in errors()[0]
    assert {dag["dag_id"] for dag in admin.get("/api/v2/dags")["dags"]} == before
    shutil.rmtree(models / "twin")
    until(lambda: not errors(), 120, errors)


def test_a_backfill_cascades(admin: Person) -> None:
    body = {"dag_id": f"{MODEL}.ingest", "from_date": "2013-01-29T00:00:00Z", "to_date": "2013-02-01T00:00:00Z"}
    body |= {"run_backwards": False, "dag_run_conf": {}, "reprocess_behavior": "none", "max_active_runs": 3}
    admin.http.post("/api/v2/backfills", json=body).raise_for_status()
    days = {"2013-01-29", "2013-01-30", "2013-01-31"}

    def done(pipeline: str) -> set[str]:
        runs = admin.runs(pipeline).values()
        return {run["partition_key"] for run in runs if run["state"] == "success"} & days

    for pipeline in ("ingest", "features", "monitor", "retrain"):
        until(lambda pipeline=pipeline: done(pipeline) == days, 300, lambda pipeline=pipeline: admin.runs(pipeline))


@contextmanager
def every_process_ends(sign: str) -> Iterator[None]:
    """Fail unless what carries a sign in its command line when the block begins has ended soon after it."""
    found = [process for process in psutil.process_iter() if sign in " ".join(_command(process))]
    assert found, f"no process carries {sign}"
    yield
    _, alive = psutil.wait_procs(found, timeout=60)
    assert alive == []


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def ray_of(made: Installation) -> str:
    """Return what the command lines of Ray's own processes carry: the folder of its session."""
    sessions: list[str] = []

    def look() -> bool:
        for process in psutil.process_iter():
            command = _command(process)
            if command and command[0].endswith("raylet") and _environment(process) == str(made.state):
                sessions.extend(part for part in command if "session_" in part)
        return bool(sessions)

    until(look, 120, lambda: "Ray never started")
    return next(part for part in sessions[0].split("/") if part.startswith("session_"))


def _environment(process: psutil.Process) -> str | None:
    try:
        return process.environ().get("EVERGREEN_STATE_DIR")
    except psutil.Error:
        return None


def decision(made: Installation, training: str) -> DecisionRecord:
    with inside(made.environment):
        records = list_decisions(get_store(), MODEL)
    return next(record for record in records if record.run.run_id == training)


def ask_two(admin: Person) -> None:
    """Edit the model: from the next training on two people are asked."""
    path = Path(admin.made.environment["EVERGREEN_MODELS_DIR"]) / MODEL / "model.yaml"
    path.write_text(path.read_text().replace("approval:\n", "approval:\n  approvers: 2\n"))
    until(lambda: admin.has_task("train", "approve_again"), 120, path.read_text)


def test_a_training_is_killed_cleared_and_superseded(admin: Person) -> None:
    """The question of the older one is withdrawn; who answers it all the same is told so, and promotes nothing."""
    assert admin.trigger("train", "older", partition="2013-01-27").is_success
    admin.wait("train", "older", "train", "running")
    with every_process_ends(ray_of(admin.made)):
        admin.mark_failed("train", "older", "train")
    admin.clear("train", "older", "train")
    admin.wait("train", "older", "approve", "deferred", "failed", "upstream_failed")
    assert admin.questions() == {"older"}

    ask_two(admin)
    assert admin.trigger("train", "newer", partition="2013-01-27").is_success
    admin.wait("train", "older", "promote", "skipped")
    admin.wait("train", "older", "approve", "skipped")  # its trigger may be slower than a question that was never asked
    admin.wait("train", "newer", "approve", "deferred", "failed", "upstream_failed")
    until(lambda: admin.questions() == {"newer"}, 120, admin.questions)
    assert admin.answer("older", "Approve").status_code == 409
    admin.clear("train", "older", "approve")
    admin.wait("train", "older", "promote", "skipped")
    found = decision(admin.made, "older")
    assert (found.promoted, found.answered) == (None, None)
    assert found.superseded is not None
    assert found.superseded.why == "version 2 came from newer"
    assert "version 2 came from newer" in admin.made.run("history", MODEL).stdout


@contextmanager
def hurry(made: Installation) -> Iterator[None]:
    """Give a person seconds to answer what is asked meanwhile."""
    path = Path(made.environment["EVERGREEN_MODELS_DIR"]) / MODEL / "model.yaml"
    text = path.read_text()
    path.write_text(text.replace("timeout_hours: 1\n", "timeout_hours: 0.001\n"))
    assert path.read_text() != text
    yield
    path.write_text(text)


def answers(made: Installation) -> dict[int, tuple[str, str | None]]:
    return {question: (one.kind, one.by) for question, one in decision(made, "newer").answers.items()}


def test_a_challenger_is_rejected_forgotten_and_approved_by_two(admin: Person) -> None:
    assert Person(admin.made, "viewer").answer("newer", "Approve").status_code == 403
    second = Person(admin.made, "user")
    second.decide("newer", "Reject", "approve_again")
    admin.wait("train", "newer", "promote", "skipped")
    assert admin.answer("newer", "Approve").status_code == 409  # one no ends both questions
    assert answers(admin.made) == {2: ("rejected", "user")}
    assert decision(admin.made, "newer").promoted is None

    with hurry(admin.made):
        admin.clear("train", "newer", "approve", "approve_again")
        admin.wait("train", "newer", "promote", "skipped")
    assert ("rejected", None) in answers(admin.made).values()

    admin.clear("train", "newer", "approve", "approve_again")
    admin.decide("newer", "Approve")
    admin.decide("newer", "Approve", "approve_again")
    admin.wait("train", "newer", "promote", "success")  # refused, on record
    refused = decision(admin.made, "newer")
    assert refused.promoted is None
    assert refused.refused is not None
    assert "admin has approved twice" in str(refused.refused.why)

    admin.clear("train", "newer", "approve_again")
    second.decide("newer", "Approve", "approve_again")
    admin.wait("train", "newer", "promote", "success")
    assert answers(admin.made) == {1: ("approved", "admin"), 2: ("approved", "user")}
    found = decision(admin.made, "newer")
    assert found.partition == date(2013, 1, 27)
    assert found.promoted is not None
    assert (found.promoted.version, found.promoted.by) == ("2", "admin and user")


def roll_back(admin: Person, run: str, **form: str) -> dict[str, Any]:
    """Fill in the form; returns what the step has left."""
    assert admin.trigger("rollback", run, **{"reason": "late at night", "confirm": MODEL, **form}).is_success
    admin.wait("rollback", run, "rollback", "success", "failed")
    identity = RunIdentity(dag_id=f"{MODEL}.rollback", run_id=run, task_id="rollback")
    manifest: dict[str, Any] = json.loads((admin.made.state / "artifacts" / identity.key / "result.json").read_text())
    return manifest


@pytest.mark.parametrize(
    ("run", "form", "said"),
    [
        ("nothing-before", {}, "had no champion before version 2"),
        ("unknown", {"version": "99"}, "has no version '99'"),
        ("never-served", {"version": "1"}, "version 1 of flight_delay was never champion"),
    ],
)
def test_a_rollback_that_cannot_be_fails_once_and_says_why(
    admin: Person, run: str, form: dict[str, str], said: str
) -> None:
    failure = roll_back(admin, run, **form)["failure"]
    assert (failure["failure_class"], said in failure["message"]) == ("configuration", True), failure
    task = admin.tasks("rollback", run)["rollback"]
    assert (task["state"], task["try_number"]) == ("failed", 1)


def move_by_hand(made: Installation, version: str) -> None:
    """Move the alias as MLflow's administrator: nobody else may, but the steps that promote."""
    password = json.loads((made.state / "secrets" / "credentials.json").read_text())["mlflow_admin"]
    alias = {"name": MODEL, "alias": "champion", "version": version}
    with httpx.Client(auth=("admin", password), trust_env=False, timeout=60) as client:
        url = f"http://127.0.0.1:{made.environment['EVERGREEN_MLFLOW_PORT']}/api/2.0/mlflow/registered-models/alias"
        client.post(url, json=alias).raise_for_status()


def test_a_rollback_lets_the_champion_before_serve_again(admin: Person) -> None:
    """Somebody has moved the alias by hand, to a version that no gate let pass."""
    assert admin.trigger("rollback", "unsure", reason="?", confirm="yes").status_code == 400
    with inside(admin.made.environment):
        move_by_hand(admin.made, "1")
        facts = roll_back(admin, "back")["facts"]
        champion = by_alias(MODEL, "champion")
    assert facts == {"version": "2", "previous": "2", "by": "admin", "why": "late at night"}
    assert champion is not None
    assert champion.number == "2"
    told = admin.made.run("history", MODEL).stdout
    assert "alias out of place" in told
    assert "rollback: version 2, where the alias was put back" in told
    assert admin.made.run("audit", "verify", MODEL).stdout.startswith(f"{MODEL}: ok: ")
    assert "late at night" in told


def test_a_row_in_quarantine_that_is_right_is_released_and_published(admin: Person) -> None:
    """The wind of 1,048 miles an hour on 12 February, which nobody should release."""

    def facts(pipeline: str, run: str, step: str) -> dict[str, Any]:
        admin.wait(pipeline, run, step, "success", "failed")
        identity = RunIdentity(dag_id=f"{MODEL}.{pipeline}", run_id=run, task_id=step)
        manifest = json.loads((admin.made.state / "artifacts" / identity.key / "result.json").read_text())
        assert manifest["failure"] is None, manifest["failure"]
        found: dict[str, Any] = manifest["facts"]
        return found

    form = {"source": "weather", "partition": "2013-02-12", "why": "it was that windy"}
    assert admin.trigger("ingest", "windy", partition=form["partition"]).is_success
    before = facts("ingest", "windy", "publish")
    assert (before["quarantined"], before["released"]) == (1, 0)
    assert admin.trigger("release", "storm", **form).is_success
    released = facts("release", "storm", "release")
    assert (released["rows"], released["by"], released["stay"]) == (1, "admin", 0)
    admin.wait("release", "storm", "trigger_ingest", "success")
    after = facts("ingest", f"release__{released['event']}", "publish")
    assert (after["quarantined"], after["released"], after["rows"]) == (0, 1, before["rows"] + 1)
    assert "it was that windy" in admin.made.run("history", MODEL).stdout
