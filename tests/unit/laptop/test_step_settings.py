"""What the steps are told, which half is secret, and what Airflow and MLflow are told."""

from __future__ import annotations

import configparser
import json
import os
import traceback
from pathlib import Path

import pytest
import yaml

from evergreen.contract import ConfigurationError
from evergreen.settings import SIGNING_KEY, VERIFICATION_KEYS, Settings
from evergreen.trust import keys
from evergreen_laptop import embedded_airflow, mlflow_server, step_settings
from evergreen_laptop.credentials import Credentials, credentials_file, ensure_credentials, read_credentials
from evergreen_laptop.files import write_env_file
from isolation import KEYS
from lifecycle_kit import write_model

URL = "postgresql://evergreen:s3cret%25@127.0.0.1:1"


@pytest.fixture
def user(tmp_path: Path) -> Settings:
    return Settings(state_dir=tmp_path, database_url=URL, s3_endpoint="http://s3")


def test_the_public_half_has_no_secret(user: Settings) -> None:
    config = step_settings.step_config(user)
    assert "s3cret" not in json.dumps(config)
    assert config["EVERGREEN_S3_ENDPOINT"] == "http://s3"
    assert config["EVERGREEN_STATE_DIR"] == str(user.state_dir)
    assert config["EVERGREEN_LAKE_ROOT"] == f"{user.state_dir}/lake"


def test_nothing_phones_home(user: Settings) -> None:
    config = step_settings.step_config(user)
    assert config["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert config["RAY_USAGE_STATS_ENABLED"] == "0"
    assert config["DO_NOT_TRACK"] == "1"
    assert config["GX_ANALYTICS_ENABLED"] == "false"


def test_both_halves_are_private_files_settings_can_read(user: Settings) -> None:
    secrets = step_settings.step_secrets(user, URL, Credentials())
    write_env_file(user.config_file, step_settings.step_config(user))
    write_env_file(user.secrets_file, secrets)
    for path in (user.config_file, user.secrets_file):
        assert path.stat().st_mode & 0o777 == 0o600
    found = Settings(_env_file=(user.config_file, user.secrets_file))
    assert found.database_url is not None
    assert found.database_url.get_secret_value() == URL
    assert found.state_dir == user.state_dir


@pytest.mark.parametrize(
    ("root", "source", "told"),
    [
        ("s3://bucket/lake", None, True),
        (None, "s3://orders/{partition}.parquet", True),
        (None, "/data/orders/{partition}.parquet", False),
        (None, None, False),
    ],
)
def test_steps_get_the_keys_to_s3_only_where_something_lies_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, root: str | None, source: str | None, told: bool
) -> None:
    models = tmp_path / "models"
    monkeypatch.setenv("EVERGREEN_MODELS_DIR", str(models))
    if source:
        write_model(models, "binary")
        file = models / "small_binary" / "model.yaml"
        content = yaml.safe_load(file.read_text())
        del content["sources"][0]["reader"]
        content["sources"][0] |= {"type": "parquet", "options": {"path": source}}
        file.write_text(yaml.safe_dump(content))
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    secret = {"AWS_SECRET_ACCESS_KEY": "s3cret", "AWS_ACCESS_KEY_ID": "key", "AWS_SESSION_TOKEN": "token"}
    public = {"AWS_DEFAULT_REGION": "us-east-1", "AWS_ENDPOINT_URL_S3": "https://s3.example.com"}
    for name, value in {**secret, **public}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("EVERGREEN_STATE_DIR", str(tmp_path))
    if root:
        monkeypatch.setenv("EVERGREEN_LAKE_ROOT", root)
    found = step_settings.step_secrets(Settings(), URL, Credentials()), step_settings.step_config(Settings())
    of_aws = [{name: value for name, value in half.items() if name.startswith("AWS_")} for half in found]
    assert of_aws == ([secret, public] if told else [{}, {}])


@pytest.mark.parametrize(("address", "told"), [("ray://ray.example.com:10001", True), ("local", False)])
def test_steps_are_let_in_to_a_ray_elsewhere(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, address: str, told: bool
) -> None:
    public = {"RAY_AUTH_MODE": "token", "RAY_USE_TLS": "1", "RAY_TLS_CA_CERT": "/etc/ca.pem"}
    for name, value in {**public, "RAY_AUTH_TOKEN": "s3cret", "RAY_ADDRESS": "ray://another:10001"}.items():
        monkeypatch.setenv(name, value)
    own = Settings(state_dir=tmp_path, ray_address=address)
    config, secrets = step_settings.step_config(own), step_settings.step_secrets(own, URL, Credentials())
    assert secrets.get("RAY_AUTH_TOKEN") == ("s3cret" if told else None)
    assert (public.items() <= config.items()) is told
    assert not {"RAY_AUTH_TOKEN", "RAY_ADDRESS"} & config.keys()


@pytest.mark.parametrize(
    ("uri", "embedded"),
    [("http://127.0.0.1:5000", True), ("http://localhost:5000", True), ("https://mlflow.example.com", False)],
)
def test_only_the_embedded_mlflow_is_shown_its_password_and_not_the_administrator_s(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, uri: str, embedded: bool
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "me")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "mine")
    credentials = Credentials()
    own = Settings(state_dir=tmp_path, mlflow_tracking_uri=uri, mlflow_port=5000)
    secrets = step_settings.step_secrets(own, URL, credentials)
    expected = (step_settings.MLFLOW_STEPS_USER, credentials.mlflow_steps) if embedded else ("me", "mine")
    assert (secrets["MLFLOW_TRACKING_USERNAME"], secrets["MLFLOW_TRACKING_PASSWORD"]) == expected


@pytest.mark.parametrize(("uri", "embedded"), [("http://127.0.0.1:5000", True), ("https://mlflow.example.com", False)])
def test_what_only_some_steps_are_given_is_in_neither_half(tmp_path: Path, uri: str, embedded: bool) -> None:
    credentials = Credentials()
    own = Settings(state_dir=tmp_path, mlflow_tracking_uri=uri, mlflow_port=5000, verification_keys=KEYS[1])
    signing = step_settings.signing_secrets(own, credentials)
    registry = step_settings.registry_secrets(own, credentials)
    public = step_settings.public_keys(own, credentials)
    told = json.dumps([step_settings.step_config(own), public, step_settings.step_secrets(own, URL, credentials)])
    assert credentials.signing_key == signing[SIGNING_KEY]
    assert registry.get("MLFLOW_TRACKING_PASSWORD") == (credentials.mlflow_registry if embedded else None)
    assert [secret for secret in (credentials.signing_key, credentials.mlflow_registry) if secret in told] == []
    # another installation's key, or an older one, is believed beside its own
    assert public[VERIFICATION_KEYS].split() == [keys.published(credentials.signing_key), KEYS[1]]


def test_a_key_of_one_s_own_is_used_in_any_form_and_no_service_inherits_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pem = f"-----BEGIN PRIVATE KEY-----\n{KEYS[0]}\n-----END PRIVATE KEY-----\n"
    monkeypatch.setenv(SIGNING_KEY, pem)
    own = Settings(state_dir=tmp_path)
    write_env_file(own.step_secret_file("signing"), step_settings.signing_secrets(own, Credentials()))
    assert own.step_secret_file("signing").read_text() == f"{SIGNING_KEY}={KEYS[0]}\n"
    assert SIGNING_KEY not in step_settings.service_environment(step_settings.step_config(own))


def test_the_warm_service_is_given_what_a_step_is_given_but_no_secret(tmp_path: Path) -> None:
    service = {"PATH": "/bin", "HOME": "/home/me", "MLFLOW_TRACKING_PASSWORD": "s3cret", "AIRFLOW_HOME": "/airflow"}
    given = step_settings.step_environment(service, {"DO_NOT_TRACK": "1"}, tmp_path)
    own = {"DO_NOT_TRACK": "1", "TMPDIR": str(tmp_path), "PYTHONUNBUFFERED": "1"}
    assert given == {"PATH": "/bin", "HOME": "/home/me", **own}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, "127.0.0.1,localhost"),
        ({"no_proxy": "corp"}, "corp,127.0.0.1,localhost"),
        ({"NO_PROXY": "localhost,corp"}, "localhost,corp,127.0.0.1"),
    ],
)
def test_loopback_never_goes_through_a_proxy(before: dict[str, str], after: str) -> None:
    assert step_settings.without_proxy(before) == after


def test_credentials_are_made_once_and_gain_new_fields(user: Settings) -> None:
    first = ensure_credentials(user)
    assert ensure_credentials(user) == first
    path = credentials_file(user)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    old = json.loads(path.read_text())
    del old["airflow_viewer"]
    path.write_text(json.dumps(old))
    again = ensure_credentials(user)
    assert again.airflow_admin == first.airflow_admin
    assert again.airflow_viewer not in {"", first.airflow_viewer}
    assert read_credentials(user) == again


def test_damaged_or_missing_credentials_say_what_to_do(user: Settings) -> None:
    with pytest.raises(ConfigurationError, match="evergreen up"):
        read_credentials(user)
    credentials_file(user).parent.mkdir()
    for damaged, said in (
        ('{"airflow_admin": "s3cret"', "all of it: Invalid JSON"),
        ('{"mlflow_admin": ["s3cret"]}', "mlflow"),
    ):
        credentials_file(user).write_text(damaged)
        with pytest.raises(ConfigurationError, match=rf"{said}.* remove it") as caught:
            ensure_credentials(user)
        assert "s3cret" not in "".join(traceback.format_exception(caught.value))


def test_airflow_reads_back_what_was_meant(user: Settings) -> None:
    credentials = Credentials()
    embedded_airflow.write_airflow_config(user, credentials)
    home = embedded_airflow.airflow_home(user)
    # interpolated, as Airflow reads it: the percent sign of the password survives
    parser = configparser.ConfigParser()
    parser.read(home / "airflow.cfg")
    assert parser["database"]["sql_alchemy_conn"] == user.database("airflow")
    assert parser["core"]["execution_api_server_url"] == f"http://127.0.0.1:{user.airflow_port}/execution/"
    assert parser["api"]["host"] == "127.0.0.1"
    assert (home / "airflow.cfg").stat().st_mode & 0o777 == 0o600
    assert json.loads((home / "passwords.json").read_text()) == credentials.airflow_passwords
    assert (home / "config" / "airflow_local_settings.py").is_file()
    embedded_airflow.write_airflow_config(user, credentials)  # again: nothing is in the way


def test_mlflow_addresses_are_in_no_command_line_and_its_file_is_private(user: Settings) -> None:
    variables = mlflow_server.mlflow_environment(user, Credentials())
    path = Path(variables["MLFLOW_AUTH_CONFIG_PATH"])
    assert path.stat().st_mode & 0o777 == 0o600
    parser = configparser.ConfigParser()
    parser.read(path)
    assert parser["mlflow"]["database_uri"] == user.database("mlflow_auth")
    assert variables["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] == "false"


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:8333", None])
def test_mlflow_is_told_where_s3_is(user: Settings, endpoint: str | None) -> None:
    variables = mlflow_server.mlflow_environment(user.model_copy(update={"s3_endpoint": endpoint}), Credentials())
    assert variables.get("MLFLOW_S3_ENDPOINT_URL") == endpoint
