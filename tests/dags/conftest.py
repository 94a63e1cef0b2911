"""Parses the DAG files the way the DAG processor does; needs no metadata database."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from evergreen.settings import PROJECT_ROOT, get_settings

if TYPE_CHECKING:
    from airflow.dag_processing.dagbag import DagBag
    from airflow.sdk import DAG
    from dag_policy import Parse

# before Airflow is imported: it writes its configuration there
os.environ.setdefault("AIRFLOW_HOME", tempfile.mkdtemp(prefix="airflow-home-"))
os.environ.setdefault("AIRFLOW__CORE__LOAD_EXAMPLES", "False")
os.environ.setdefault("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", f"sqlite:///{os.environ['AIRFLOW_HOME']}/airflow.db")

DAGS_FOLDER = PROJECT_ROOT / "dags"


@pytest.fixture
def dag_bag(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Path], DagBag]]:
    """Parse the project's DAG files with the models of another folder."""
    from airflow.dag_processing.dagbag import DagBag

    def parse_models(models_dir: Path) -> DagBag:
        monkeypatch.setenv("EVERGREEN_MODELS_DIR", str(models_dir))
        get_settings.cache_clear()
        return DagBag(dag_folder=DAGS_FOLDER, bundle_path=DAGS_FOLDER)

    yield parse_models
    get_settings.cache_clear()


@pytest.fixture
def parse(dag_bag: Callable[[Path], DagBag]) -> Parse:
    """The same; an import error fails the test."""

    def parse_models(models_dir: Path) -> dict[str, DAG]:
        bag = dag_bag(models_dir)
        assert bag.import_errors == {}
        return dict(bag.dags)

    return parse_models


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
