"""A run's model becomes a version: once, signed, and not before it is found to load."""

from __future__ import annotations

from collections.abc import Mapping

from evergreen.contract import DataError, StepError
from evergreen.training.loading import load_version
from evergreen.training.registry import Version, by_number, by_run, connect, mlflow_errors, set_tags, version_of
from evergreen.training.signatures import sign_version
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
        If it cannot be loaded: no alias may point to such a version.
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
    """Load a version and ask it about a row of which nothing is known."""
    try:
        scorer = load_version(version)
        scorer.predict(scorer.nothing_known())
    except StepError:
        raise
    except Exception as error:  # whatever torch and the model's own code raise
        raise DataError(
            f"{version.uri}: it is registered, but does not load: {type(error).__name__}: {error}.",
            f"No alias points to it. Delete the run {version.run_id} in MLflow, then clear train.",
        ) from error
