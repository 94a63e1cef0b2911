"""A wrong password, or too few rights, on a real MLflow that asks for them: configuration, at once."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import date

import pytest

from evergreen.contract import ConfigurationError, FailureClass, RunIdentity, Window
from evergreen.runner import build_request, execute
from evergreen.settings import Settings, get_settings
from evergreen.training import registry
from evergreen.training.tracking import start_run
from mlflow_kit import serve_mlflow

pytestmark = pytest.mark.integration

INI = """[mlflow]
default_permission = READ
database_uri = sqlite:///{folder}/auth.db
admin_username = admin
admin_password = admin-password-of-a-test
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
"""


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """MLflow with a login, as `evergreen up` runs it."""
    folder = tmp_path_factory.mktemp("guarded")
    (folder / "basic_auth.ini").write_text(INI.format(folder=folder))
    variables = {
        "MLFLOW_AUTH_CONFIG_PATH": str(folder / "basic_auth.ini"),
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "session-secret-of-a-test",
    }
    with serve_mlflow(folder, ["--app-name=basic-auth"], variables) as url:
        yield url


@pytest.fixture
def login(settings: Settings, guarded: str, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Settings that lead to it, as its administrator; change what a test is about."""
    monkeypatch.setenv("EVERGREEN_MLFLOW_TRACKING_URI", guarded)
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "admin-password-of-a-test")
    get_settings.cache_clear()
    return monkeypatch


def test_the_right_password_is_let_in(login: pytest.MonkeyPatch) -> None:
    assert registry.by_alias("flight_delay", "champion") is None
    assert start_run("flight_delay", "one", "key", {}, {})


@pytest.mark.parametrize(
    ("variable", "value"),
    [("MLFLOW_TRACKING_PASSWORD", "wrong"), ("MLFLOW_TRACKING_USERNAME", "nobody"), ("MLFLOW_TRACKING_PASSWORD", "")],
)
def test_a_wrong_login_is_configuration_at_once(login: pytest.MonkeyPatch, variable: str, value: str) -> None:
    login.setenv(variable, value)
    registry.import_mlflow()
    began = time.monotonic()
    for use in (
        lambda: registry.by_alias("flight_delay", "champion"),
        lambda: start_run("flight_delay", "one", "key", {}, {}),
        lambda: registry.register("flight_delay", "", "0" * 32, {}),
        lambda: registry.load("models:/flight_delay/1"),
    ):
        with pytest.raises(ConfigurationError, match="MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"):
            use()
    assert time.monotonic() - began < 30  # four calls that are not tried again


def test_a_step_with_a_wrong_password_fails_as_configuration(login: pytest.MonkeyPatch) -> None:
    login.setenv("MLFLOW_TRACKING_PASSWORD", "wrong")
    window = Window(start=date(2013, 4, 1), end=date(2013, 4, 1))
    run = RunIdentity(dag_id="m", run_id="r", task_id="check_drift")
    failed = execute(build_request("check_drift", "flight_delay", window, run, {}, {})).failure
    assert failed.failure_class is FailureClass.CONFIGURATION
    assert "401" in failed.message
    assert "wrong" not in failed.message.replace("wrong or missing", "")


def test_the_steps_need_no_administrator(login: pytest.MonkeyPatch, guarded: str) -> None:
    """In a cluster they have a user of their own, from the first champion on."""
    import mlflow
    import pandas as pd
    from mlflow.server import get_app_client

    frame = pd.DataFrame({"one": [1.0]})
    signature = mlflow.models.infer_signature(frame)
    registry.connect()
    get_app_client("basic-auth", guarded).create_user("evergreen-steps", "steps-password-of-a-test")
    login.setenv("MLFLOW_TRACKING_USERNAME", "evergreen-steps")
    login.setenv("MLFLOW_TRACKING_PASSWORD", "steps-password-of-a-test")
    assert registry.by_alias("of_the_steps", "champion") is None
    assert registry.by_run("of_the_steps", "0" * 32) is None
    run = start_run("of_the_steps", "one", "key", {}, {})
    with mlflow.start_run(run_id=run):
        mlflow.pyfunc.log_model(
            name="model", python_model=lambda model_input: model_input, signature=signature, pip_requirements=[]
        )
    version = registry.register("of_the_steps", "a model", run, {"replaced": "0"})
    assert registry.by_alias("of_the_steps", "champion") is None
    registry.set_alias(version, "champion")
    assert registry.by_alias("of_the_steps", "champion") == registry.by_run("of_the_steps", run) == version
    assert registry.load("models:/of_the_steps/1").predict(frame).equals(frame)


def test_too_few_rights_are_configuration(login: pytest.MonkeyPatch, guarded: str) -> None:
    from mlflow.server import get_app_client

    registry.connect()
    get_app_client("basic-auth", guarded).create_user("reader", "reader-password-of-a-test")
    start_run("flight_delay", "one", "key", {}, {})
    login.setenv("MLFLOW_TRACKING_USERNAME", "reader")
    login.setenv("MLFLOW_TRACKING_PASSWORD", "reader-password-of-a-test")
    with pytest.raises(ConfigurationError, match="MLFLOW_TRACKING_USERNAME"):
        start_run("flight_delay", "two", "other", {}, {})
