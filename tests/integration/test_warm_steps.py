"""Steps as forks of the warm service: the same steps, and nothing left of them whoever is killed."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil
import pytest
from airflow.providers.cncf.kubernetes.pod_generator import PodGenerator
from airflow.sdk.exceptions import AirflowException
from airflow.sdk.log import mask_secret

from evergreen.contract import Manifest
from evergreen.settings import Settings, user_settings
from evergreen_airflow.kubelet import as_process, guardian
from evergreen_airflow.kubelet.warm_client import ForkRequest, NotWarmError, connect
from evergreen_airflow.operator import StepOperator
from evergreen_laptop.credentials import read_credentials
from evergreen_laptop.processes import child_of
from evergreen_laptop.services import build_services
from evergreen_laptop.step_settings import step_environment
from operator_kit import BOUNDS, DAEMON, STAY, Kit, Lines, task_context
from process_kit import alive, eventually, pids

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(sys.platform != "linux", reason="elsewhere every step is a process of its own"),
]

READER = """
import json, os, subprocess, sys, tempfile, time
from pathlib import Path

here = Path({folder!r})
parent = Path(f"/proc/{{os.getppid()}}/cmdline").read_text()

def read(day):
    import pandas as pd
    things = pd.DataFrame({{"id": [1, 2, 3]}})
{body}
"""
LIGHT = """
from pathlib import Path
from sys import argv

from evergreen_airflow.kubelet import warm_server

warm_server.warm_up, warm_server.CODE = int, (Path(argv[1]).parent,)
warm_server.main()
"""


class Warm:
    """A warm service under a guardian, as the supervisor starts it."""

    def __init__(self, folder: Path, *program: str, **environment: str) -> None:
        self.socket = folder / "warm.sock"
        self.log = folder / "service.log"
        variables = step_environment(os.environ, environment, folder)
        serve = [sys.executable, *program, str(self.socket)]
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-I", "-S", guardian.__file__, "--grace=5", "--", *serve],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=variables,
                cwd=folder,
                start_new_session=True,
            )
        assert eventually(self.answers, 400), self.log.read_text()

    @property
    def pid(self) -> int:
        """The service itself."""
        found = child_of(self.process.pid)
        assert found is not None
        return found

    def answers(self) -> bool:
        """Return whether it takes steps; fails if it has ended."""
        assert self.process.poll() is None, self.log.read_text()
        try:
            connect(self.socket).close()
        except NotWarmError:
            return False
        return True

    def stop(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(60)

    def serve(self, state_dir: Path) -> None:
        """Be the warm service of a state folder."""
        (state_dir / "run").mkdir(parents=True, exist_ok=True)
        (state_dir / "run" / "warm.sock").symlink_to(self.socket)


@pytest.fixture(scope="module")
def service() -> Iterator[Warm]:
    with tempfile.TemporaryDirectory(prefix="warm-") as folder:
        warm = Warm(
            Path(folder), "-m", "evergreen_airflow.kubelet.warm_server", EVERGREEN_OF_THE_SERVICE="not for steps"
        )
        yield warm
        warm.stop()


@pytest.fixture
def own_service() -> Iterator[Warm]:
    """A service that a test may kill; it imports little, and so is there at once."""
    with tempfile.TemporaryDirectory(prefix="warm-") as folder:
        (Path(folder) / "code.py").touch()
        warm = Warm(Path(folder), "-c", LIGHT)
        yield warm
        warm.stop()


@pytest.fixture
def kit(tmp_path: Path, settings: Settings) -> Kit:
    return Kit(tmp_path, settings.state_dir)


def operator(kit: Kit, body: str, **options: Any) -> StepOperator:
    """Return the real ``ingest`` of a model whose reader is ``body``."""
    code = textwrap.indent(textwrap.dedent(body).strip(), "    ")
    reader = READER.format(folder=str(kit.folder), body=code)
    (kit.folder / "models" / "tiny" / "source.py").write_text(reader)
    return StepOperator(**{"step": "ingest", "spec": kit.spec, **BOUNDS, **options})


def skipped(kit: Kit, body: str, run_id: str = "manual") -> Manifest:
    """Run a step whose reader finds nothing; returns its manifest."""
    context = task_context(run_id=run_id)
    with pytest.raises(AirflowException, match="nothing for 2013-03-01"):
        operator(kit, body + "\nreturn None").execute(context)
    manifest = kit.manifest(context)
    assert manifest is not None
    return manifest


SEEN = """
import logging, numpy

seen = {
    "parent": parent,
    "name": Path("/proc/self/comm").read_text().strip(),
    "variables": dict(os.environ),
    "folder": os.getcwd(),
    "temporary": tempfile.gettempdir(),
    "arguments": sys.argv[1:],
    "path": sys.path,
    "loaded": sorted(sys.modules),
    "main": sys.modules["__main__"].__spec__.name,
    "group": os.getpgid(0) == os.getpid(),
    "input": os.read(0, 10).decode(),
    "files": [os.path.realpath(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")],
    "draw": numpy.random.random(),
    "handlers": len(logging.root.handlers),
}
(here / "seen.json").write_text(json.dumps(seen))
"""
WHO_READS = """
import os

read = set()
original = type(os.environ).__getitem__

def __getitem__(self, name):
    read.add(str(name))
    return original(self, name)

for name in [name for name in os.environ if name.startswith(("AWS_", "RAY_"))]:
    del os.environ[name]  # tqdm reads all there are
from evergreen.environment import add_constants
before = set(os.environ)
add_constants()
constants = set(os.environ) - before  # the same in every step: whoever reads one reads no login
type(os.environ).__getitem__ = __getitem__
from evergreen_airflow.kubelet import warm_server
warm_server.warm_up()
print("read:", *sorted(name for name in read - constants if name.startswith(("AWS_", "RAY_", "HOME"))))
"""
SET_BY_IMPORTS = ("PROMETHEUS_MULTIPROC", "MLFLOW_", "KMP_", "TORCH")
"""Variables that a process of its own would have too, once it has imported as much."""

OWN = ("TMPDIR", "TORCHINDUCTOR_CACHE_DIR", "EVERGREEN_ATTEMPT", "RAY_AUTH_TOKEN")
"""Variables that no two steps share."""


def look(kit: Kit, run_id: str) -> dict[str, Any]:
    """Return what a step sees of its process."""
    skipped(kit, SEEN, run_id)
    found: dict[str, Any] = json.loads((kit.folder / "seen.json").read_text())
    return found


def test_forked_step_sees_what_a_process_of_its_own_would_see(kit: Kit, service: Warm) -> None:
    cold = look(kit, "cold")
    service.serve(kit.state_dir)
    warm, again = look(kit, "warm"), look(kit, "again")
    assert "guardian.py" in cold["parent"]
    assert "warm_server" in warm["parent"]
    assert warm["draw"] != again["draw"]
    assert warm["variables"]["RAY_AUTH_TOKEN"] != again["variables"]["RAY_AUTH_TOKEN"]
    for seen in (cold, warm):
        for name in OWN:
            del seen["variables"][name]
        seen["arguments"] = [argument for argument in seen["arguments"] if not argument.startswith("--run-id")]
        assert seen["temporary"] == seen["folder"] == seen["path"][0]
    added = warm["variables"].keys() - cold["variables"].keys()
    assert {name for name in added if not name.startswith(SET_BY_IMPORTS)} == set()
    assert {name: warm["variables"][name] for name in cold["variables"]} == cold["variables"]
    for name in ("arguments", "main", "group", "input"):
        assert warm[name] == cold[name], name
    assert warm["path"][1:] == cold["path"][1:]
    assert warm["handlers"] == cold["handlers"] == 1
    assert set(cold["loaded"]) - set(warm["loaded"]) == set()
    assert "ray" not in warm["loaded"]
    assert warm["name"] == "ingest"
    assert str(service.socket) not in warm["files"]
    assert str(service.log) not in warm["files"]


def test_service_holds_nothing_but_imports(service: Warm) -> None:
    process = psutil.Process(service.pid)
    assert process.net_connections("inet") == []
    assert process.children() == []
    # OpenBLAS (of numpy and of scipy) and jemalloc (of Arrow) stop and start their threads around a fork
    blas = 2 * ((os.cpu_count() or 1) - 1)
    assert process.num_threads() <= 2 + blas


def test_manifest_is_that_of_a_process_of_its_own(tmp_path: Path, lake_settings: Settings, service: Warm) -> None:
    kit = Kit(tmp_path, lake_settings.state_dir)
    assert lake_settings.database_url is not None
    kit.write_variables(
        "secrets/evergreen-secrets.env", EVERGREEN_DATABASE_URL=lake_settings.database_url.get_secret_value()
    )
    manifests = []
    for _ in ("cold", "warm"):
        context = task_context()
        operator(kit, '(here / "parent").write_text(parent)\nreturn things').execute(context)
        manifest = kit.manifest(context)
        assert manifest is not None
        manifests.append(manifest.model_dump(exclude={"attempt", "started", "finished"}))
        if not (kit.state_dir / "run").exists():
            service.serve(kit.state_dir)
    assert "warm_server" in (kit.folder / "parent").read_text()
    assert manifests[0] == manifests[1]
    assert manifests[0]["outputs"][0]["rows"] == 3


def test_a_step_is_told_no_password_but_its_own(
    tmp_path: Path, settings: Settings, service: Warm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of what `evergreen up` makes: the roles of Airflow, MLflow and PostgreSQL's superuser, keys, administrators."""
    kit = Kit(tmp_path, settings.state_dir)
    monkeypatch.setenv("EVERGREEN_MODELS_DIR", str(kit.folder / "models"))
    monkeypatch.setenv("EVERGREEN_AIRFLOW_DATABASE_URL", "postgresql://airflow:of-the-shell@db")
    user = user_settings()
    build_services(user)
    credentials = read_credentials(user)
    own = {credentials.database_steps, credentials.mlflow_steps}
    superuser = (user.state_dir / "postgres" / "password").read_text().strip()
    others = {superuser, "of-the-shell", *credentials.model_dump().values()} - own
    assert len(others) == len(type(credentials).model_fields)
    for run in ("cold", "warm"):
        skipped(kit, '(here / "environ").write_text(json.dumps(dict(os.environ)))', run)
        told = (kit.folder / "environ").read_text()
        assert [secret for secret in own if secret in told] == list(own)
        assert [secret for secret in others if secret in told] == []
        if not (kit.state_dir / "run" / "warm.sock").exists():
            service.serve(kit.state_dir)
    assert "AIRFLOW__" not in told


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("os._exit(0)", "ended with exit code 0 but left no manifest"),
        ("os._exit(75)", "exit code 75"),
        ("os.kill(os.getpid(), 15)", "temporary: stopped by SIGTERM"),
        ("os.kill(os.getpid(), 9)", "exit code 137"),
        ('raise RuntimeError("x")', r"configuration: .*RuntimeError: x\. Correct the reader"),
        ('print("error: it says", flush=True); os._exit(65)', r"exit code 65 \(error: it says\)"),
        ("import atexit; atexit.register(os._exit, 11)", "stored its result, then ended"),
        ("import atexit, threading; threading.Thread(target=time.sleep, args=[0.2]).start()", "nothing for"),
    ],
)
def test_ending(kit: Kit, service: Warm, body: str, message: str) -> None:
    service.serve(kit.state_dir)
    with pytest.raises(AirflowException, match=message):
        operator(kit, f'(here / "parent").write_text(parent)\n{body}\nreturn None').execute(task_context())
    assert "warm_server" in (kit.folder / "parent").read_text()


def test_memory_limit(kit: Kit, service: Warm) -> None:
    service.serve(kit.state_dir)
    body = "held = bytearray(os.urandom(1)) * (2000 << 20); time.sleep(60)"
    pod = operator(kit, body).build_pod_request_obj(task_context(), dry_run=True)
    pod.spec.containers[0].resources.limits["memory"] = "1200Mi"
    log = Lines()
    assert as_process(PodGenerator.serialize_pod(pod), log, mask_secret).run().exit_code == 137
    assert any(re.search(r"out of memory: \d+ MiB used, limit 1200 MiB", line) for line in log.lines)


def test_kill_ends_the_whole_tree(kit: Kit, service: Warm) -> None:
    service.serve(kit.state_dir)
    kit.assert_on_kill_ends_the_whole_tree(operator(kit, DAEMON + STAY))
    assert alive(service.pid)


@pytest.mark.parametrize("victim", ["task", "supervisor"])
def test_nothing_is_left_of_a_killed_task(kit: Kit, service: Warm, victim: str) -> None:
    service.serve(kit.state_dir)
    operator(kit, DAEMON + STAY)
    kit.assert_a_killed_task_leaves_nothing(victim)
    assert alive(service.pid)


ONCE = """
(here / "parents").open("a").write(f"{parent!r}\\n")
if "warm_server" in parent:
""" + textwrap.indent((DAEMON + STAY).strip(), "    ")


def test_step_of_a_killed_service_is_run_again(kit: Kit, own_service: Warm) -> None:
    own_service.serve(kit.state_dir)
    ended: list[Manifest] = []
    thread = threading.Thread(target=lambda: ended.append(skipped(kit, ONCE)), daemon=True)
    thread.start()
    family = pids(kit.folder, "step", "daemon")
    scratch = Path((kit.folder / "scratch").read_text())
    os.kill(own_service.pid, signal.SIGKILL)
    thread.join(120)
    assert not any(map(alive, family))
    assert not scratch.exists()
    assert ended, "the task failed"
    assert "guardian.py" in (kit.folder / "parents").read_text().splitlines()[1]


def _fails(step: StepOperator) -> None:
    with pytest.raises(AirflowException):
        step.execute(task_context())


def test_nothing_is_left_of_a_stopped_service(kit: Kit, own_service: Warm) -> None:
    own_service.serve(kit.state_dir)
    step = operator(kit, DAEMON + STAY)
    thread = threading.Thread(target=lambda: _fails(step), daemon=True)
    thread.start()
    family = [*pids(kit.folder, "step", "daemon"), own_service.pid]
    (kit.folder / "models" / "tiny" / "source.py").unlink()  # so that the second start fails
    own_service.stop()
    assert not any(map(alive, family))
    thread.join(120)
    assert not thread.is_alive()


def test_step_with_another_environment_is_a_process_of_its_own(kit: Kit, service: Warm) -> None:
    service.serve(kit.state_dir)
    models = str(kit.folder / "models")
    kit.write_variables("config/evergreen-settings.env", EVERGREEN_MODELS_DIR=models, OMP_NUM_THREADS="1")
    assert "guardian.py" in look(kit, "other")["parent"]


@pytest.mark.parametrize(
    "message",
    [
        b"x",
        b"\xff",
        b"[]",
        b"{}",
        b'{"arguments": [], "environment": {}, "code": "", "python": "", "more": 1}',
        b'{"arguments": 1, "environment": {"SECRET": "s3cret"}, "code": "", "python": ""}',
        b'{"arguments": [], "environment": {"SECRET": 5}, "code": "", "python": ""}',
        b'{"arguments": [], "environment": ["s3cret"], "code": "", "python": ""}',
    ],
)
def test_what_is_no_request_is_answered_and_the_service_lives_on(kit: Kit, own_service: Warm, message: bytes) -> None:
    pid = own_service.pid
    with connect(own_service.socket) as connection:
        connection.send(message)
        assert connection.recv(1000) == b"the warm service does not understand the request"
    own_service.serve(kit.state_dir)
    assert "warm_server" in look(kit, "after")["parent"]
    assert own_service.pid == pid
    assert "s3cret" not in own_service.log.read_text()


def test_a_request_without_its_pipes_is_answered(own_service: Warm) -> None:
    request = ForkRequest(["--", "true"], {}, str(guardian.__file__), sys.executable)
    with connect(own_service.socket) as connection:
        connection.send(json.dumps(asdict(request)).encode())
        assert connection.recv(1000) == b"the warm service was given 0 open files, not lifeline and output"
    assert own_service.answers()


def test_step_on_s3_and_a_ray_cluster_is_a_fork_too(kit: Kit, own_service: Warm) -> None:
    """Their libraries read these variables when they connect, not when they are imported."""
    own_service.serve(kit.state_dir)
    logins = {"AWS_SECRET_ACCESS_KEY": "s3cret", "RAY_AUTH_TOKEN": "t0ken"}
    cluster = {"EVERGREEN_RAY_ADDRESS": "ray://127.0.0.1:1"}  # or the token is that of a Ray of the step's own
    kit.write_variables("secrets/evergreen-secrets.env", **logins, **cluster)
    seen = look(kit, "logins")
    assert "warm_server" in seen["parent"]
    assert logins.items() <= seen["variables"].items()


def test_no_library_reads_the_logins_when_it_is_imported() -> None:
    done = subprocess.run([sys.executable, "-c", WHO_READS], capture_output=True, text=True, timeout=300, check=False)
    assert done.stdout == "read: HOME\n", done.stderr


def test_service_that_is_gone_is_done_without(kit: Kit, tmp_path: Path) -> None:
    (kit.state_dir / "run").mkdir(parents=True)
    (kit.state_dir / "run" / "warm.sock").symlink_to(tmp_path / "nothing")
    assert "guardian.py" in look(kit, "gone")["parent"]


def test_changed_code_makes_the_service_start_anew(kit: Kit, tmp_path: Path, own_service: Warm) -> None:
    own_service.serve(kit.state_dir)
    assert "warm_server" in look(kit, "before")["parent"]
    pid = own_service.pid
    (own_service.socket.parent / "code.py").write_text("# changed")
    assert "guardian.py" in look(kit, "changed")["parent"]
    assert eventually(own_service.answers, 120)
    assert own_service.pid == pid
    assert "warm_server" in look(kit, "after")["parent"]


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_only_its_own_user_is_answered(service: Warm) -> None:
    ask = """
    import os, socket, sys
    os.setuid(65534)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        connection.connect(sys.argv[1])
        print(connection.recv(100))
    """

    def answer() -> str:
        command = [sys.executable, "-c", textwrap.dedent(ask), str(service.socket)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        return done.stdout.strip() or done.stderr.strip().splitlines()[-1]

    folder = service.socket.parent
    assert service.socket.stat().st_mode & 0o777 == 0o600
    folder.chmod(0o755)
    assert "PermissionError" in answer()
    service.socket.chmod(0o666)
    assert answer() in {"b''", "ConnectionResetError: [Errno 104] Connection reset by peer"}
    assert service.answers()  # this user is
