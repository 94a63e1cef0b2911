"""Creates a model: its folder and its Feast definitions, from the files in ``templates``."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import sys
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from string import Template
from uuid import uuid4

from evergreen.catalog import SPEC_FILE
from evergreen.contract import NAME_PATTERN, ConfigurationError
from evergreen.settings import get_settings
from evergreen.spec import ModelSpec, Task
from evergreen.yaml_files import checked, read_text

TEMPLATES = Path(__file__).parent / "templates"
_SUFFIX = ".tmpl"

_BY_TASK: Mapping[Task, Mapping[str, str]] = {
    Task.BINARY: {
        "label_type": "int64",
        "outcome": "0 or 1",
        "metric": "auc",
        "direction": "maximize",
        "required": "log_loss, brier",
        "classes": "2",
        "label_expectation": "- type: expect_column_values_to_be_in_set\n"
        "  kwargs: {column: outcome, value_set: [0, 1]}\n"
        "  severity: warning",
    },
    Task.MULTICLASS: {
        "label_type": "string",
        "outcome": "the class as text",
        "metric": "log_loss",
        "direction": "minimize",
        "required": "accuracy, macro_f1",
        "classes": "3",
        "label_expectation": "- type: expect_column_unique_value_count_to_be_between  # no more than training.classes\n"
        "  kwargs: {column: outcome, min_value: 1, max_value: 3}\n"
        "  severity: info",
    },
    Task.REGRESSION: {
        "label_type": "double",
        "outcome": "a number",
        "metric": "rmse",
        "direction": "minimize",
        "required": "mae, r2",
        "classes": "2",
        "label_expectation": "- type: expect_column_values_to_be_between  # give it the bounds of the possible\n"
        "  kwargs: {column: outcome, min_value: -1000000, max_value: 1000000}\n"
        "  severity: warning",
    },
}


def create_model(name: str, task: Task, owner: str, team: str, start: date) -> list[Path]:
    """Create ``<models_dir>/<name>`` and ``<feature_repo>/<name>.py``; returns the files, sorted.

    Either all of it is there afterwards or nothing.

    Parameters
    ----------
    name
        The model's name.
    task
        What kind of value it predicts: decides the label's type and the gate's metrics.
    owner, team
        Who answers for it.
    start
        The first partition its source has.

    Raises
    ------
    ConfigurationError
        If a name or the day cannot be used, there is such a model, or the folders cannot be written.
    """
    check_name(name)
    for field, value in (("owner", owner), ("team", team)):
        if not value.strip() or not value.isprintable():
            raise ConfigurationError(f"--{field}={value!r} is not a name.", "Give the name of a person or a group.")
    settings = get_settings()
    folder, definitions = settings.models_dir / name, settings.feature_repo / f"{name}.py"
    for path in (folder, definitions):
        if path.exists():
            raise ConfigurationError(f"{path} exists already.", "Choose another name; nothing is overwritten.")
    values = {
        "name": name,
        "task": task.value,
        # a JSON string is a string in YAML and in Python too, whatever is in it
        "owner": json.dumps(owner, ensure_ascii=False),
        "team": json.dumps(team, ensure_ascii=False),
        "start": str(start),
        **_BY_TASK[task],
    }
    temporary = settings.models_dir / f".{name}.{uuid4().hex}"
    try:
        _render(TEMPLATES / "model", temporary / "model", values)
        text = read_text(temporary / "model" / SPEC_FILE)
        checked(folder / SPEC_FILE, text, ModelSpec, "Give it otherwise: --owner, --team or --start.")
        _render(TEMPLATES / "feature_repo", temporary / "feature_repo", values)
        _publish(temporary, folder, definitions)
    except OSError as error:
        raise ConfigurationError(
            f"{error.filename}: {error.strerror}: the model {name!r} was not created.", "Check disk and rights."
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return sorted([definitions, *(path for path in folder.rglob("*") if path.is_file())])


def check_name(name: str) -> None:
    """Refuse a name that cannot be a model's.

    Raises
    ------
    ConfigurationError
        If it is not of the form of a name, or hides a Python module: Feast imports ``feature_repo/<name>.py`` as
        the module ``<name>``.
    """
    if not re.fullmatch(NAME_PATTERN, name):
        raise ConfigurationError(
            f"{name!r} cannot be the name of a model.",
            "Use 1 to 63 lower case letters, digits and underscores, a letter first: flight_delay.",
        )
    if name in sys.stdlib_module_names or name == "evergreen" or _is_installed(name):
        raise ConfigurationError(
            f"{name!r} is a Python module: feature_repo/{name}.py would hide it from Feast.",
            f"Choose another name, e.g. {name}_model.",
        )


def _is_installed(name: str) -> bool:
    # without the current folder, which may be feature_repo itself
    module = importlib.util.find_spec(name)
    return module is not None and (module.origin is None or Path(module.origin).parent != get_settings().feature_repo)


def _render(templates: Path, folder: Path, values: Mapping[str, str]) -> None:
    for template in sorted(templates.rglob(f"*{_SUFFIX}")):
        path = folder / template.relative_to(templates).with_suffix("")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(Template(template.read_text(encoding="utf-8")).substitute(values), encoding="utf-8")


def _publish(temporary: Path, folder: Path, definitions: Path) -> None:
    """Move both parts to their places, or neither."""
    definitions.parent.mkdir(parents=True, exist_ok=True)
    (temporary / "model").rename(folder)
    try:
        with definitions.open("x", encoding="utf-8") as file:
            file.write((temporary / "feature_repo" / "definitions.py").read_text(encoding="utf-8"))
    except BaseException:
        shutil.rmtree(folder)
        raise
