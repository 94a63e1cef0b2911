"""Bring MLflow's two databases up to date and its users in line with the Secret.

`admin` is for people. The steps have two users, which are no administrators: `evergreen-steps`, every step's, manages
experiments and reads registered models; `evergreen-registry`, that of the steps which register, promote and roll back,
manages these. The server of predictions, where there is one, has `evergreen-serving`, which reads and does no more.
A new password in the Secret becomes the user's at the next `helm upgrade`.
With the argument --wait: only wait until that has been done.
"""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow.server.auth.sqlalchemy_store import SqlAlchemyStore

STEPS_USER, REGISTRY_USER, SERVING_USER = "evergreen-steps", "evergreen-registry", "evergreen-serving"
RIGHTS = {
    STEPS_USER: {"experiment": "MANAGE"},
    REGISTRY_USER: {"experiment": "EDIT", "registered_model": "MANAGE"},
    SERVING_USER: {},
}
"""What each may do with everything of a kind; all read, by the server's default."""
PATIENCE = 900.0  # seconds


def migrate() -> None:
    """Create or upgrade the tables of experiments and registry."""
    from mlflow.store.db import utils

    engine = utils.create_sqlalchemy_engine_with_retry(os.environ["MLFLOW_BACKEND_STORE_URI"])
    if utils._all_tables_exist(engine):
        utils._upgrade_db(engine)
    else:
        utils._initialize_tables(engine)
    engine.dispose()


def users() -> SqlAlchemyStore:
    """Return the store of users, its tables up to date."""
    from mlflow.server.auth.sqlalchemy_store import SqlAlchemyStore

    store = SqlAlchemyStore()
    store.init_db(os.environ["EVERGREEN_MLFLOW_AUTH_URI"])
    return store


def ensure_user(store: SqlAlchemyStore, name: str, password: str, *, is_admin: bool) -> None:
    """Create a user, or give it this password."""
    if not store.has_user(name):
        store.create_user(name, password, is_admin=is_admin)
        print(f"user {name} created", flush=True)
    elif not store.authenticate_user(name, password):
        store.update_user(name, password=password)
        print(f"user {name} has the new password", flush=True)


def permit(store: SqlAlchemyStore, user: str) -> None:
    """Give a user its rights, and take away any other on registered models: whoever creates one may do all with it."""
    held = {("experiment", one.experiment_id): one.permission for one in store.list_experiment_permissions(user)}
    models = store.list_registered_model_permissions(user)
    held |= {("registered_model", one.name): one.permission for one in models}
    wanted = {(kind, "*"): permission for kind, permission in RIGHTS[user].items()}
    for (kind, name), permission in held.items():
        if (name == "*" or kind == "registered_model") and wanted.get((kind, name)) != permission:
            store.revoke_user_resource_permission(user, kind, name)
            print(f"user {user}: {permission} on {kind} {name} is taken away", flush=True)
    for (kind, name), permission in wanted.items():
        if held.get((kind, name)) != permission:
            store.grant_user_resource_permission(user, kind, name, permission)


def wait() -> None:
    """Return when the last user is there: the last thing this job does."""
    import psycopg

    address = os.environ["EVERGREEN_MLFLOW_AUTH_URI"].replace("+psycopg", "")
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        try:
            with psycopg.connect(address, connect_timeout=5) as connection:
                if connection.execute("SELECT 1 FROM users WHERE username = %s", (REGISTRY_USER,)).fetchone():
                    return
        except psycopg.Error as error:
            print(f"waiting: {error}", flush=True)
        time.sleep(2)
    raise SystemExit("MLflow's databases were not prepared: see the log of the bootstrap job.")


def main() -> None:
    """Do it."""
    migrate()
    store = users()
    ensure_user(store, "admin", os.environ["MLFLOW_AUTH_ADMIN_PASSWORD"], is_admin=True)
    ensure_user(store, STEPS_USER, os.environ["MLFLOW_STEPS_PASSWORD"], is_admin=False)
    permit(store, STEPS_USER)
    if password := os.environ.get("MLFLOW_SERVING_PASSWORD"):
        ensure_user(store, SERVING_USER, password, is_admin=False)
        permit(store, SERVING_USER)
    ensure_user(store, REGISTRY_USER, os.environ["MLFLOW_REGISTRY_PASSWORD"], is_admin=False)
    permit(store, REGISTRY_USER)


if __name__ == "__main__":
    wait() if "--wait" in sys.argv else main()
