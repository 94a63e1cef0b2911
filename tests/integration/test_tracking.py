"""The run of a training in a real MLflow, found again whenever the step was killed."""

from __future__ import annotations

from uuid import uuid4

import pytest

from evergreen.settings import Settings
from evergreen.training.registry import TAG, connect
from evergreen.training.tracking import start_run

pytestmark = pytest.mark.integration
PARAMS = {"epochs": 5, "network": "network.py:build"}


def test_a_run_is_created_once_with_tags_and_parameters(mlflow_settings: Settings) -> None:
    model, key = f"model-{uuid4()}", uuid4().hex
    first = start_run(model, "one", key, {"partition": "2013-03-01"}, PARAMS)
    assert start_run(model, "one", key, {"partition": "2013-03-01"}, PARAMS) == first
    assert start_run(model, "other", uuid4().hex, {}, PARAMS) != first
    found = connect().get_run(first)
    assert found.info.run_name == "one"
    assert found.data.params == {"epochs": "5", "network": "network.py:build"}
    assert found.data.tags.items() >= {f"{TAG}run_key": key, f"{TAG}partition": "2013-03-01"}.items()


def test_a_run_whose_step_was_killed_before_it_logged_gets_its_parameters(mlflow_settings: Settings) -> None:
    model, key = f"model-{uuid4()}", uuid4().hex
    client = connect()
    killed = client.create_run(client.create_experiment(model), tags={f"{TAG}run_key": key}).info.run_id
    assert start_run(model, "one", key, {}, PARAMS) == killed
    assert client.get_run(killed).data.params == {"epochs": "5", "network": "network.py:build"}
