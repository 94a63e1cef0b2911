"""What the bootstrap makes of airflow_settings.yaml."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
from chart_bootstrap import SCRIPTS


@pytest.fixture(scope="module")
def airflow_settings() -> ModuleType:
    """The program that loads airflow_settings.yaml, as a module."""
    spec = importlib.util.spec_from_file_location("chart_airflow_settings", SCRIPTS / "airflow_settings.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_what_is_declared_becomes_what_airflow_imports(airflow_settings: ModuleType, tmp_path: Path) -> None:
    from evergreen_airflow.airflow_settings import read

    file = tmp_path / "airflow_settings.yaml"
    file.write_text(
        """
airflow:
  connections:
    - {conn_id: a, conn_type: http, conn_host: example.com, conn_port: 80, conn_extra: {x: 1}}
    - {conn_id: b, conn_uri: "postgresql://me:secret@db:5432/name"}
  pools: [{pool_name: training, pool_slot: 1}]
  variables: [{variable_name: v, variable_value: [1, 2]}]
"""
    )
    found = read(file)
    assert airflow_settings.pools(found) == {"training": {"slots": 1, "description": "", "include_deferred": True}}
    assert airflow_settings.connections(found) == {
        "a": {"conn_type": "http", "host": "example.com", "port": 80, "extra": '{"x": 1}'},
        "b": {
            "conn_type": "postgresql",
            "host": "db",
            "login": "me",
            "password": "secret",
            "port": 5432,
            "schema": "name",
        },
    }
    assert airflow_settings.variables(found) == {"v": [1, 2]}
