"""Connections, pools and variables declared in airflow_settings.yaml (Astro's schema), and their loading."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Protocol
from urllib.parse import parse_qsl, unquote, urlsplit

import httpx
from pydantic import Field, JsonValue, model_validator

from evergreen.contract import ConfigurationError, Frozen, TemporaryError
from evergreen.documents import checked, read_text
from evergreen.fields import matching
from evergreen.settings import PROJECT_ROOT

SETTINGS_FILE = PROJECT_ROOT / "airflow_settings.yaml"


class Entry(Protocol):
    """Anything that can be declared."""

    def body(self) -> dict[str, Any]:
        """Return what Airflow's REST API takes."""
        ...


class DeclaredConnection(Frozen):
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
    def _typed(self) -> DeclaredConnection:
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


class DeclaredPool(Frozen):
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


class DeclaredVariable(Frozen):
    """A variable; a value that is no text is stored as JSON."""

    variable_name: str = Field(min_length=1, max_length=250)
    variable_value: JsonValue

    def body(self) -> dict[str, Any]:
        """Return what Airflow's REST API takes."""
        return {"key": self.variable_name, "value": self.variable_value}


class Declared(Frozen):
    """The ``airflow:`` section."""

    connections: tuple[DeclaredConnection, ...] = ()
    pools: tuple[DeclaredPool, ...] = ()
    variables: tuple[DeclaredVariable, ...] = ()

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
    airflow: Declared = Declared()


_SECRET = frozenset({"conn_password", "conn_uri", "conn_extra", "variable_value"})


def read(path: Path = SETTINGS_FILE) -> Declared:
    """Return what the file declares; nothing if there is no file.

    Raises
    ------
    ConfigurationError
        If it is not valid; the message names file, field and value.
    """
    if not path.exists():
        return Declared()
    hint = "The schema is that of Astro's airflow_settings.yaml."
    return checked(path, read_text(path), _File, hint, _SECRET).airflow


def load(url: str, password: str, declared: Declared | None = None) -> None:
    """Create what is declared in an Airflow, or bring it back to what is declared; the rest stays as it is.

    Parameters
    ----------
    url
        Address of the API server.
    password
        Of its user ``admin``.
    declared
        Default: the project's airflow_settings.yaml.

    Raises
    ------
    ConfigurationError
        If Airflow refuses an entry.
    TemporaryError
        If it does not answer.
    """
    declared = declared or read()
    groups: dict[str, Sequence[Entry]] = {
        "connections": declared.connections,
        "pools": declared.pools,
        "variables": declared.variables,
    }
    try:
        with httpx.Client(base_url=url, timeout=30, trust_env=False) as client:
            login = client.post("/auth/token", json={"username": "admin", "password": password}).raise_for_status()
            client.headers["authorization"] = f"Bearer {login.json()['access_token']}"
            for kind, entries in groups.items():
                if entries:
                    _overwrite(client, kind, [entry.body() for entry in entries])
    except httpx.HTTPError as error:
        raise TemporaryError(f"Airflow at {url}: {error}.", "See `evergreen status`.") from error


def _overwrite(client: httpx.Client, kind: str, entities: list[dict[str, Any]]) -> None:
    action = {"action": "create", "entities": entities, "action_on_existence": "overwrite"}
    response = client.patch(f"/api/v2/{kind}", json={"actions": [action]})
    errors = response.json().get("create", {}).get("errors") if response.is_success else response.text
    if errors:
        raise ConfigurationError(f"{SETTINGS_FILE}: {kind}: Airflow refuses them: {errors}.")


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
