"""The REST client, and the driver upon it, against a real HTTP server that answers like Airflow, restarts and all."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from datetime import date
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from evergreen.contract import (
    ConfigurationError,
    DataError,
    Failure,
    FailureClass,
    Manifest,
    RunIdentity,
    Status,
    TemporaryError,
    Window,
    utc_now,
)
from evergreen.settings import Settings
from evergreen.store import get_store, write_manifest
from evergreen_airflow import airflow_settings
from evergreen_airflow.replay.drivers import AirflowDriver
from evergreen_airflow.rest_api import AirflowApi

RUN = {
    "dag_id": "toy.ingest",
    "dag_run_id": "loop__2013-04-30",
    "state": "success",
    "run_after": "2026-01-01T00:00:00Z",
    "conf": {},
    "partition_key": "2013-04-30",
}
KNOWN = {"dag_id": "toy.ingest", "is_stale": False}


class Server(ThreadingHTTPServer):
    """Answers from a script, path by path; what is not scripted is a 404."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: dict[str, list[tuple[int, object]]] = {"POST /auth/token": [(201, {"access_token": "good"})]}
        self.seen: list[str] = []
        self.bodies: list[Any] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    """Takes the next answer; the last one stays."""

    server: Server

    def _answer(self) -> None:
        name = f"{self.command} {self.path.partition('?')[0].removeprefix('/api/v2')}"
        length = int(self.headers.get("content-length") or 0)
        body = self.rfile.read(length)
        self.server.bodies.append(json.loads(body) if body else None)
        self.server.seen.append(name)
        answers = self.server.answers.get(name, [(404, {"detail": "no"})])
        status, content = answers.pop(0) if len(answers) > 1 else answers[0]
        payload = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

    do_GET = do_POST = do_PATCH = _answer

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[Server]:
    served = Server()
    thread = threading.Thread(target=served.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield served
    served.shutdown()
    served.server_close()


@pytest.fixture
def api(server: Server) -> AirflowApi:
    return AirflowApi(server.url, "admin", "secret", patience=5)


def test_it_logs_in_once_and_reads_a_run(server: Server, api: AirflowApi) -> None:
    server.answers["GET /dags/toy.ingest/dagRuns/loop__2013-04-30"] = [(200, RUN)]
    for _ in range(2):
        run = api.find_run("toy.ingest", "loop__2013-04-30")
        assert run is not None
        assert (run.state, run.partition_key) == ("success", "2013-04-30")
    assert server.seen.count("POST /auth/token") == 1


def test_a_stale_dag_is_not_known(server: Server, api: AirflowApi) -> None:
    server.answers["GET /dags/toy.ingest"] = [(200, KNOWN | {"is_stale": True}), (404, {}), (200, KNOWN)]
    assert [api.dag_is_known("toy.ingest") for _ in range(3)] == [False, False, True]


def test_a_run_that_is_not_there_is_none(api: AirflowApi) -> None:
    assert api.find_run("toy.ingest", "nothing") is None


def test_it_rides_out_a_restart(server: Server, api: AirflowApi) -> None:
    server.answers["GET /dags/toy.ingest"] = [(503, {}), (500, {}), (200, KNOWN)]
    assert api.dag_is_known("toy.ingest")


def test_it_logs_in_again_when_its_token_is_no_longer_good(server: Server, api: AirflowApi) -> None:
    server.answers["GET /dags/toy.ingest"] = [(401, {}), (200, KNOWN)]
    assert api.dag_is_known("toy.ingest")
    assert server.seen.count("POST /auth/token") == 2


def test_a_server_that_stays_away_is_a_temporary_failure(server: Server) -> None:
    url = server.url
    server.shutdown()
    server.server_close()
    with pytest.raises(TemporaryError, match="evergreen up"):
        AirflowApi(url, "admin", "secret", patience=0.2).dag_is_known("toy.ingest")


def test_a_wrong_password_is_said_at_once(server: Server, api: AirflowApi) -> None:
    server.answers["POST /auth/token"] = [(401, {"detail": "no"})]
    with pytest.raises(ConfigurationError, match="refuses the password of 'admin'"):
        api.dag_is_known("toy.ingest")


@pytest.mark.parametrize(
    ("status", "content", "said"),
    [
        (404, {"detail": "Not Found"}, r"refused POST /auth/token \(404\)"),
        (308, "https://airflow.example.com", r"refused POST /auth/token \(308\)"),
        (200, {"token": "of something else"}, "is no Airflow"),
        (200, "hello", "is no Airflow"),
    ],
)
def test_a_server_that_is_no_airflow_is_said_at_once(
    server: Server, api: AirflowApi, status: int, content: object, said: str
) -> None:
    """Another port, an ingress that leads to https, an auth manager without tokens."""
    server.answers["POST /auth/token"] = [(status, content)]
    with pytest.raises(ConfigurationError, match=said):
        api.dag_is_known("toy.ingest")


def test_a_refused_request_says_what_airflow_said(server: Server, api: AirflowApi) -> None:
    server.answers["POST /dags/toy.ingest/dagRuns"] = [(400, {"detail": "'yesterday' is not a 'date'"})]
    with pytest.raises(ConfigurationError, match="is not a 'date'"):
        api.start_run("toy.ingest", "x", {"partition": "yesterday"})


def test_starting_a_run_that_exists_returns_it(server: Server, api: AirflowApi) -> None:
    server.answers["POST /dags/toy.ingest/dagRuns"] = [(409, {"detail": "exists"})]
    server.answers["GET /dags/toy.ingest/dagRuns/loop__2013-04-30"] = [(200, RUN)]
    run = api.start_run("toy.ingest", "loop__2013-04-30", partition_key="2013-04-30")
    assert run.state == "success"
    body = server.bodies[server.seen.index("POST /dags/toy.ingest/dagRuns")]
    assert body == {
        "dag_run_id": "loop__2013-04-30",
        "logical_date": None,
        "conf": {},
        "partition_key": "2013-04-30",
    }


def test_import_errors_are_shown_by_their_last_line(server: Server, api: AirflowApi) -> None:
    error = {"filename": "ingestion.py", "stack_trace": "Traceback:\n  ...\nValueError: bad\n"}
    server.answers["GET /importErrors"] = [(200, {"import_errors": [error]})]
    assert api.import_errors() == ["ingestion.py: ValueError: bad"]


def test_what_is_declared_is_overwritten_and_what_is_refused_is_said(server: Server, api: AirflowApi) -> None:
    settings = airflow_settings.read()
    refused = {"create": {"errors": [{"error": "no"}]}}
    server.answers |= {f"PATCH /{kind}": [(200, {"create": {"errors": []}})] for kind in ("connections", "pools")}
    airflow_settings.load(api, settings)
    (action,) = server.bodies[server.seen.index("PATCH /pools")]["actions"]
    assert action["action_on_existence"] == "overwrite"
    assert [pool["name"] for pool in action["entities"]] == ["training"]
    for answer in ((200, refused), (403, {"detail": "no"})):
        server.answers["PATCH /pools"] = [answer]
        with pytest.raises(ConfigurationError, match=r"airflow_settings\.yaml: pools: Airflow refuses them"):
            airflow_settings.load(api, settings)


BACKFILL = {**RUN, "dag_id": "toy.backfill", "dag_run_id": "loop__history", "partition_key": None}
BACKFILL["conf"] = {"start": "2013-04-30", "end": "2013-04-30"}
RUNS = "/dags/toy.backfill/dagRuns"
CLEAR = f"POST {RUNS}/loop__history/clear"
HISTORY = Window(start=date(2013, 4, 30), end=date(2013, 4, 30))


def backfill(server: Server, *states: str, failure: FailureClass = FailureClass.TEMPORARY, begun: str = "") -> None:
    """Drive a run that is in these states, one after another; its task left a failure of that class."""
    run = RunIdentity(dag_id="toy.backfill", run_id="loop__history", task_id="ingest")
    now = utc_now()
    manifest = Manifest(
        step="ingest",
        model="toy",
        window=HISTORY,
        run=run,
        attempt="1",
        status=Status.FAILED,
        failure=Failure(failure_class=failure, message="something went wrong", hint=""),
        code_version="1",
        config_digest="2",
        started=now,
        finished=now,
    )
    write_manifest(get_store(), manifest)
    task = {"dag_id": run.dag_id, "dag_run_id": run.run_id, "task_id": "ingest", "state": "failed", "try_number": 3}
    found = [(200, {**BACKFILL, "state": state}) for state in states]
    server.answers |= {
        "GET /dags/toy.backfill": [(200, KNOWN)],
        f"POST {RUNS}": [(409, {"detail": "exists"})] if begun else [(200, {**BACKFILL, "state": "queued"})],
        f"GET {RUNS}/loop__history": [(200, {**BACKFILL, "state": begun}), *found] if begun else found,
        f"GET {RUNS}/loop__history/taskInstances": [(200, {"task_instances": [task]})],
        CLEAR: [(200, {})],
    }
    driver = AirflowDriver(AirflowApi(server.url, "admin", "pw", patience=5), "toy", lambda _: None)
    assert driver.backfill("loop__history", HISTORY).backfill == "loop__history"


def test_a_run_that_failed_for_a_temporary_cause_has_one_more_go(server: Server, settings: Settings) -> None:
    backfill(server, "running", "failed", "queued", "success")
    assert server.seen.count(CLEAR) == 1


def test_a_run_that_fails_again_ends_the_loop(server: Server, settings: Settings) -> None:
    with pytest.raises(TemporaryError, match="something went wrong"):
        backfill(server, "failed", "running", "failed")
    assert server.seen.count(CLEAR) == 1


def test_a_failure_that_no_retry_cures_ends_the_loop_at_once(server: Server, settings: Settings) -> None:
    with pytest.raises(DataError, match="something went wrong"):
        backfill(server, "failed", "success", failure=FailureClass.DATA)
    assert CLEAR not in server.seen


@pytest.mark.parametrize(("begun", "cleared"), [("running", 0), ("failed", 1), ("success", 0)])
def test_a_run_that_is_there_is_taken_up(server: Server, settings: Settings, begun: str, cleared: int) -> None:
    backfill(server, "running", "success", begun=begun)
    assert server.seen.count(f"POST {RUNS}") == 1
    assert server.seen.count(CLEAR) == cleared
