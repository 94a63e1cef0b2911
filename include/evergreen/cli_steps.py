"""Steps that a person starts from a shell, on record under the person's name."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime
from getpass import getuser

import typer
from pydantic import JsonValue

from evergreen.contract import ConfigurationError


def shell_dag(model: str) -> str:
    """Return what stands for the DAG of steps that run outside Airflow: one a model, as each model's DAGs are."""
    return f"{model}.shell"


def day_of(value: str, option: str) -> date:
    """Return the day that an option names.

    Raises
    ------
    ConfigurationError
        If it is none.
    """
    try:
        return datetime.strptime(value, "%Y-%m-%d").date()  # a calendar day has no zone
    except ValueError as error:
        raise ConfigurationError(f"{option}={value!r} is not a day.", "Write it as 2013-03-01.") from error


def run_by_hand(
    step: str, model: str, params: Mapping[str, JsonValue], day: date | None = None
) -> dict[str, JsonValue]:
    """Run a step here for a day (default: today), with the user's name as ``by``; returns the facts of its manifest.

    Raises
    ------
    typer.Exit
        With the exit code of its class, if the step has failed; why is said by then.
    """
    from evergreen.contract import RunIdentity, Window, utc_now
    from evergreen.environment import complete
    from evergreen.logs import configure
    from evergreen.pipelines import STEPS
    from evergreen.runner import build_request, execute, exit_code

    configure()
    complete(STEPS[step].secrets)
    now = utc_now()
    window = Window(start=day or now.date(), end=day or now.date())
    run = RunIdentity(dag_id=shell_dag(model), run_id=f"{step}__{now.isoformat()}", task_id=step)
    manifest = execute(build_request(step, model, window, run, {}, {**params, "by": getuser()}))
    if manifest.failure:
        typer.echo(f"error: {manifest.failure.message} {manifest.failure.hint}".rstrip(), err=True)
        raise typer.Exit(exit_code(manifest))
    return manifest.facts
