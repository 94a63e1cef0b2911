"""The command line: arguments are checked, errors are one sentence, exit codes are the contract's."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType

import pytest

from evergreen import cli
from evergreen.contract import Manifest, Request, Result
from evergreen.settings import PROJECT_ROOT, SIGNING_KEY, Settings, get_settings
from isolation import KEYS

RUN_STEP = ("run-step", "ingest", "--model=flight_delay", "--partition=2013-03-01")
VALIDATE = ("run-step", "validate", *RUN_STEP[2:])


@pytest.fixture
def evergreen(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Run the command in this process; returns exit code, standard output and standard error."""
    monkeypatch.setattr("evergreen.logs.configure", lambda: None)  # it would replace pytest's handlers

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["evergreen", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return run


@pytest.fixture
def ingest(monkeypatch: pytest.MonkeyPatch) -> list[Request]:
    """Replace the step ``ingest`` by one that only remembers its request."""
    seen: list[Request] = []
    module = ModuleType("evergreen.steps.ingest")
    module.run = lambda request, _: seen.append(request) or Result(facts={"rows": 3})  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return seen


def test_a_step_runs_from_the_shell(evergreen: Callable[..., tuple[int, str, str]], ingest: list[Request]) -> None:
    code, out, err = evergreen(*RUN_STEP, "--window-start=2013-02-27", '--param=a={"b": [1, null]}', '--param=c="=x="')
    assert (code, err) == (0, "")
    request = ingest[0]
    assert (str(request.window), request.window.days) == ("2013-02-27..2013-03-01", 3)
    assert request.params == {"a": {"b": [1, None]}, "c": "=x="}
    assert request.run.key == "runs/flight_delay.shell/2013-03-01/ingest"
    manifest = Manifest.model_validate_json(out)
    assert manifest.facts == {"rows": 3}
    assert out.count("\n") == 1


def test_the_run_s_identity_is_taken_as_it_is(
    evergreen: Callable[..., tuple[int, str, str]], ingest: list[Request], settings: Settings
) -> None:
    code, out, _ = evergreen(*RUN_STEP, "--dag-id=flight_delay.ingest", "--run-id=../../x", "--task-id=..")
    assert code == 0
    assert Manifest.model_validate_json(out).run.run_id == "../../x"
    assert (settings.state_dir / "artifacts/runs/flight_delay.ingest/%2E.%2F..%2Fx/%2E./result.json").is_file()


def test_the_right_models_are_listed_beside_a_wrong_one(
    evergreen: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shutil.copytree(PROJECT_ROOT / "include/models", tmp_path / "models")
    (tmp_path / "models/hostile").mkdir()
    (tmp_path / "models/hostile/model.yaml").write_text("[" * 100_000)
    monkeypatch.setenv("EVERGREEN_MODELS_DIR", str(tmp_path / "models"))
    get_settings.cache_clear()
    code, out, err = evergreen("models", "list")
    assert code == 78
    assert out.startswith("flight_delay\tbinary\t")
    assert "hostile/model.yaml: line 1, column 51: not valid YAML: more than 50 brackets or indents deep" in err


@pytest.mark.parametrize(
    ("arguments", "code", "expected"),
    [
        (("run-step", "ingst", "--model=flight_delay", "--partition=2013-03-01"), 78, "no step 'ingst'. Did you mean"),
        (("run-step", "ingest", "--model=nope", "--partition=2013-03-01"), 78, "There is no model 'nope'"),
        (("run-step", "ingest", "--model=flight_delay", "--partition=1.3.2013"), 78, "--partition='1.3.2013' is not a"),
        (("run-step", "ingest", "--model=flight_delay", "--partition=2013-02-29"), 78, "'2013-02-29' is not a day"),
        (("run-step", "ingest", "--model=flight_delay", "--partition=2012-12-31"), 65, "is before the first partition"),
        (("run-step", "ingest", "--model=flight_delay", "--partition=9999-12-31"), 65, "is in the future"),
        ((*RUN_STEP, "--window-start=2013-03-02"), 78, "--window-start=2013-03-02 is after --partition=2013-03-01"),
        ((*RUN_STEP, "--window-start=x"), 78, "--window-start='x' is not a day"),
        ((*RUN_STEP, "--param=a"), 78, "--param='a' is not of the form NAME=VALUE"),
        ((*RUN_STEP, "--param==1"), 78, "--param='=1' is not of the form NAME=VALUE"),
        ((*RUN_STEP, "--param=a=b"), 78, "--param=a='b': not JSON"),
        ((*RUN_STEP, "--param=a=NaN"), 78, "--param=a='NaN': not JSON"),
        ((*RUN_STEP, "--param=a=1", "--param=a=2"), 78, "'a' is given twice"),
        ((*RUN_STEP, "--upstream=ingest"), 78, "--upstream='ingest' is not of the form"),
        ((*RUN_STEP, "--upstream=publish=publish"), 78, "ingest does not read publish. It reads no manifest"),
        ((*VALIDATE, "--upstream=ingest=ingest"), 65, "ingest/result.json: the upstream manifest is missing"),
        (
            (*VALIDATE, "--upstream=ingest=ingest", "--upstream=gate=gate"),
            78,
            "does not read gate. It reads ingest",
        ),
        (("models", "new", "Bad-Name"), 78, "'Bad-Name' cannot be the name of a model"),
        (("models", "new", "calendar"), 78, "'calendar' is a Python module"),
        (("models", "new", "good_name", "--start=soon"), 78, "--start='soon' is not a day"),
    ],
)
def test_a_wrong_argument_is_one_clear_sentence_and_writes_nothing(
    evergreen: Callable[..., tuple[int, str, str]],
    ingest: list[Request],
    settings: Settings,
    arguments: tuple[str, ...],
    code: int,
    expected: str,
) -> None:
    found, out, err = evergreen(*arguments)
    assert (found, out) == (code, "")
    assert err.startswith("error: ")
    assert expected in err
    assert err.count("\n") == 1
    assert ingest == []
    assert not settings.state_dir.exists() or not any(path.is_file() for path in settings.state_dir.rglob("*"))


def test_a_failed_step_prints_its_manifest_and_its_error(
    evergreen: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from evergreen.contract import DataError

    def fail(request: Request, _: object) -> Result:
        raise DataError("Three rows are wrong.", "Correct them.")

    module = ModuleType("evergreen.steps.ingest")
    module.run = fail  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    code, out, err = evergreen(*RUN_STEP)
    assert code == 65
    assert json.loads(out)["failure"]["message"] == "Three rows are wrong."
    assert err == "error: Three rows are wrong. Correct them.\n"


def test_a_misspelt_setting_is_told_by_every_command(
    evergreen: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVERGREEN_RUNTIM", "kubernetes")
    code, out, err = evergreen("models", "list")
    assert code == 0
    assert out.startswith("flight_delay\t")
    assert err == (
        "warning: EVERGREEN_RUNTIM, in the environment, is no setting and is ignored. Did you mean EVERGREEN_RUNTIME?\n"
    )


@pytest.mark.parametrize("arguments", [("feast", "--help"), ("feast", "apply", "--help"), ("feast",)])
def test_feast_s_help_needs_no_database(
    evergreen: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    monkeypatch.chdir(".")  # Feast's command line goes to its repository
    _, out, err = evergreen(*arguments)
    assert "Usage: evergreen feast" in out + err


def test_feast_s_commands_need_one(
    evergreen: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(".")
    code, _, err = evergreen("feast", "entities", "list")
    assert code == 78
    assert "EVERGREEN_DATABASE_URL is not set" in err


@pytest.mark.parametrize(
    ("missing", "code", "told"),
    [
        ("pyiceberg", 78, "error: pyiceberg.catalog is not installed here. Run this where steps run"),
        ("evergreen.data.lake", 1, "Traceback"),  # a module of our own that is missing is a defect
    ],
)
def test_a_command_that_needs_the_steps_libraries_says_so(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, missing: str, code: int, told: str
) -> None:
    monkeypatch.setenv("EVERGREEN_DATABASE_URL", "postgresql://nobody@127.0.0.1:1")
    lacking = f"import sys; sys.modules[{missing!r}] = None; from evergreen.cli import main; main()"
    command = [sys.executable, "-c", lacking, "partitions", "flight_delay"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.startswith(told)


def test_models_are_listed(evergreen: Callable[..., tuple[int, str, str]]) -> None:
    code, out, _ = evergreen("models", "list")
    assert code == 0
    assert "flight_delay\tbinary\tflight-operations\t" in out


# --- a real process ----------------------------------------------------------------------------------------------

_WAITING_MODEL = """
import time
from pathlib import Path

def read_flights(day):
    Path({started!r}).touch()
    time.sleep(60)

read_arrivals = read_weather = read_flights
"""


@pytest.fixture
def waiting_step(tmp_path: Path) -> dict[str, str]:
    """The environment of a project whose only model reads for a minute, after touching ``started``."""
    import shutil

    from evergreen.settings import PROJECT_ROOT

    folder = tmp_path / "models/flight_delay"
    shutil.copytree(PROJECT_ROOT / "include/models/flight_delay", folder)
    (folder / "source.py").write_text(_WAITING_MODEL.format(started=str(tmp_path / "started")))
    own = {name: value for name, value in os.environ.items() if not name.startswith("EVERGREEN_")}
    return {
        **own,
        "EVERGREEN_STATE_DIR": str(tmp_path / "state"),
        "EVERGREEN_MODELS_DIR": str(tmp_path / "models"),
        "EVERGREEN_ATTEMPT": "7",
    }


@pytest.mark.parametrize(("number", "name"), [(signal.SIGTERM, "SIGTERM"), (signal.SIGINT, "Ctrl-C")])
def test_a_stopped_step_ends_at_once_with_a_temporary_failure(
    waiting_step: dict[str, str], tmp_path: Path, number: signal.Signals, name: str
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "evergreen", *RUN_STEP], env=waiting_step, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        deadline = time.monotonic() + 60
        while not (tmp_path / "started").exists():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        sent = time.monotonic()
        process.send_signal(number)
        if number == signal.SIGTERM:
            process.send_signal(number)  # the second changes nothing
        out, err = process.communicate(timeout=30)
        took = time.monotonic() - sent
    finally:
        process.kill()
    assert process.returncode == 75, err
    assert took < 10
    manifest = Manifest.model_validate_json(out)
    assert manifest.attempt == "7"
    assert manifest.failure is not None
    assert manifest.failure.message == f"stopped by {name} before it had finished."
    stored = tmp_path / "state/artifacts/runs/flight_delay.shell/2013-03-01/ingest/result.json"
    assert Manifest.model_validate_json(stored.read_text()) == manifest


def test_a_step_ends_as_an_interpreter_does_and_says_no_more(waiting_step: dict[str, str], tmp_path: Path) -> None:
    """What a library holds of DuckDB when the interpreter is taken apart, DuckDB's bindings list on 50 lines."""
    (tmp_path / "models/flight_delay/source.py").write_text(
        "import atexit, gc, sys, threading, time\n"
        "def read_flights(day):\n"
        "    import duckdb\n"
        "    gc.freeze()\n"
        "    atexit.register(lambda: sys.stderr.write('exit handler'))\n"
        "    threading.Thread(target=lambda: time.sleep(0.5) or print('thread', file=sys.stderr)).start()\n"
        "    return None\n"
        "read_arrivals = read_weather = lambda day: None\n"
    )
    command = [sys.executable, "-m", "evergreen", *RUN_STEP]
    done = subprocess.run(command, env=waiting_step, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == "thread\nexit handler"
    assert Manifest.model_validate_json(done.stdout).status == "skipped"


def test_what_a_reader_prints_does_not_stand_before_the_manifest(waiting_step: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "models/flight_delay/source.py").write_text(
        "import os, subprocess\n"
        "def read_flights(day):\n"
        "    print('from Python')\n"
        "    subprocess.run(['echo', 'from a program'])\n"
        "    return None\n"
        "read_arrivals = read_weather = lambda day: None\n"
    )
    command = [sys.executable, "-m", "evergreen", *RUN_STEP]
    done = subprocess.run(command, env=waiting_step, capture_output=True, text=True, check=False)
    assert Manifest.model_validate_json(done.stdout).status == "skipped"
    assert "from Python" in done.stderr
    assert "from a program" in done.stderr


def test_a_log_line_is_one_event_in_utc(waiting_step: dict[str, str], tmp_path: Path) -> None:
    source = tmp_path / "models/flight_delay/source.py"
    source.write_text(
        "import logging, warnings\n"
        "def read_flights(day):\n"
        "    logging.getLogger(__name__).info('two\\nlines')\n"
        "    logging.getLogger('some.library').info('chatter')\n"
        "    warnings.warn('careful', stacklevel=1)\n"
        "    return None\n"
        "read_arrivals = read_weather = read_flights\n"
    )
    before = datetime.now(UTC)
    done = subprocess.run(
        [sys.executable, "-m", "evergreen", *RUN_STEP],
        env={**waiting_step, "TZ": "Asia/Tokyo"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stderr.splitlines() if "two" in line]
    stamp, level, name, message = lines[0].split(" ", 3)
    assert (level, name, message) == ("INFO", "evergreen_models.flight_delay.source:", "two | lines")
    assert abs((datetime.fromisoformat(stamp) - before).total_seconds()) < 60
    assert any("WARNING py.warnings:" in line and "careful" in line for line in done.stderr.splitlines())
    assert "chatter" not in done.stderr
    assert Manifest.model_validate_json(done.stdout).status == "skipped"


@pytest.mark.parametrize(
    ("step", "signs", "user"),
    [("gate", True, "evergreen-steps"), ("promote", True, "evergreen-registry"), ("ingest", False, "evergreen-steps")],
)
def test_a_step_in_a_shell_has_the_secrets_of_its_row_and_what_it_starts_has_no_key(
    evergreen: Callable[..., tuple[int, str, str]],
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
    signs: bool,
    user: str,
) -> None:
    for name in (SIGNING_KEY, "MLFLOW_TRACKING_USERNAME"):
        monkeypatch.setenv(name, "")  # so that it is put back afterwards
        monkeypatch.delenv(name)
    get_settings.cache_clear()
    folder = settings.state_dir / "secrets"
    folder.mkdir(parents=True)
    folder.joinpath("evergreen-signing.env").write_text(f"{SIGNING_KEY}={KEYS[0]}\n")
    folder.joinpath("evergreen-registry.env").write_text("MLFLOW_TRACKING_USERNAME=evergreen-registry\n")
    folder.joinpath("evergreen-secrets.env").write_text("MLFLOW_TRACKING_USERNAME=evergreen-steps\n")

    def run(request: Request, _: object) -> Result:
        child = subprocess.run([sys.executable, "-c", "import os; print(*os.environ)"], capture_output=True, text=True)
        has_key = get_settings().signing_key is not None
        told = os.environ["MLFLOW_TRACKING_USERNAME"]
        return Result(facts={"signs": has_key, "child": SIGNING_KEY in child.stdout.split(), "user": told})

    module = ModuleType(f"evergreen.steps.{step}")
    module.run = run  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    code, out, err = evergreen("run-step", step, *RUN_STEP[2:])
    assert (code, err) == (0, "")
    assert json.loads(out)["facts"] == {"signs": signs, "child": False, "user": user}
    assert KEYS[0] not in out


@pytest.mark.parametrize(
    ("rows", "stay", "said"),
    [
        (1, 0, "flight_delay: 1 row of weather of 2013-03-01 is released, record audit/7.\n"),
        (2, 1, "flight_delay: 2 rows of weather of 2013-03-01 are released, record audit/7; 1 stays in quarantine.\n"),
        (3, 4, "3 rows of weather of 2013-03-01 are released, record audit/7; 4 stay in quarantine.\n"),
    ],
)
def test_a_release_counts_in_words(
    evergreen: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch, rows: int, stay: int, said: str
) -> None:
    facts = {"rows": rows, "stay": stay, "event": "audit/7"}
    monkeypatch.setattr("evergreen.cli_quarantine.run_by_hand", lambda *_: facts)
    _, out, _ = evergreen("quarantine", "release", "flight_delay", "weather", "2013-03-01", "--why", "right")
    assert said in out
