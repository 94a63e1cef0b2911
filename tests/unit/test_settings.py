"""Settings: where values come from, which wins, and that a wrong one is named."""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import ValidationError

from evergreen.contract import ConfigurationError
from evergreen.settings import (
    NO_SETTINGS,
    OWNERS,
    PROJECT_ROOT,
    Settings,
    export_service_environment,
    exposed,
    get_settings,
    misspelt,
    user_settings,
)


@pytest.fixture(autouse=True)
def _fresh(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A test's own state folder, and no .env of the checkout."""
    monkeypatch.setattr("evergreen.settings.ENV_FILE", tmp_path / ".env")
    get_settings.cache_clear()
    yield
    get_settings.cache_clear()


def test_everything_lives_in_the_state_folder(tmp_path: Path) -> None:
    found = get_settings()
    assert found.state_dir == tmp_path / "state"
    assert found.artifact_root == str(tmp_path / "state" / "artifacts")
    assert found.lake_root == str(tmp_path / "state" / "lake")


def test_the_environment_wins_over_dotenv_over_what_services_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVERGREEN_RUNTIME", "kubernetes")
    (tmp_path / ".env").write_text("EVERGREEN_RUNTIME=process\nEVERGREEN_NAMESPACE=from-dotenv\n")
    (tmp_path / "state/config").mkdir(parents=True)
    (tmp_path / "state/config/evergreen-settings.env").write_text(
        "EVERGREEN_RUNTIME=process\nEVERGREEN_NAMESPACE=from-services\nEVERGREEN_RAY_ADDRESS=ray://one\n"
    )
    found = get_settings()
    assert (found.runtime, found.namespace, found.ray_address) == ("kubernetes", "from-dotenv", "ray://one")


def test_a_secret_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVERGREEN_DATABASE_URL", "postgresql://me:hunter2@db:5432")
    get_settings.cache_clear()
    assert "hunter2" not in repr(get_settings())
    assert get_settings().database("lake") == "postgresql+psycopg://me:hunter2@db:5432/lake"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("RUNTIME", "docker"),
        ("AIRFLOW_PORT", "0"),
        ("AIRFLOW_PORT", "http"),
        ("ARTIFACT_ROOT", "gs://bucket"),
        ("LAKE_ROOT", ""),
    ],
)
def test_a_wrong_value_names_its_variable(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"EVERGREEN_{name}", value)
    get_settings.cache_clear()
    with pytest.raises(ConfigurationError) as raised:
        get_settings()
    assert f"EVERGREEN_{name}={value!r}: " in raised.value.message
    assert ".env" in raised.value.hint


@pytest.mark.parametrize(
    ("value", "expected"),
    [("s3://bucket/prefix/", "s3://bucket/prefix"), ("/data/", "/data"), ("s3://bucket", "s3://bucket")],
)
def test_a_location_has_one_spelling(monkeypatch: pytest.MonkeyPatch, value: str, expected: str) -> None:
    monkeypatch.setenv("EVERGREEN_ARTIFACT_ROOT", value)
    get_settings.cache_clear()
    assert get_settings().artifact_root == expected


def test_a_relative_location_does_not_depend_on_later_moves(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EVERGREEN_ARTIFACT_ROOT", "here")
    get_settings.cache_clear()
    assert get_settings().artifact_root == str(tmp_path / "here")


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        get_settings().runtime = "kubernetes"  # type: ignore[misc]


def test_databases_need_a_server_a_known_name_and_postgresql(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError, match=r"Start them with: evergreen up"):
        get_settings().database("lake")
    with pytest.raises(ConfigurationError, match="There is no database 'nope'"):
        get_settings().database("nope")
    monkeypatch.setenv("EVERGREEN_DATABASE_URL", "mysql://db")
    get_settings.cache_clear()
    with pytest.raises(ConfigurationError, match="'mysql' is not PostgreSQL"):
        get_settings().database("lake")


@pytest.mark.parametrize("password", ["s3cret[", "s3cret\N{FULLWIDTH COMMERCIAL AT}"])
def test_a_database_address_that_cannot_be_read_is_not_shown(password: str) -> None:
    with pytest.raises(ConfigurationError, match="EVERGREEN_DATABASE_URL is no address") as caught:
        Settings(database_url=f"postgresql://me:{password}@db").database("lake")  # type: ignore[arg-type]
    assert "s3cret" not in "".join(traceback.format_exception(caught.value))


def test_service_secrets_reach_libraries_but_never_replace_the_user_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "state/secrets").mkdir(parents=True)
    (tmp_path / "state/secrets/evergreen-secrets.env").write_text(
        "MLFLOW_TRACKING_USERNAME=steps\nMLFLOW_TRACKING_PASSWORD=generated$HOME\nEVERGREEN_RUNTIME=process\n"
    )
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "me")
    monkeypatch.delenv("EVERGREEN_RUNTIME", raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "")
    monkeypatch.delenv("MLFLOW_TRACKING_PASSWORD")
    export_service_environment()
    import os

    assert os.environ["MLFLOW_TRACKING_USERNAME"] == "me"
    assert os.environ.pop("MLFLOW_TRACKING_PASSWORD") == "generated$HOME"
    assert "EVERGREEN_RUNTIME" not in os.environ


def test_mlflow_s_address_follows_its_port(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVERGREEN_MLFLOW_PORT", "5055")
    assert get_settings().mlflow_tracking_uri == "http://127.0.0.1:5055"
    monkeypatch.setenv("EVERGREEN_MLFLOW_PORT", "many")
    get_settings.cache_clear()
    with pytest.raises(ConfigurationError) as raised:
        get_settings()
    assert "TRACKING_URI" not in raised.value.message  # follows from the port: not a second mistake


def test_a_relative_state_folder_does_not_depend_on_later_moves(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EVERGREEN_STATE_DIR", "here")
    get_settings.cache_clear()
    assert get_settings().state_dir == tmp_path / "here"


def test_what_services_add_is_not_what_a_person_has_set(tmp_path: Path) -> None:
    (tmp_path / "state/secrets").mkdir(parents=True)
    (tmp_path / "state/secrets/evergreen-secrets.env").write_text("EVERGREEN_DATABASE_URL=postgresql://a:b@h\n")
    assert get_settings().database_url is not None
    assert user_settings().database_url is None


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("postgresql://u:p%40@db:5432", "postgresql+psycopg://u:p%40@db:5432/lake"),
        ("postgres://u:p@db/other?sslmode=require", "postgresql+psycopg://u:p@db/lake?sslmode=require"),
        ("postgresql+psycopg://u@/?host=/run/pg", "postgresql+psycopg://u@/lake?host=/run/pg"),
    ],
)
def test_a_database_s_address_keeps_everything_but_the_name(url: str, expected: str) -> None:
    assert Settings(database_url=url).database("lake") == expected


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("EVERGREEN_ARTEFACT_ROOT", "Did you mean EVERGREEN_ARTIFACT_ROOT?"),
        ("evergreen_Databse_url", "Did you mean EVERGREEN_DATABASE_URL?"),
        ("EVERGREEN_AIRFLOW_PROT", "Did you mean EVERGREEN_AIRFLOW_PORT?"),
        ("EVERGREEN_QQQ", "docs/settings.md lists them all."),
        ("EVERGREEN_", "docs/settings.md lists them all."),
    ],
)
def test_a_misspelt_setting_is_told_without_its_value(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, hint: str
) -> None:
    monkeypatch.setenv(name, "hunter2")
    (tmp_path / ".env").write_text(f"{name}=hunter2\n")
    in_environment, in_file = misspelt()
    assert in_environment.startswith(f"{name}, in the environment, is no setting and is ignored. {hint}")
    assert in_file.startswith(f"{name}, in {tmp_path / '.env'}, is no setting and is ignored. {hint}")
    assert "hunter2" not in in_environment + in_file


def test_a_dotenv_with_secrets_that_others_can_read_is_told_without_them(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_text("EVERGREEN_DATABASE_URL=postgresql://me:hunter2@db\nEVERGREEN_RUNTIME=process\n")
    file.chmod(0o644)
    (warning,) = exposed()
    assert warning == (
        f"{file} holds EVERGREEN_DATABASE_URL, and other users of this machine can read it. Close it: chmod 600 {file}"
    )
    file.chmod(0o600)
    assert list(exposed()) == []
    file.write_text("EVERGREEN_RUNTIME=process\n")
    file.chmod(0o644)
    assert list(exposed()) == []


def test_airflow_s_and_mlflow_s_databases_may_have_roles_of_their_own() -> None:
    urls = {name: f"postgresql://{name}:secret@db:5433" for name in ("airflow", "mlflow", "steps")}
    found = Settings(
        database_url=urls["steps"], airflow_database_url=urls["airflow"], mlflow_database_url=urls["mlflow"]
    )
    for owner, databases in OWNERS.items():
        for name in databases:
            user = "steps" if owner == "audit" else owner  # as whose owner nobody logs in
            assert found.database(name) == f"postgresql+psycopg://{user}:secret@db:5433/{name}"
    wrong = Settings(database_url=urls["steps"], airflow_database_url="mysql://db")
    with pytest.raises(ConfigurationError, match="EVERGREEN_AIRFLOW_DATABASE_URL: 'mysql' is not PostgreSQL"):
        wrong.database("airflow")


def test_a_file_that_is_not_utf_8_is_named_and_not_quoted(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"EVERGREEN_AIRFLOW_PASSWORD=hunter2\xe9\n")
    assert list(misspelt()) == []
    with pytest.raises(ConfigurationError, match=r"\.env: not UTF-8: byte 34 is wrong\. Save it as UTF-8") as caught:
        get_settings()
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))


def test_a_file_that_is_no_list_of_settings_is_not_read(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("A=1\n" * 300_000)
    with pytest.raises(ConfigurationError, match=r"\.env: longer than 1,000,000 bytes"):
        get_settings()


def test_what_is_no_mistake_is_not_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings, the project's own variables, what Kubernetes adds for a Service evergreen-mlflow, and others'."""
    for name in ("EVERGREEN_RUNTIME", "evergreen_namespace", *(f"EVERGREEN_{name}" for name in NO_SETTINGS)):
        monkeypatch.setenv(name, "x")
    address = "10.0.0.7"
    links = {
        "SERVICE_HOST": address,
        "SERVICE_PORT": "5000",
        "SERVICE_PORT_HTTP": "5000",
        "PORT": f"tcp://{address}:5000",
        "PORT_5000_TCP": f"tcp://{address}:5000",
        "PORT_5000_TCP_PROTO": "tcp",
        "PORT_5000_TCP_PORT": "5000",
        "PORT_5000_TCP_ADDR": address,
        "PORT_53_UDP_ADDR": address,
    }
    for name, value in links.items():
        monkeypatch.setenv(f"EVERGREEN_FEAST_ONLINE_{name}", value)
    (tmp_path / ".env").write_text("AWS_REGION=x\nEVERGREENS=1\nEVERGREEN_LAKE_ROOT=/x\n")
    assert list(misspelt()) == []


def test_every_variable_that_the_code_names_is_known() -> None:
    code = [
        path for room in ("include", "plugins", "dags", "feature_repo") for path in (PROJECT_ROOT / room).rglob("*.*")
    ]
    text = "".join(path.read_text() for path in code if path.suffix in {".py", ".yaml", ".tmpl"})
    named = {name for name in re.findall(r"EVERGREEN_([A-Z0-9_]*[A-Z0-9])\b", text) if name != "X"}  # X: any
    assert named
    assert named <= NO_SETTINGS | {field.upper() for field in Settings.model_fields}
