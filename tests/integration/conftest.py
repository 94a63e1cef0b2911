"""Real servers of the integration tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from evergreen.settings import Settings, get_settings
from mlflow_kit import serve_mlflow


@pytest.fixture(scope="session")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real MLflow server on a free port of loopback; its address."""
    with serve_mlflow(tmp_path_factory.mktemp("mlflow"), [], {}) as url:
        yield url


@pytest.fixture
def mlflow_settings(audit_settings: Settings, mlflow_server: str, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings of this test that point to the session's MLflow."""
    monkeypatch.setenv("EVERGREEN_MLFLOW_TRACKING_URI", mlflow_server)
    get_settings.cache_clear()
    return get_settings()
