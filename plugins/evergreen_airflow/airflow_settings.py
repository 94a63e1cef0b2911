"""Connections, pools and variables declared in airflow_settings.yaml (Astro's schema), and their loading."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Protocol
from urllib.parse import parse_qsl, unquote, urlsplit

from pydantic import Field, JsonValue, model_validator

from evergreen.contract import ConfigurationError, Frozen
from evergreen.field_types import matching
from evergreen.settings import PROJECT_ROOT
from evergreen.yaml_files import checked, read_text
from evergreen_airflow.rest_api import AirflowApi

SETTINGS_FILE = PROJECT_ROOT / "airflow_settings.yaml"


class Entry(Protocol):
    """Anything that can be declared."""

    def body(self) -> dict[str, Any]:
        """Return what Airflow's REST API takes."""
        ...


class Connection(Frozen):
    """A connection; either ``conn_uri`` or the single fields."""

    conn_id: Annotated[str, matching(r"[\w.-]{1,200}", "at most 200 letters, digits, underscores, dots and hyphens")]
    conn_type: str | None = None
    conn_host: str | None = None
    conn_schema: str | None = None
    conn_login: str | None = None
    conn_password: str | None = None
    conn_port: int | None = None
    conn_uri: str | None = None
    conn_extra: dict[str, JsonValue] | str | None = None

    @model_validator(mode="after")
    def _typed(self) -> Connection:
        if (self.conn_type is None) == (self.conn_uri is None):
            raise ValueError("conn_type: give either conn_type or conn_uri")
        return self

    def body(self) -> dict[str, Any]:
        """Return what Airflow's REST API takes."""
        if self.conn_uri:
            return {"connection_id": self.conn_id, **_parts(self.conn_uri)}
        extra = json.dumps(self.conn_extra) if isinstance(self.conn_extra, dict) else self.conn_extra
        return {
            "connection_id": self.conn_id,
            "conn_type": self.conn_type,
            "host": self.conn_host,
            "schema": self.conn_schema,
            "login": self.conn_login,
            "password": self.conn_password,
            "port": self.conn_port,
            "extra": extra or None,
        }


class Pool(Frozen):
    """A pool."""

    pool_name: str = Field(min_length=1, max_length=256)
    pool_slot: int = Field(ge=-1)
    pool_description: str | None = None

    def body(self) -> dict[str, Any]:
        """Return what Airflow's REST API takes.

        On a cluster a step waits deferred for its pod: it holds its slot only in a pool that counts deferred tasks.
        """
        return {
            "name": self.pool_name,
            "slots": self.pool_slot,
            "description": self.pool_description,
            "include_deferred": True,
        }


class Variable(Frozen):
    """A variable; a value that is no text is stored as JSON."""

    variable_name: str = Field(min_length=1, max_length=250)
    variable_value: JsonValue

    def body(self) -> dict[str, Any]:
        """Return what Airflow's REST API takes."""
        return {"key": self.variable_name, "value": self.variable_value}


class AirflowSettings(Frozen):
    """The ``airflow:`` section."""

    connections: tuple[Connection, ...] = ()
    pools: tuple[Pool, ...] = ()
    variables: tuple[Variable, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _without_blanks(cls, data: Any) -> Any:
        """Entries of Astro's own template have nothing but empty fields and an example: they declare nothing."""
        if not isinstance(data, dict):
            return data
        return {kind: [entry for entry in entries if not _is_blank(entry)] for kind, entries in data.items() if entries}


def _is_blank(entry: Any) -> bool:
    return isinstance(entry, dict) and not any(value for name, value in entry.items() if name != "conn_extra")


class _File(Frozen):
    airflow: AirflowSettings = AirflowSettings()


_SECRET = frozenset({"conn_password", "conn_uri", "conn_extra", "variable_value"})


def read(path: Path = SETTINGS_FILE) -> AirflowSettings:
    """Return what the file declares; nothing if there is no file.

    Raises
    ------
    ConfigurationError
        If it is not valid; the message names file, field and value.
    """
    if not path.exists():
        return AirflowSettings()
    hint = "The schema is that of Astro's airflow_settings.yaml."
    return checked(path, read_text(path), _File, hint, _SECRET).airflow


def load(api: AirflowApi, settings: AirflowSettings) -> None:
    """Create what is declared in an Airflow, or bring it back to what is declared; the rest stays as it is.

    Raises
    ------
    ConfigurationError
        If Airflow refuses an entry.
    TemporaryError
        If it does not answer.
    """
    groups: dict[str, Sequence[Entry]] = {
        "connections": settings.connections,
        "pools": settings.pools,
        "variables": settings.variables,
    }
    for kind, entries in groups.items():
        if entries and (refused := api.overwrite(kind, [entry.body() for entry in entries])):
            raise ConfigurationError(f"{SETTINGS_FILE}: {kind}: Airflow refuses them: {refused}.")


def _parts(uri: str) -> dict[str, Any]:
    parts = urlsplit(uri)
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    return {
        "conn_type": parts.scheme.replace("-", "_"),
        "host": unquote(parts.hostname) if parts.hostname else None,
        "schema": unquote(parts.path[1:]) or None,
        "login": unquote(parts.username) if parts.username else None,
        "password": unquote(parts.password) if parts.password else None,
        "port": parts.port,
        "extra": query.get("__extra__") or (json.dumps(query) if query else None),
    }
