"""Parses the DAG files the way the DAG processor does; needs no metadata database."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from evergreen.settings import PROJECT_ROOT, get_settings

if TYPE_CHECKING:
    from airflow.sdk import DAG
    from dag_policy import Parse

# before Airflow is imported: it writes its configuration there
os.environ.setdefault("AIRFLOW_HOME", tempfile.mkdtemp(prefix="airflow-home-"))
os.environ.setdefault("AIRFLOW__CORE__LOAD_EXAMPLES", "False")
os.environ.setdefault("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", f"sqlite:///{os.environ['AIRFLOW_HOME']}/airflow.db")

DAGS_FOLDER = PROJECT_ROOT / "dags"


@pytest.fixture
def parse(monkeypatch: pytest.MonkeyPatch) -> Iterator[Parse]:
    """Parse the project's DAG files with the models of another folder; an import error fails the test."""
    from airflow.dag_processing.dagbag import DagBag

    def parse_models(models_dir: Path) -> dict[str, DAG]:
        monkeypatch.setenv("EVERGREEN_MODELS_DIR", str(models_dir))
        get_settings.cache_clear()
        bag = DagBag(dag_folder=DAGS_FOLDER)
        assert bag.import_errors == {}
        return dict(bag.dags)

    yield parse_models
    get_settings.cache_clear()


@pytest.fixture
def dags(parse: Parse) -> dict[str, DAG]:
    """The project's own DAGs."""
    return parse(PROJECT_ROOT / "include" / "models")


@pytest.fixture
def two_models(tmp_path: Path) -> Path:
    """A models folder with the project's model and a second one, which asks for an approval."""
    models = tmp_path / "models"
    original = PROJECT_ROOT / "include" / "models" / "flight_delay"
    for name, required in (("flight_delay", "false"), ("taxi_fare", "true")):
        shutil.copytree(original, models / name, ignore=shutil.ignore_patterns("__pycache__"))
        spec = models / name / "model.yaml"
        text = spec.read_text().replace("name: flight_delay", f"name: {name}")
        spec.write_text(text.replace("required: false", f"required: {required}"))
    return models
