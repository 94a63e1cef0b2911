"""Load the connections, pools and variables of airflow_settings.yaml into Airflow's database.

Through Airflow's own command line, which needs no running API server and no user: it works with any auth manager.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from evergreen_airflow.airflow_settings import AirflowSettings, read

CONNECTION_FIELDS = ("conn_type", "description", "host", "schema", "login", "password", "port", "extra")


def pools(settings: AirflowSettings) -> dict[str, Any]:
    """Return the pools as `airflow pools import` reads them."""
    return {
        body.pop("name"): {**body, "description": body["description"] or ""}
        for body in (pool.body() for pool in settings.pools)
    }


def connections(settings: AirflowSettings) -> dict[str, Any]:
    """Return the connections as `airflow connections import` reads them."""
    return {
        body["connection_id"]: {name: body[name] for name in CONNECTION_FIELDS if body.get(name) is not None}
        for body in (connection.body() for connection in settings.connections)
    }


def variables(settings: AirflowSettings) -> dict[str, Any]:
    """Return the variables as `airflow variables import` reads them."""
    return {variable.variable_name: variable.variable_value for variable in settings.variables}


def load(kind: str, entries: dict[str, Any], *options: str) -> None:
    """Hand entries to Airflow; no entries, no call."""
    if not entries:
        return
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"{kind}.json"
        file.write_text(json.dumps(entries))
        subprocess.run([sys.executable, "-m", "airflow", kind, "import", str(file), *options], check=True)


def main() -> None:
    """Do it."""
    settings = read()
    load("pools", pools(settings))
    load("connections", connections(settings), "--overwrite")
    load("variables", variables(settings))


if __name__ == "__main__":
    main()
