"""Finding, reading and digesting models: YAML's traps are errors that name file and line."""

from __future__ import annotations

import os
import shutil
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from evergreen.catalog import (
    config_digest,
    load_function,
    load_model,
    load_models,
    model_folders,
    model_names,
    survey,
)
from evergreen.contract import ConfigurationError, DataError
from evergreen.settings import PROJECT_ROOT
from evergreen.spec import Behaviours, ModelSpec, Task
from evergreen.yaml_files import read_text


@pytest.fixture
def models_dir(tmp_path: Path) -> Path:
    shutil.copytree(
        PROJECT_ROOT / "include/models/flight_delay",
        tmp_path / "models/flight_delay",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    return tmp_path / "models"


@pytest.fixture
def spec(models_dir: Path) -> ModelSpec:
    return load_model("flight_delay", models_dir)


def test_models_are_the_folders_with_a_model_yaml(models_dir: Path) -> None:
    (models_dir / "__pycache__").mkdir()
    (models_dir / "README.md").write_text("no folder")
    shutil.copytree(models_dir / "flight_delay", models_dir / ".flight_delay.beingmade")
    assert model_names(models_dir) == model_folders(models_dir) == ["flight_delay"]
    assert [spec.name for spec in load_models(models_dir)] == ["flight_delay"]
    (models_dir / "notes").mkdir()
    assert model_names(models_dir) == ["flight_delay"]
    assert model_folders(models_dir) == ["flight_delay", "notes"]


def test_a_models_folder_that_is_not_there_is_named(models_dir: Path) -> None:
    assert model_names(models_dir / "nowhere") == []
    for look in (model_folders, survey, load_models):
        with pytest.raises(ConfigurationError, match=r"nowhere: there is no such folder. EVERGREEN_MODELS_DIR"):
            look(models_dir / "nowhere")


def test_a_wrong_model_leaves_the_others_alone(models_dir: Path) -> None:
    assert survey(models_dir).problems == {}
    for name, before, after in (
        ("no_owner", "owner: flight-operations", "owner:"),
        ("bad_cron", "0 6 * * *", "0 66 * * *"),
        ("other_name", "name: flight_delay", "name: somebody"),
        ("Capital", "", ""),
    ):
        shutil.copytree(models_dir / "flight_delay", models_dir / name)
        path = models_dir / name / "model.yaml"
        text = path.read_text()
        path.write_text(
            (text if name == "other_name" else text.replace("flight_delay", name, 1)).replace(before, after)
        )
    (models_dir / "empty").mkdir()
    found = survey(models_dir)
    assert [spec.name for spec in found.models] == ["flight_delay"]
    said = {name: str(problem) for name, problem in found.problems.items()}
    assert set(said) == {"no_owner", "bad_cron", "other_name", "Capital", "empty"}
    for name, expected in (
        ("no_owner", "no_owner/model.yaml: owner: "),
        ("bad_cron", "bad_cron/model.yaml: schedule.cron: a minute and an hour of every day"),
        ("other_name", "name: 'somebody' differs from its folder 'other_name'"),
        ("Capital", "Capital: 'Capital' is no name for a model. Rename the folder"),
        ("empty", "empty/model.yaml: there is no such file. Create it, or move its folder."),
    ):
        assert expected in said[name]
    with pytest.raises(ConfigurationError) as raised:
        load_models(models_dir)
    assert all(problem in str(raised.value) for problem in said.values())


@pytest.mark.parametrize(
    "content",
    [
        "a: &a [x, x, x, x, x, x, x, x, x]\n"
        + "".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in pairwise("abcdefghi")),
        "[" * 100_000,
        "".join(f"key{number}: 1\n" for number in range(70_000)),
        "name: hostile\n" + "".join(f"key{number}: 1\n" for number in range(9_000)),
        "task: 0x" + "f" * 9000,
    ],
)
def test_a_hostile_model_takes_down_no_other(models_dir: Path, content: str) -> None:
    (models_dir / "hostile").mkdir()
    (models_dir / "hostile/model.yaml").write_text(content)
    found = survey(models_dir)
    assert [spec.name for spec in found.models] == ["flight_delay"]
    assert "hostile/model.yaml: " in str(found.problems["hostile"])
    assert len(str(found.problems["hostile"])) < 5000


def test_a_model_fails_alone_whatever_is_raised(models_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that goes away while it is read, memory that runs out: no check can foresee them all."""
    shutil.copytree(models_dir / "flight_delay", models_dir / "other")
    for error in (RecursionError("too deep"), MemoryError(), PermissionError(13, "denied")):

        def read(path: Path, error: Exception = error) -> str:
            if path.parent.name == "other":
                raise error
            return read_text(path)

        monkeypatch.setattr("evergreen.catalog.read_text", read)
        found = survey(models_dir)
        assert [spec.name for spec in found.models] == ["flight_delay"]
        assert f"other: {type(error).__name__}" in str(found.problems["other"])


def test_two_models_do_not_share_a_view_in_feast(models_dir: Path) -> None:
    """``flight`` with ``delay_airport_weather`` is called like ``flight_delay`` with ``airport_weather``."""
    shutil.copytree(models_dir / "flight_delay", models_dir / "flight")
    path = models_dir / "flight/model.yaml"
    path.write_text(path.read_text().replace("name: flight_delay", "name: flight"))
    assert survey(models_dir).problems == {}
    path.write_text(path.read_text().replace("name: airport_weather", "name: delay_airport_weather"))
    found = survey(models_dir)
    assert [spec.name for spec in found.models] == ["flight"]
    said = "features.views: 'airport_weather' is flight_delay_airport_weather in Feast, and so is a view of flight."
    assert said in str(found.problems["flight_delay"])


def test_two_long_names_of_views_do_not_share_a_table_of_the_online_store(models_dir: Path) -> None:
    """PostgreSQL cuts names after 63 characters; two such views would overwrite each other's features."""
    path = models_dir / "flight_delay/model.yaml"
    text = path.read_text()
    for first, second, fine in (("a", "b", True), ("h" * 40 + "a", "h" * 40 + "b", False)):
        path.write_text(text.replace("route_history\n", f"{first}\n", 1).replace("carrier_history\n", f"{second}\n", 1))
        problems = survey(models_dir).problems
        assert (problems == {}) == fine, problems
    said = "has the table evergreen_flight_delay_hhhhhh"
    assert said in str(problems["flight_delay"])
    assert f"cut to 63 characters, and so has {first} of flight_delay. Give the view another" in str(
        problems["flight_delay"]
    )


def test_a_model_is_read_again_when_it_changes(models_dir: Path) -> None:
    """Same length, same moment, even the same time stamp: what counts is the content."""
    path = models_dir / "flight_delay/model.yaml"
    first, before = load_model("flight_delay", models_dir), path.stat()
    assert load_model("flight_delay", models_dir) is first
    path.write_text(path.read_text().replace("team: ml-platform", "team: ml-cookbook"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    assert load_model("flight_delay", models_dir).team == "ml-cookbook"


@pytest.mark.parametrize("name", ["nope", "../models/flight_delay", "", "flight_delay/"])
def test_an_unknown_model_is_refused_with_those_there_are(models_dir: Path, name: str) -> None:
    with pytest.raises(ConfigurationError, match=r"There is no model .*\(models: flight_delay\)"):
        load_model(name, models_dir)


def test_a_model_is_called_like_its_folder(models_dir: Path) -> None:
    (models_dir / "flight_delay").rename(models_dir / "other")
    with pytest.raises(ConfigurationError, match="name: 'flight_delay' differs from its folder 'other'"):
        load_model("other", models_dir)


def test_a_list_is_no_model(models_dir: Path) -> None:
    (models_dir / "flight_delay/model.yaml").write_text("- name: flight_delay\n")
    with pytest.raises(ConfigurationError, match="expected a mapping of fields, found list"):
        load_model("flight_delay", models_dir)


@pytest.mark.parametrize("file", ["model.yaml", "features/examples.sql", "expectations/flights.yaml", "network.py"])
def test_the_digest_covers_every_file(spec: ModelSpec, file: str) -> None:
    before = config_digest(spec)
    path = spec.folder / file
    path.write_bytes(path.read_bytes() + b"\n")
    assert config_digest(spec) != before


def test_the_digest_covers_names_and_borders(spec: ModelSpec) -> None:
    (spec.folder / "a").write_bytes(b"x\0")
    (spec.folder / "b").write_bytes(b"y")
    before = config_digest(spec)
    (spec.folder / "a").write_bytes(b"x")
    (spec.folder / "b").write_bytes(b"\0y")
    assert config_digest(spec) != before
    (spec.folder / "a").write_bytes(b"x\0")
    (spec.folder / "b").rename(spec.folder / "c")
    assert config_digest(spec) != before


def test_the_digest_ignores_what_editors_and_python_leave(spec: ModelSpec, tmp_path: Path) -> None:
    before = config_digest(spec)
    for name in ("__pycache__/source.cpython-311.pyc", ".DS_Store", ".ipynb_checkpoints/source.py"):
        (spec.folder / name).parent.mkdir(exist_ok=True)
        (spec.folder / name).write_bytes(b"x")
    assert config_digest(spec) == before
    elsewhere = shutil.copytree(spec.folder.parent, tmp_path / "elsewhere")
    assert config_digest(load_model("flight_delay", elsewhere)) == before


def test_a_function_is_loaded_anew_only_when_its_file_changes(spec: ModelSpec) -> None:
    path = spec.folder / "one.py"
    path.write_text("def read(day):\n    return 1\n")
    first = load_function(spec, "one.py:read")
    assert first(None) == 1
    assert load_function(spec, "one.py:read") is first
    path.write_text("def read(day):\n    return 2\n")
    assert load_function(spec, "one.py:read")(None) == 2


def test_two_models_may_have_files_of_one_name(models_dir: Path) -> None:
    shutil.copytree(models_dir / "flight_delay", models_dir / "other")
    path = models_dir / "other/model.yaml"
    path.write_text(path.read_text().replace("name: flight_delay", "name: other"))
    for name in ("flight_delay", "other"):
        (models_dir / name / "one.py").write_text("NAME = __name__\ndef read(day):\n    return NAME\n")
    found = {load_function(load_model(name, models_dir), "one.py:read")(None) for name in ("flight_delay", "other")}
    assert len(found) == 2


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("def other(day): ...\n", "there is no function 'read'"),
        ("read = 3\n", "there is no function 'read'"),
        ("def read(day:\n", "line 1: SyntaxError"),
        ("\nimport no_such_library\n", "line 2: ModuleNotFoundError: No module named 'no_such_library'"),
        ("x = 1\n\n1 / 0\n", "line 3: ZeroDivisionError"),
        ("import sys\nsys.exit(0)\n", "line 2: SystemExit: 0"),
        ("class Own(BaseException): ...\nraise Own('mine')\n", "line 2: Own: mine"),
    ],
)
def test_a_broken_file_of_a_model_is_its_author_s_to_correct(spec: ModelSpec, content: str, expected: str) -> None:
    path = spec.folder / "one.py"
    path.write_text(content)
    with pytest.raises(ConfigurationError) as raised:
        load_function(spec, "one.py:read")
    assert str(path) in raised.value.message
    assert expected in raised.value.message


def test_a_missing_file_of_a_model_is_named(spec: ModelSpec) -> None:
    with pytest.raises(ConfigurationError, match=r"'nope.py:read': there is no file .*nope.py"):
        load_function(spec, "nope.py:read")


def test_an_error_that_names_its_class_keeps_it(spec: ModelSpec) -> None:
    (spec.folder / "one.py").write_text("from evergreen.contract import DataError\nraise DataError('wrong')\n")
    with pytest.raises(DataError, match="wrong"):
        load_function(spec, "one.py:read")


BEHAVIOURS = """
invariance:
  - name: a mile
    shift: {distance: 1}
"""


def test_tests_of_behaviour_stand_beside_the_model_and_are_read_again(models_dir: Path) -> None:
    path = models_dir / "flight_delay/behaviours.yaml"
    path.write_text(BEHAVIOURS)
    before = load_model("flight_delay", models_dir)
    assert [test.name for _, test in before.behaviours.tests] == ["a mile"]
    path.write_text(BEHAVIOURS.replace("a mile", "two miles"))
    after = load_model("flight_delay", models_dir)
    assert [test.name for _, test in after.behaviours.tests] == ["two miles"]
    assert [test.name for _, test in before.behaviours.tests] == ["a mile"]
    for text in ("# nothing yet\n", None):
        path.unlink() if text is None else path.write_text(text)
        assert not list(load_model("flight_delay", models_dir).behaviours.tests)


A_MILE = "{name: a mile, shift: {distance: 1}}"
ASKED = "{name: known, inputs: {distance: 1}"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- a list", "expected a mapping of fields, found list"),
        ("variance: []", "variance: there is no such field"),
        ("invariance: [{shift: {distance: 1}}]", "invariance, entry 1, name: the field is missing"),
        ("invariance: [{name: a mile}]", "invariance, entry 1, set: give at least one of set, shift and take_away"),
        (f"invariance: [{A_MILE}, {A_MILE}]", "name: 'a mile' is there twice"),
        (f"invariance: [{A_MILE}]\nrequest: [{{name: a mile, inputs: {{distance: 1}}, answer: 1}}]", "is there twice"),
        (
            "invariance: [{name: m, shift: {miles: 1}}]",
            "invariance, entry 1, shift: 'miles' is not an input of the model; use",
        ),
        ("invariance: [{name: m, shift: {carrier: 1}}]", "shift: 'carrier' is a category: only a number can be moved"),
        ("invariance: [{name: m, shift: {distance: far}}]", "invariance, entry 1, shift.distance: "),
        (
            "invariance: [{name: m, set: {distance: far}}]",
            "invariance, entry 1, set: 'distance' is a number (value: 'far')",
        ),
        ("invariance: [{name: m, set: {carrier: NO}}]", "set.carrier: expected a number or text; YAML reads yes, no"),
        ("invariance: [{name: m, set: {carrier: 2013-01-01}}]", "quote what YAML takes for something else"),
        ("invariance: [{name: m, set: {temp: .nan}}]", "invariance, entry 1, set.temp: expected a number or text"),
        ("invariance: [{name: m, take_away: [temps]}]", "invariance, entry 1, take_away: 'temps' is not an input"),
        ("invariance: [{name: m, take_away: [temp], shift: {temp: 1}}]", "'temp' can be changed in one way only"),
        ("invariance: [{name: m, take_away: [temp], where: {flight: 1}}]", "where: 'flight' is neither an input"),
        ("invariance: [{name: m, take_away: [temp], where: {precip: wet}}]", "where: 'precip' is a number"),
        ("invariance: [{name: m, take_away: [temp], tolerance: -1}]", "invariance, entry 1, tolerance: "),
        ("invariance: [{name: m, take_away: [temp], maximum_share: 1}]", "invariance, entry 1, maximum_share: "),
        ("invariance: [{name: m, take_away: [temp], level: loud}]", "invariance, entry 1, level: "),
        ("invariance: [{name: m, take_away: [temp], goes: up}]", "invariance, entry 1, goes: there is no such field"),
        ("direction: [{name: m, take_away: [temp]}]", "direction, entry 1, goes: the field is missing"),
        ("direction: [{name: m, take_away: [temp], goes: on}]", "direction, entry 1, goes: "),
        (
            "direction: [{name: m, take_away: [temp], goes: up, of: late}]",
            "direction, entry 1, of: 'late' is a class, and only",
        ),
        (f"request: [{ASKED}}}]", "request, entry 1, between: give one of between and answer"),
        (
            f"request: [{ASKED}, between: [0, 1], answer: 1}}]",
            "request, entry 1, between: give one of between and answer",
        ),
        (f"request: [{ASKED}, between: [1, 0]}}]", "between: no answer is at least 1 and at most 0"),
        (
            f"request: [{ASKED}, answer: late}}]",
            "request, entry 1, answer: 'late' is no class of a binary model; use 1 or 0",
        ),
        (
            f"request: [{ASKED}, answer: '1.0'}}]",
            "request, entry 1, answer: '1.0' is no class of a binary model; use 1 or 0",
        ),
        ("request: [{name: known, inputs: {}, answer: 1}]", "request, entry 1, inputs: "),
        (
            "request: [{name: known, inputs: {miles: 1}, answer: 1}]",
            "request, entry 1, inputs: 'miles' is not an input",
        ),
    ],
)
def test_a_mistake_in_a_test_of_behaviour_names_file_field_and_value(models_dir: Path, text: str, said: str) -> None:
    (models_dir / "flight_delay/behaviours.yaml").write_text(text)
    with pytest.raises(ConfigurationError) as caught:
        load_model("flight_delay", models_dir)
    assert "flight_delay/behaviours.yaml: " in caught.value.message
    assert said in caught.value.message
    assert "docs/models.md" in caught.value.hint
    assert "'Every field of behaviours.yaml'" in caught.value.hint


@pytest.mark.parametrize(
    ("task", "test", "said"),
    [
        (
            Task.MULTICLASS,
            "direction: [{name: m, shift: {temp: 1}, goes: up}]",
            "direction, entry 1, of: the field is missing",
        ),
        (Task.MULTICLASS, f"request: [{ASKED}, between: [0, 1]}}]", "request, entry 1, of: the field is missing"),
        (
            Task.MULTICLASS,
            f"request: [{ASKED}, answer: late, of: late}}]",
            "request, entry 1, of: 'late' is a class, and only",
        ),
        (Task.MULTICLASS, f"request: [{ASKED}, answer: late}}]", ""),
        (Task.REGRESSION, f"request: [{ASKED}, answer: 1}}]", "1.0 is a class, and a regression has none"),
        (Task.REGRESSION, f"request: [{ASKED}, between: [0, 1]}}]", ""),
        (Task.BINARY, f"request: [{ASKED}, answer: 0}}]", ""),
        (Task.BINARY, f"request: [{ASKED}, answer: 1.0}}]", ""),
        (Task.BINARY, f"request: [{ASKED}, answer: '0'}}]", ""),
    ],
)
def test_a_test_of_behaviour_fits_the_task(spec: ModelSpec, task: Task, test: str, said: str) -> None:
    behaviours = Behaviours.model_validate(yaml.safe_load(test))
    problems = list(behaviours.problems(task, spec.features))
    assert len(problems) == bool(said)
    assert all(said in problem for problem in problems)
