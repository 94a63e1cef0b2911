"""A run's model becomes a version: once, signed, and not before it is found to load and to answer as it did."""

from __future__ import annotations

from collections.abc import Mapping

from evergreen.contract import DataError
from evergreen.training.golden import found_wrong
from evergreen.training.loading import FILES
from evergreen.training.registry import Version, by_number, by_run, connect, mlflow_errors, set_tags, version_of
from evergreen.training.signatures import sign_version, stated_of_version, verified_files
from evergreen.trust.statement import Statement


def register(signed: Statement, description: str, tags: Mapping[str, str]) -> Version:
    """Register the model a run logged, once: a second call returns the version of the first.

    Parameters
    ----------
    signed
        What ``train`` has signed of it, verified.
    description
        Of the registered model.
    tags
        What is to be known of the version; they become part of what is signed.

    Raises
    ------
    DataError
        If a process of its own cannot load it, or gets other answers than training: no alias may point to it.
    """
    from mlflow.exceptions import MlflowException

    client, model, run_id = connect(), signed.bound.model, signed.bound.run_id
    version = by_run(model, run_id)
    if version is None:
        with mlflow_errors():
            try:
                client.create_registered_model(model, description=description)
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
            logged = signed.bound.logged_model
            created = client.create_model_version(model, f"models:/{logged}", run_id=run_id, model_id=logged)
        version = by_run(model, run_id) or version_of(created)  # of two processes at once both return the older one
    set_tags(version, tags)
    version = by_number(model, version.number)
    sign_version(signed, version, dict(tags))
    _check_loads(version)
    return version


def _check_loads(version: Version) -> None:
    """Refuse a version that does not load, or does not answer as it did, where nothing is left of its training."""
    with verified_files(stated_of_version(version), version.uri) as folder:
        problem = found_wrong(folder / FILES)
    if problem:
        raise DataError(
            f"{version.uri}: it is registered, but {problem}.",
            "No alias points to it. What the network needs must be in its files: parameters, or buffers that are "
            f"persistent. Correct network.py, delete the run {version.run_id} in MLflow, then clear train.",
        )
