"""The documentation speaks of commands, files and settings that exist; what it shows is run by some test."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from documented import blocks, commands, page_commands
from evergreen.cli import app
from evergreen.settings import NO_SETTINGS, PROJECT_ROOT, Settings

PAGES = sorted([PROJECT_ROOT / "README.md", PROJECT_ROOT / "CONTRIBUTING.md", *(PROJECT_ROOT / "docs").rglob("*.md")])
TARGETS = set(re.findall(r"^([a-z0-9-]+):", (PROJECT_ROOT / "Makefile").read_text(), flags=re.M))


def problem(command: list[str]) -> str | None:
    """Return what is wrong with a documented command, or None."""
    if command[0] == "make":
        unknown = [word for word in command[1:] if "=" not in word and word not in TARGETS]
        return f"the Makefile has no target {unknown}" if unknown else None
    if command[0] == "evergreen":
        return problem_with_evergreen(command[1:])
    return None


def problem_with_evergreen(arguments: list[str]) -> str | None:
    words = [word for word in arguments if not word.startswith("-")]
    names = words[:2] if words[0] in {"models", "audit", "quarantine", "tokens"} else words[:1]
    if names == ["airflow"]:
        return None  # Airflow's own commands and options
    shown = CliRunner().invoke(app, [*names, "--help"], env={"COLUMNS": "200", "TERM": "dumb"})
    if shown.exit_code:
        return f"evergreen has no command {' '.join(names)}"
    options = [word.partition("=")[0] for word in arguments if word.startswith("--")]
    unknown = [option for option in options if option not in shown.output]
    return f"evergreen {' '.join(names)} has no option {unknown}" if unknown else None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(PROJECT_ROOT)))
def test_documented_commands_exist(page: Path) -> None:
    found = [command for block, _ in blocks(page.read_text()) for command in commands(block)]
    assert not [(command, wrong) for command in found if (wrong := problem(command))]


RUN = {"README.md": "test_documented_commands", "docs/models.md": "test_new_model"}
RUN["docs/troubleshooting.md"] = RUN["README.md"]
RUN["docs/serving-batch.md"] = RUN["README.md"]
RUN["docs/serving.md"] = RUN["README.md"]
RUN["docs/auditing.md"] = "test_auditing"
"""The integration test that runs the ``evergreen`` commands of a page; ``make`` is what continuous integration runs."""


def not_run(name: str, text: str) -> list[list[str]]:
    """Return the commands of a page that nothing runs, and that do not say so."""
    found = [command for block, run in blocks(text) if run for command in commands(block)]
    return [command for command in found if command[0] != "make" and not (command[0] == "evergreen" and name in RUN)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(PROJECT_ROOT)))
def test_every_shown_command_is_run_or_says_why_not(page: Path) -> None:
    wrong = not_run(str(page.relative_to(PROJECT_ROOT)), page.read_text())
    assert not wrong, "run them in a test named in RUN, or write <!-- not run: the reason --> above their block"


def test_the_check_finds_what_nothing_runs() -> None:
    block = "```console\nkubectl get pods\n```\n"
    assert not_run("README.md", block) == [["kubectl", "get", "pods"]]
    assert not_run("README.md", f"<!-- not run: it needs a cluster -->\n{block}") == []
    assert not_run("README.md", f"<!-- not run: -->\n{block}") != []
    assert not_run("docs/new.md", "```console\nevergreen up\n```\n") == [["evergreen", "up"]]


def test_the_tests_that_run_them_are_there() -> None:
    for name in RUN.values():
        assert (PROJECT_ROOT / f"tests/integration/{name}.py").is_file()


@pytest.mark.parametrize(
    "command", ["make no-such-target", "evergreen no-such-command", "evergreen models no-such", "evergreen up --nope"]
)
def test_the_check_finds_a_wrong_command(command: str) -> None:
    assert problem(shlex.split(command))


def test_readme_names_the_two_commands() -> None:
    found = page_commands(PROJECT_ROOT / "README.md")
    assert [command for command in found if command[0] == "make"][:2] == [["make", "run"], ["make", "test"]]


def missing_links(page: Path) -> list[str]:
    """Return the relative links and images of a page that lead nowhere."""
    targets = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text())
    return [target for target in targets if "://" not in target and not (page.parent / target).exists()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(PROJECT_ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    assert not missing_links(page)


def test_the_check_finds_a_dead_link(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("[there](page.md) and [nowhere](nowhere.md)")
    assert missing_links(page) == ["nowhere.md"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(PROJECT_ROOT)))
def test_documented_settings_exist(page: Path) -> None:
    known = {f"EVERGREEN_{name}" for name in {field.upper() for field in Settings.model_fields} | NO_SETTINGS}
    named = set(re.findall(r"EVERGREEN_[A-Z0-9_]*[A-Z0-9]", page.read_text()))
    assert named <= known


def settings_table() -> dict[str, str]:
    """Return the settings of docs/settings.md with their defaults."""
    rows = re.findall(r"^\| `(\w+)` \| (?:`([^`]*)` )?\|", (PROJECT_ROOT / "docs/settings.md").read_text(), flags=re.M)
    assert len(rows) == len(dict(rows))
    return dict(rows)


def test_every_setting_has_a_row_with_its_default(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(f"EVERGREEN_{name.upper()}", raising=False)
    defaults = Settings(_env_file=None).model_dump(mode="json")
    assert settings_table() == {
        f"EVERGREEN_{name.upper()}": _written(value).removeprefix(f"{PROJECT_ROOT}/")
        for name, value in defaults.items()
    }


def _written(default: object) -> str:
    if isinstance(default, bool):
        return str(default).lower()
    return "" if default is None else f"{default:g}" if isinstance(default, float) else str(default)
