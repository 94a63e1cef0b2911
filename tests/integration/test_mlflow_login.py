"""A wrong password, or too few rights, on a real MLflow that asks for them: configuration, at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from mlflow.exceptions import MlflowException

from evergreen.contract import ConfigurationError, FailureClass, RunIdentity, Window
from evergreen.runner import build_request, execute
from evergreen.settings import Settings, get_settings
from evergreen.training import registry
from evergreen.training.loading import load_version
from evergreen.training.signatures import stated_of_run
from evergreen.training.tracking import start_run
from evergreen_laptop.credentials import Credentials
from evergreen_laptop.mlflow_server import ensure_users
from evergreen_laptop.step_settings import MLFLOW_REGISTRY_USER, MLFLOW_STEPS_USER
from lifecycle_kit import Run, training_rows, write_model
from mlflow_kit import serve_mlflow

pytestmark = pytest.mark.integration

INI = """[mlflow]
default_permission = READ
database_uri = sqlite:///{folder}/auth.db
admin_username = admin
admin_password = admin-password-of-a-test
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
auth_cache_ttl_seconds = 60
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
def login(audit_settings: Settings, guarded: str, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
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
        lambda: registry.by_run("flight_delay", "0" * 32),
        lambda: stated_of_run("flight_delay", "0" * 32),
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


@pytest.fixture
def users(login: pytest.MonkeyPatch, guarded: str) -> Callable[[str], None]:
    """The users as `evergreen up` makes them; returns what logs in as one of them."""
    credentials = Credentials(mlflow_admin="admin-password-of-a-test")
    server = get_settings().model_copy(update={"mlflow_port": urlsplit(guarded).port})
    ensure_users(server, credentials)
    passwords = {MLFLOW_STEPS_USER: credentials.mlflow_steps, MLFLOW_REGISTRY_USER: credentials.mlflow_registry}

    def become(name: str) -> None:
        ensure_users(server, credentials)  # again, and nothing changes
        login.setenv("MLFLOW_TRACKING_USERNAME", name)
        login.setenv("MLFLOW_TRACKING_PASSWORD", passwords[name])

    return become


def trained(models: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Train and judge as the steps' user does, from the first model on."""
    monkeypatch.setenv("EVERGREEN_MODELS_DIR", str(models))
    get_settings.cache_clear()
    run = Run(write_model(models, "binary"), "first")
    run.assemble()
    run.train_without_ray(training_rows("binary"), Window(start=date(2024, 2, 1), end=date(2024, 3, 11)))
    run.steps("evaluate", "gate", "refit")
    return run


def test_each_step_does_its_own_with_its_own_user_and_the_steps_move_no_alias(
    users: Callable[[str], None], login: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """To set an alias or a tag and to delete need a right that only who registers has; neither is an administrator."""
    users(MLFLOW_STEPS_USER)
    run = trained(tmp_path / "models", login)
    users(MLFLOW_REGISTRY_USER)
    run.steps("register", "promote")
    users(MLFLOW_STEPS_USER)
    client, model = registry.connect(), run.model
    for forbidden in (
        lambda: client.set_registered_model_alias(model, "champion", "1"),
        lambda: client.delete_registered_model_alias(model, "champion"),
        lambda: client.set_model_version_tag(model, "1", "evergreen.training_end", "2024-01-01"),
        lambda: client.delete_model_version_tag(model, "1", "evergreen.training_end"),
        lambda: client.update_model_version(model, "1", "another description"),
        lambda: client.delete_model_version(model, "1"),
        lambda: client.create_model_version(model, "models:/m-1"),
        lambda: client.rename_registered_model(model, "another"),
        lambda: client.delete_registered_model(model),
    ):
        with pytest.raises(MlflowException, match="403"):
            forbidden()
    champion = registry.by_alias(model, "champion")
    assert load_version(champion).bound.version == champion.number == "1"


def test_what_the_steps_could_do_in_an_earlier_version_is_taken_away(
    users: Callable[[str], None], login: pytest.MonkeyPatch, guarded: str
) -> None:
    registry.connect()
    admin = ("admin", "admin-password-of-a-test")
    grant = {"username": MLFLOW_STEPS_USER, "resource_type": "registered_model", "permission": "MANAGE"}
    with httpx.Client(base_url=guarded, auth=admin, trust_env=False) as client:
        for name in ("*", "of_the_steps"):
            rights = {**grant, "resource_id": name}
            client.post("/api/3.0/mlflow/users/permissions/grant", json=rights).raise_for_status()
    registry.connect().create_registered_model("of_the_steps")

    login.setenv("MLFLOW_TRACKING_USERNAME", MLFLOW_STEPS_USER)
    users(MLFLOW_STEPS_USER)  # the next start
    with pytest.raises(MlflowException, match="403"):
        registry.connect().set_registered_model_tag("of_the_steps", "a", "b")


def test_too_few_rights_are_configuration(login: pytest.MonkeyPatch, guarded: str) -> None:
    from mlflow.server import get_app_client

    registry.connect()
    get_app_client("basic-auth", guarded).create_user("reader", "reader-password-of-a-test")
    start_run("flight_delay", "one", "key", {}, {})
    login.setenv("MLFLOW_TRACKING_USERNAME", "reader")
    login.setenv("MLFLOW_TRACKING_PASSWORD", "reader-password-of-a-test")
    with pytest.raises(ConfigurationError, match="MLFLOW_TRACKING_USERNAME"):
        start_run("flight_delay", "two", "other", {}, {})
