"""The REST client against a real HTTP server that answers like Airflow, restarts and forgets tokens included."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from evergreen.contract import ConfigurationError, TemporaryError
from evergreen.local.airflow_api import AirflowApi

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
        self.bodies: list[object] = []

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
        assert (run.finished, run.partition_key) == (True, "2013-04-30")
    assert server.seen.count("POST /auth/token") == 1


def test_a_stale_dag_is_not_known(server: Server, api: AirflowApi) -> None:
    server.answers["GET /dags/toy.ingest"] = [(200, KNOWN | {"is_stale": True}), (404, {}), (200, KNOWN)]
    assert [api.dag_is_known("toy.ingest") for _ in range(3)] == [False, False, True]


def test_all_tasks_are_read_page_by_page(server: Server, api: AirflowApi) -> None:
    task = {"dag_id": "toy.ingest", "dag_run_id": "a", "state": "success", "try_number": 1}
    pages = [[{**task, "task_id": f"{page}{position}"} for position in range(2)] for page in "ab"]
    server.answers["GET /dags/~/dagRuns/~/taskInstances"] = [
        (200, {"task_instances": page, "total_entries": 4}) for page in pages
    ]
    assert [found.task_id for found in api.all_tasks()] == ["a0", "a1", "b0", "b1"]


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
