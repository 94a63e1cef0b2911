"""The lock and the status file."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from rich.console import Console

from evergreen.contract import ConfigurationError
from evergreen.settings import Settings, user_settings
from evergreen_laptop import control
from evergreen_laptop.processes import check_port, ending
from evergreen_laptop.status import (
    ServiceStatus,
    State,
    SupervisorStatus,
    is_running,
    living_guardians,
    now,
    read_status,
    run_folder,
    settings_digest,
    try_lock,
    write_status,
)


@pytest.fixture
def user(tmp_path: Path) -> Settings:
    return Settings(state_dir=tmp_path)


def test_only_one_holds_the_lock_and_death_frees_it(user: Settings) -> None:
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys; from evergreen_laptop.status import try_lock; from evergreen.settings import Settings\n"
            f"with try_lock(Settings(state_dir={str(user.state_dir)!r})) as held:\n"
            "    print(held, flush=True); sys.stdin.read()",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "True\n"
    assert is_running(user)
    with try_lock(user) as held:
        assert not held
    holder.send_signal(signal.SIGKILL)
    holder.communicate()
    assert not is_running(user)
    with try_lock(user) as held:
        assert held


def test_a_lock_that_is_freed_in_time_is_taken(user: Settings) -> None:
    with try_lock(user) as held:
        assert held
        began = time.monotonic()
        with try_lock(user, patience=0.3) as second:
            assert not second
        assert time.monotonic() - began >= 0.3


def test_a_damaged_status_is_no_status(user: Settings) -> None:
    assert read_status(user) is None
    run_folder(user).mkdir()
    (run_folder(user) / "status.json").write_text('{"pid":')
    assert read_status(user) is None


def test_the_status_of_another_version_is_read_and_an_unknown_state_is_not_healthy(user: Settings) -> None:
    service = {"name": "a", "state": "pausing", "since": "2013-03-01T00:00:00Z", "pid": 7, "queue": 3}
    content = {"pid": 4711, "version": "9.9", "services": [service]}
    run_folder(user).mkdir()
    (run_folder(user) / "status.json").write_text(json.dumps(content))
    found = read_status(user)
    assert found is not None
    assert (found.pid, found.healthy, str(found.services[0].state)) == (4711, False, "pausing")
    write_status(user, found)
    again = json.loads((run_folder(user) / "status.json").read_text())
    assert (again["version"], again["services"][0]["queue"]) == ("9.9", 3)


def test_status_says_why_the_services_gave_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVERGREEN_STATE_DIR", str(tmp_path))
    shown = []
    for error in ("", "/x/[run] was removed while the services ran: they were stopped."):
        write_status(user_settings(), SupervisorStatus(pid=1, error=error))
        out = Console(file=io.StringIO(), width=40)
        assert not control.status(out)
        shown.append(out.file.getvalue())
    assert "gave up" not in shown[0]
    assert "They gave up: /x/[run] was removed while the services ran: they were stopped.\n" in shown[1]


def test_healthy_means_every_service_and_at_least_one() -> None:
    well = ServiceStatus(name="a", state=State.HEALTHY, since=now())
    sick = well.model_copy(update={"state": State.UNHEALTHY})
    assert SupervisorStatus(pid=1, services=(well,)).healthy
    assert not SupervisorStatus(pid=1, services=(well, sick)).healthy
    assert not SupervisorStatus(pid=1).healthy
    assert not SupervisorStatus(pid=1, services=(well,), stopping=True).healthy


def test_a_process_id_in_use_again_is_not_a_guardian(user: Settings) -> None:
    me = psutil.Process()
    entry = ServiceStatus(name="a", since=now(), guardian=me.pid, guardian_started=me.create_time())
    write_status(user, SupervisorStatus(pid=1, services=(entry,)))
    assert [process.pid for process in living_guardians(read_status(user))] == [me.pid]
    other = entry.model_copy(update={"guardian_started": me.create_time() - 60})
    assert living_guardians(SupervisorStatus(pid=1, services=(other,))) == []
    assert living_guardians(None) == []


def test_the_digest_follows_settings_and_the_secret_address(user: Settings) -> None:
    digests = {
        settings_digest(user),
        settings_digest(user.model_copy(update={"airflow_port": 1})),
        settings_digest(Settings(state_dir=user.state_dir, database_url="postgresql://a:1@h")),
        settings_digest(Settings(state_dir=user.state_dir, database_url="postgresql://a:2@h")),
    }
    assert len(digests) == 4
    assert settings_digest(user) == settings_digest(Settings(state_dir=user.state_dir))


def test_a_port_in_use_names_port_user_and_setting() -> None:
    import socket

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        with pytest.raises(ConfigurationError, match=rf"Port {port} is in use by .*{os.getpid()}.*EVERGREEN_X_PORT"):
            check_port("EVERGREEN_X_PORT", port)
    check_port("EVERGREEN_X_PORT", port)  # free again


@pytest.mark.parametrize(
    ("code", "words"),
    [(1, "exit code 1"), (137, "SIGKILL"), (-9, "SIGKILL"), (-15, "SIGTERM"), (143, "SIGTERM"), (0, "exit code 0")],
)
def test_an_ending_is_said_in_words(code: int, words: str) -> None:
    assert ending(code).endswith(words)
