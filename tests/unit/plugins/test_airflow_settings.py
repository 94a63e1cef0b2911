"""airflow_settings.yaml: Astro's schema, and what a mistake in it says."""

from __future__ import annotations

import json
import re
import traceback
from pathlib import Path

import pytest

from evergreen.contract import ConfigurationError
from evergreen_airflow import airflow_settings


def _read(tmp_path: Path, text: str) -> airflow_settings.AirflowSettings:
    path = tmp_path / "airflow_settings.yaml"
    path.write_text(text)
    return airflow_settings.read(path)


def test_the_projects_own_file_is_valid_and_declares_what_the_dags_use() -> None:
    found = airflow_settings.read()
    assert ("training", 1) in {(pool.pool_name, pool.pool_slot) for pool in found.pools}
    assert "kubernetes_default" in {connection.conn_id for connection in found.connections}


def test_a_deferred_task_holds_its_slot() -> None:
    (training,) = airflow_settings.read().pools
    body = training.body()
    assert (body["name"], body["slots"], body["include_deferred"]) == ("training", 1, True)


def test_astros_empty_template_declares_nothing(tmp_path: Path) -> None:
    template = """
airflow:
  connections:
    - conn_id:
      conn_type:
      conn_host:
      conn_extra:
        example_extra_field: example-value
  pools:
    - pool_name:
      pool_slot:
      pool_description:
  variables:
    - variable_name:
      variable_value:
"""
    assert _read(tmp_path, template) == airflow_settings.AirflowSettings()
    with pytest.raises(ConfigurationError, match=r"connections, entry 1, conn_id"):
        _read(tmp_path, template.replace("conn_type:", "conn_type: http"))


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("{conn_id: x, conn_password: s3cret}", "connections, entry 1, conn_type: give either"),
        ("{conn_type: http, conn_password: s3cret}", "connections, entry 1, conn_id: the field is missing"),
        (
            "{conn_id: x, conn_type: http, conn_password: [s3cret]}",
            "connections, entry 1, conn_password: Input should",
        ),
        (
            "{conn_id: x, conn_type: http, conn_password: 73577357}",
            "connections, entry 1, conn_password: Input should",
        ),
    ],
)
def test_a_password_is_in_no_message(tmp_path: Path, entry: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said) as caught:
        _read(tmp_path, f"airflow: {{connections: [{entry}]}}")
    told = "".join(traceback.format_exception(caught.value))
    assert not {"s3cret", "73577357"} & set(re.findall(r"\w+", told))


@pytest.mark.parametrize("text", ["{conn_id: [, conn_password: s3cret}", "{conn_id: x, conn_password: s3cret: }"])
def test_a_line_that_is_no_yaml_is_not_quoted(tmp_path: Path, text: str) -> None:
    with pytest.raises(
        ConfigurationError, match=r"airflow_settings\.yaml: line 2, column \d+: not valid YAML"
    ) as caught:
        _read(tmp_path, f"airflow:\n  connections: [{text}]\n")
    assert "s3cret" not in "".join(traceback.format_exception(caught.value))


def test_no_file_declares_nothing(tmp_path: Path) -> None:
    assert airflow_settings.read(tmp_path / "none.yaml") == airflow_settings.AirflowSettings()


def test_a_connection_by_fields(tmp_path: Path) -> None:
    found = _read(
        tmp_path,
        "airflow: {connections: [{conn_id: db, conn_type: postgres, conn_host: h, conn_port: 5432, "
        "conn_extra: {a: 1}}]}",
    )
    body = found.connections[0].body()
    assert body["connection_id"] == "db"
    assert (body["conn_type"], body["host"], body["port"]) == ("postgres", "h", 5432)
    assert json.loads(body["extra"]) == {"a": 1}


def test_a_connection_by_uri(tmp_path: Path) -> None:
    uri = "google-cloud://us%40er:p%2Fw@host:80/schema?project=x&n=1"
    found = _read(tmp_path, f"airflow: {{connections: [{{conn_id: c, conn_uri: '{uri}'}}]}}")
    body = found.connections[0].body()
    assert json.loads(body.pop("extra")) == {"project": "x", "n": "1"}
    assert body == {
        "connection_id": "c",
        "conn_type": "google_cloud",
        "host": "host",
        "schema": "schema",
        "login": "us@er",
        "password": "p/w",
        "port": 80,
    }


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("airflow: {pools: [{pool_name: p, pool_slot: many}]}", r"pools, entry 1, pool_slot: .*'many'"),
        ("airflow: {pools: [{pool_name: p, pool_slots: 1}]}", r"pools, entry 1, pool_slots"),
        ("airflow: {pool: [{pool_name: p, pool_slot: 1}]}", r"airflow\.pool:"),
        ("airflow: {connections: [{conn_id: c}]}", "either conn_type or conn_uri"),
        ("airflow: {connections: [{conn_id: c, conn_type: t, conn_uri: 't://'}]}", "either conn_type or conn_uri"),
        ("airflow: {connections: [{conn_id: 'a b', conn_type: t}]}", r"conn_id: .*'a b'"),
        ("airflow: [", "not valid YAML"),
    ],
)
def test_a_mistake_names_file_field_and_value(tmp_path: Path, text: str, names: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"(?s)airflow_settings\.yaml: .*{names}"):
        _read(tmp_path, text)


def test_a_setting_given_twice_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"line 3, column 3: .*the key 'pools' is given twice"):
        _read(tmp_path, "airflow:\n  pools: []\n  pools: []\n")
