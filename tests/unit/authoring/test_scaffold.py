"""A new model: whole or not at all, and right from the start."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import pytest

from evergreen.authoring.checks import check_model, check_models
from evergreen.authoring.scaffold import TEMPLATES, check_name, create_model
from evergreen.catalog import load_function, load_model, model_names
from evergreen.contract import ConfigurationError
from evergreen.settings import PROJECT_ROOT, Settings, get_settings
from evergreen.spec import Task

START = date(2024, 1, 1)


@pytest.fixture
def project(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    """A project without models."""
    monkeypatch.setenv("EVERGREEN_MODELS_DIR", str(tmp_path / "models"))
    monkeypatch.setenv("EVERGREEN_FEATURE_REPO", str(tmp_path / "feature_repo"))
    get_settings.cache_clear()
    yield get_settings()
    get_settings.cache_clear()


def snapshot(root: Path) -> set[str]:
    return {path.relative_to(root).as_posix() for path in root.rglob("*")}


@pytest.mark.parametrize("task", list(Task))
def test_a_new_model_passes_every_check_at_once(project: Settings, task: Task) -> None:
    create_model("demand", task, "Anna", "planning", START)
    assert check_model("demand") == []
    spec = load_model("demand")
    assert (spec.task, spec.owner, spec.team, spec.schedule.start) == (task, "Anna", "planning", START)


def test_a_new_model_keeps_the_project_s_own_rules(project: Settings, tmp_path: Path) -> None:
    longest = "m" * 63
    files = create_model(longest, Task.MULTICLASS, "Anna", "planning", START)
    shutil.copy(PROJECT_ROOT / "pyproject.toml", tmp_path)
    # so that what is imported from evergreen is sorted as the project's own
    own = f"--config=src=['{PROJECT_ROOT / 'include'}']"
    for command in (["check", own], ["format", "--check"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "--no-cache", *(path for path in files if path.suffix == ".py")],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout
    for path in files:
        assert "$" not in path.read_text().replace("^$", ""), path


def test_every_template_is_rendered(project: Settings) -> None:
    files = create_model("demand", Task.BINARY, "Anna", "planning", START)
    assert len(files) == len([path for path in TEMPLATES.rglob("*") if path.is_file()])
    assert model_names() == ["demand"]
    assert not [name for name in snapshot(project.models_dir) if name.startswith(".")]


@pytest.mark.parametrize("task", [Task.BINARY, Task.REGRESSION])
def test_the_tests_of_behaviour_are_an_example_that_works_once_its_marks_are_gone(
    project: Settings, task: Task
) -> None:
    create_model("demand", task, "Anna", "planning", START)
    assert not list(load_model("demand").behaviours.tests)
    path = project.models_dir / "demand/behaviours.yaml"
    _, _, example = path.read_text().partition("#\n")
    path.write_text("".join(line.removeprefix("#").removeprefix(" ") for line in example.splitlines(keepends=True)))
    assert [kind for kind, _ in load_model("demand").behaviours.tests] == ["invariance", "direction", "request"]
    assert check_model("demand") == []
    path.write_text(path.read_text().replace("amount", "amounts"))
    assert "behaviours.yaml: invariance, entry 1, shift: 'amounts' is not an input" in str(check_model("demand")[0])


def test_the_source_says_what_to_fill_in(project: Settings) -> None:
    create_model("demand", Task.BINARY, "Anna", "planning", START)
    spec = load_model("demand")
    with pytest.raises(ConfigurationError) as raised:
        load_function(spec, spec.sources[0].reader)(START)
    assert f"{spec.folder / 'source.py'}: read_events is not written yet" in raised.value.message
    for column in spec.sources[0].columns:
        assert column in raised.value.hint


@pytest.mark.parametrize("owner", ['An "x": #y\\', "Änna 名", "o'neil", "{a: b}", "- x", "yes"])
def test_an_owner_may_be_called_anything(project: Settings, owner: str) -> None:
    create_model("demand", Task.BINARY, owner, owner, START)
    spec = load_model("demand")
    assert (spec.owner, spec.team) == (owner, owner)
    definitions: dict[str, object] = {}
    text = (project.feature_repo / "demand.py").read_text()
    exec(next(line for line in text.splitlines() if line.startswith("OWNER")), definitions)
    assert definitions["OWNER"] == owner


@pytest.mark.parametrize("owner", ["", "  ", "a\nb: c"])
def test_an_owner_must_be_a_name(project: Settings, owner: str) -> None:
    with pytest.raises(ConfigurationError, match="--owner="):
        create_model("demand", Task.BINARY, owner, "planning", START)


@pytest.mark.parametrize("name", ["", "Demand", "1st", "a-b", "a b", "../demand", "a/b", "demand\n", "x" * 64, "é"])
def test_a_wrong_name_is_refused(project: Settings, tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigurationError, match="cannot be the name of a model"):
        create_model(name, Task.BINARY, "Anna", "planning", START)
    assert not project.models_dir.exists()


@pytest.mark.parametrize("name", ["calendar", "json", "pandas", "feast", "evergreen", "yaml"])
def test_a_name_that_hides_a_module_is_refused(project: Settings, name: str) -> None:
    with pytest.raises(ConfigurationError, match="is a Python module"):
        check_name(name)
    check_name(f"{name}_model")


@pytest.mark.parametrize(
    ("team", "start", "said"),
    [
        ("planning", date(9999, 1, 1), "schedule.start: expected a day from 1900-01-01 to 2199-12-31"),
        ("x" * 81, START, "team: String should have at most 80 characters"),
    ],
)
def test_what_would_not_be_valid_at_once_is_not_created(
    project: Settings, tmp_path: Path, team: str, start: date, said: str
) -> None:
    with pytest.raises(ConfigurationError, match=said) as raised:
        create_model("demand", Task.BINARY, "Anna", team, start)
    assert "--start" in raised.value.hint
    assert not {path for path in snapshot(tmp_path) if "demand" in path}


@pytest.mark.parametrize("there", ["models/demand/notes.txt", "feature_repo/demand.py"])
def test_nothing_is_overwritten(project: Settings, tmp_path: Path, there: str) -> None:
    (tmp_path / there).parent.mkdir(parents=True)
    (tmp_path / there).write_text("mine")
    before = snapshot(tmp_path)
    with pytest.raises(ConfigurationError, match="exists already"):
        create_model("demand", Task.BINARY, "Anna", "planning", START)
    assert snapshot(tmp_path) == before
    assert (tmp_path / there).read_text() == "mine"


def test_half_a_model_is_taken_back(project: Settings, tmp_path: Path) -> None:
    project.feature_repo.write_text("a file where the folder belongs")
    with pytest.raises(ConfigurationError, match="the model 'demand' was not created"):
        create_model("demand", Task.BINARY, "Anna", "planning", START)
    assert snapshot(tmp_path) <= {"models", "feature_repo"}


def test_every_problem_of_every_model_is_reported(project: Settings) -> None:
    for name in ("demand", "supply", "price"):
        create_model(name, Task.BINARY, "Anna", "planning", START)
    (project.models_dir / "empty").mkdir()
    (project.models_dir / "__pycache__").mkdir()
    folder = project.models_dir / "demand"
    (folder / "source.py").write_text("def read_event(day): ...\n")
    (folder / "network.py").write_text("def build(:\n")
    (folder / "features/history.sql").write_text("SELECT nope FROM events\n")
    (folder / "features/examples.sql").unlink()
    (folder / "expectations/events.yaml").write_text(
        "- {type: expect_nothing, kwargs: {column: amount}, severity: info}\n"
        "- {type: expect_column_values_to_not_be_null, kwargs: {column: nope}, severity: info}\n"
        "- {type: expect_column_values_to_not_be_null, kwargs: {column: amount}, severity: info}\n"
        "- {type: expect_column_values_to_not_be_null, kwargs: {column: amount}, severity: loud}\n"
    )
    (project.feature_repo / "demand.py").unlink()
    (project.models_dir / "supply/model.yaml").write_text("name: supply\n")
    found = {name: "\n".join(map(str, errors)) for name, errors in dict(check_models()).items()}
    assert set(found) == {"demand", "empty", "price", "supply"}
    assert found["price"] == ""
    assert "empty/model.yaml: there is no such file" in found["empty"]
    assert "task: the field is missing" in found["supply"]
    for expected in (
        "model.yaml: sources.events.reader: 'source.py:read_events': ",
        "network.py: line 1: not valid Python",
        "history.sql: ",
        "examples.sql: there is no such file",
        "events.yaml: entry 1 (expect_nothing)",
        "events.yaml: entry 2 (expect_column_values_to_not_be_null): nope is not a column of events",
        "events.yaml: entry 4 (expect_column_values_to_not_be_null)",
        "demand.py: there is no such file",
    ):
        assert expected in found["demand"]
    assert "entry 3" not in found["demand"]


def test_fourteen_mistakes_are_said_in_one_round(project: Settings) -> None:
    create_model("demand", Task.BINARY, "Anna", "planning", START)
    folder = project.models_dir / "demand"
    path = folder / "model.yaml"
    text = path.read_text()
    for before, after in (
        ("owner: ", "ower: "),  # 1 and 2: no such field, and one is missing
        ("timezone: UTC", "timezone: Mars/Base"),
        ("training_days: 90", "training_days: 0"),
        ("epochs: 5", "epochs: 1000000000"),
        ("workers: 2", "workers: yes"),
        ("metric: auc", "metric: rmse"),
        ("columns: [amount, amount_mean, event_count]", "columns: [amount, amount_mode]"),
        ("cooldown_days: 7", "cooldown_days: -1"),
    ):
        assert before in text
        text = text.replace(before, after, 1)
    path.write_text(text)
    (folder / "source.py").write_text("def read_event(day): ...\n")
    (folder / "network.py").write_text("def build(:\n")
    (folder / "features/history.sql").write_text("SELECT nope FROM events\n")
    (folder / "expectations/events.yaml").write_text("- {type: expect_nothing, severity: info}\n")
    (project.feature_repo / "demand.py").unlink()
    problems = check_model("demand")
    said = "\n".join(problem.message for problem in problems)
    for expected in (
        "ower: there is no such field",
        "owner: the field is missing",
        "schedule.timezone: not a time zone",
        "windows.training_days: ",
        "training.epochs: ",
        "training.workers: expected a number",
        "gate.metric: 'rmse' is not a metric",
        "drift.columns: 'amount_mode' is not an input",
        "retraining.cooldown_days: ",
        "sources.events.reader: 'source.py:read_events'",
        "network.py: line 1: not valid Python",
        "history.sql: ",
        "events.yaml: entry 1 (expect_nothing)",
        "demand.py: there is no such file",
    ):
        assert expected in said, expected
    assert all(problem.hint for problem in problems)
    assert len(problems) == 14


def test_a_pipe_for_a_file_is_named_and_not_waited_for(project: Settings) -> None:
    create_model("demand", Task.BINARY, "Anna", "planning", START)
    for file in ("source.py", "features/history.sql"):
        path = project.models_dir / "demand" / file
        path.unlink()
        os.mkfifo(path)
    # another process: one that waits for a pipe cannot be told to stop waiting
    command = [sys.executable, "-c", "from evergreen.authoring.checks import check_model; print(check_model('demand'))"]
    said = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    assert "source.py:read_events': there is no file" in said
    assert "history.sql: a pipe or device, not a file" in said


def test_equal_mistakes_are_one_line_and_counted(project: Settings) -> None:
    create_model("demand", Task.BINARY, "Anna", "planning", START)
    path = project.models_dir / "demand/model.yaml"
    many = "".join(f"      COLUMN{number}: string\n" for number in range(52))
    path.write_text(path.read_text().replace("      amount: double\n", "      amount: double\n" + many, 1))
    (problem,) = check_model("demand")
    assert problem.times == 52
    assert "(52 times: 'COLUMN0', 'COLUMN1', 'COLUMN2', 'COLUMN3', …)" in problem.message


@pytest.mark.parametrize(
    ("file", "before", "after", "expected"),
    [
        ("model.yaml", "weekday]", "weekdays]", "examples.sql: the columns are not the declared"),
        ("model.yaml", "features: [amount_mean,", "features: [amount_means,", "history.sql: the columns are not the"),
        (
            "features/examples.sql",
            "    amount,",
            "    amount::VARCHAR AS amount,",
            "features.numeric: 'amount' has the",
        ),
        ("features/examples.sql", "    outcome\n", "    ds AS outcome\n", "features.examples.label: 'outcome' has the"),
        (
            "features/examples.sql",
            "FROM events",
            "FROM event",
            "examples.sql: event: SQL reads the published sources, and nothing else. Tables: events",
        ),
        (
            "expectations/events.yaml",
            "- type: expect_table_row",
            "- {type: unexpected_rows_expectation, severity: info, kwargs: {unexpected_rows_query: SELECT 1}}\n"
            "- type: expect_table_row",
            "events.yaml: entry 1: unexpected_rows_expectation() needs a database, and a day is judged in memory",
        ),
        ("features/examples.sql", "FROM events", "FROM '/etc/passwd'", "examples.sql: "),
        (
            "features/history.sql",
            "ingested_at(days.day)",
            "days.day::TIMESTAMPTZ",
            "history.sql: a row of history for 2024-01-01 claims to be known at 2024-01-01T00:00Z, but 2024-01-01 is "
            "ingested at 2024-01-02T06:00Z",
        ),
        (
            "source.py",
            "def read_events(day: date)",
            "def read_events()",
            "source.py: line 17: read_events does not take",
        ),
        ("source.py", "def read_events(day: date)", "def read_events(a, b)", "read_events does not take one argument"),
        ("network.py", "def build(", "async def build(", "training.network: 'network.py:build'"),
        (
            "../../feature_repo/demand.py",
            '"event_count", dtype',
            '"events", dtype',
            "demand.py: demand_history has the",
        ),
        ("../../feature_repo/demand.py", "ttl=", "tll=", "demand.py: TypeError"),
        (
            "../../feature_repo/demand.py",
            "ttl=timedelta(days=7)",
            "ttl=-timedelta(days=7)",
            "ttl is datetime.timedelta(d",
        ),
        (
            "../../feature_repo/demand.py",
            'table="history")',
            'table="history", field_mapping={"a": "amount_mean"})',
            "demand.py: TypeError: LakeSource.__init__() got an unexpected keyword argument 'field_mapping'",
        ),
        ("../../feature_repo/demand.py", '"entity_id"]', '"id"]', "demand.py: "),
    ],
)
def test_one_slip_is_one_problem_that_names_it(
    project: Settings, file: str, before: str, after: str, expected: str
) -> None:
    create_model("demand", Task.BINARY, "Anna", "planning", START)
    path = project.models_dir / "demand" / file
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after))
    problems = [f"{problem.message} {problem.hint}" for problem in check_model("demand")]
    assert any(expected in problem for problem in problems), problems


@pytest.mark.parametrize(
    "definition",
    [
        "def read_events(day, *, limit=3): ...",
        "def read_events(*days): ...",
        "from x import read_events",
        "read_events = 1",
    ],
)
def test_other_ways_to_define_a_reader_are_accepted(project: Settings, definition: str) -> None:
    create_model("demand", Task.BINARY, "Anna", "planning", START)
    (project.models_dir / "demand/source.py").write_text(definition + "\n")
    assert check_model("demand") == []


def test_the_project_s_own_models_are_right(settings: Settings) -> None:
    assert list(check_models()) == [("flight_delay", [])]
