"""Gives a test settings, a lake and a feature store of its own."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from dotenv import dotenv_values

from evergreen.settings import SIGNING_KEY, VERIFICATION_KEYS, Settings, get_settings
from evergreen.trust.keys import new_key

if TYPE_CHECKING:
    from sqlalchemy.engine import Engine


KEYS = new_key()
"""The private and the public key of this run of the tests."""


def execute(engine: Engine, statement: str) -> None:
    """Run a statement outside any transaction."""
    from sqlalchemy import text

    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text(statement))


@contextmanager
def own_settings(
    folder: Path, database_url: str | None = None, used: Sequence[str] = ("lake", "feast", "online", "audit")
) -> Iterator[Settings]:
    """Settings whose state, artifacts and lake are one folder, with a key; the databases that are used are emptied."""
    if database_url and os.environ.get("EVERGREEN_DATABASE_URL") == database_url:
        raise RuntimeError("a fixture of a wider scope is using the databases: put this test into a module of its own")
    with pytest.MonkeyPatch.context() as patch:
        for name in (
            "DATABASE_URL",
            "ARTIFACT_ROOT",
            "LAKE_ROOT",
            "MODELS_DIR",
            "FEATURE_REPO",
            "S3_ENDPOINT",
            "ATTEMPT",
        ):
            patch.delenv(f"EVERGREEN_{name}", raising=False)
        patch.setenv("EVERGREEN_STATE_DIR", str(folder / "state"))
        for variable, key in zip((SIGNING_KEY, VERIFICATION_KEYS), KEYS, strict=True):
            patch.setenv(variable, key)
        if database_url:
            patch.setenv("EVERGREEN_DATABASE_URL", database_url)
        forget_settings()
        if database_url:
            _empty_databases(get_settings(), used)
        yield get_settings()
        forget_settings()


@contextmanager
def inside(environment: Mapping[str, str]) -> Iterator[Settings]:
    """This process sees an installation as its steps do."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            if name.startswith(("EVERGREEN_", "AWS_")):
                patch.setenv(name, value)
        forget_settings()
        settings = get_settings()
        for file in (settings.config_file, settings.secrets_file):
            for name, told in dotenv_values(file, interpolate=False).items():
                patch.setenv(name, told or "")
        forget_settings()
        yield get_settings()
    forget_settings()


def _empty_databases(settings: Settings, used: Sequence[str]) -> None:
    from sqlalchemy import create_engine

    for name in used:
        engine = create_engine(settings.database(name))
        if name == "audit":
            # nothing else empties it; a superuser's session that replicates fires no trigger
            execute(engine, "SET session_replication_role = replica; TRUNCATE audit_log")
        else:
            execute(engine, "DROP SCHEMA public CASCADE; CREATE SCHEMA public")
        engine.dispose()


def forget_settings() -> None:
    """Let the next call read the environment again: settings, and what is connected by them."""
    from evergreen.data.lake import get_lake
    from evergreen.features.feast_repo import get_feature_store

    if get_lake.cache_info().currsize:
        get_lake().catalog.engine.dispose()
    get_lake.cache_clear()
    get_feature_store.cache_clear()
    get_settings.cache_clear()
