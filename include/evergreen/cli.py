"""The ``evergreen`` command."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from datetime import UTC, datetime
from typing import Annotated, cast

import typer
from pydantic import JsonValue

from evergreen.cli_audit import audit_app
from evergreen.cli_models import models_app
from evergreen.cli_quarantine import quarantine_app
from evergreen.cli_serving import serving_app, tokens_app
from evergreen.cli_steps import day_of, run_by_hand, shell_dag
from evergreen.contract import (
    ConfigurationError,
    FailureClass,
    RunIdentity,
    StepError,
    Stopped,
    TemporaryError,
    Window,
    exit_code_of,
    utc_now,
)

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
app.add_typer(models_app, name="models")
app.add_typer(audit_app, name="audit")
app.add_typer(quarantine_app, name="quarantine")
app.add_typer(serving_app)
app.add_typer(tokens_app, name="tokens")


def main(command: typer.Typer = app) -> None:
    """Run a command; an error a user can cause ends in one clear sentence and the exit code of its class."""
    from evergreen.settings import exposed, misspelt

    for warning in (*misspelt(), *exposed()):
        sys.stderr.write(f"warning: {warning}\n")
    try:
        command()
    except StepError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(exit_code_of(error.failure_class))
    except ModuleNotFoundError as error:  # Airflow's image has the command, but not the libraries of the steps
        if str(error.name).startswith("evergreen"):
            raise
        sys.stderr.write(f"error: {error.name} is not installed here. Run this where steps run: in the step image.\n")
        sys.exit(exit_code_of(FailureClass.CONFIGURATION))


def _moment(value: str, option: str) -> datetime:
    try:
        moment = datetime.fromisoformat(value)
    except ValueError as error:
        raise ConfigurationError(f"{option}={value!r} is not a time.", "Write it as 2013-06-01T12:00.") from error
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    if moment > utc_now():
        raise ConfigurationError(f"{option}={value!r} is yet to come.", "Name a time that has been.")
    return moment


def _pairs(values: list[str], option: str) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for value in values:
        key, separator, rest = value.partition("=")
        if not separator or not key:
            raise ConfigurationError(f"{option}={value!r} is not of the form NAME=VALUE.")
        if key in pairs:
            raise ConfigurationError(f"{option}={value!r}: {key!r} is given twice.", "Give it once.")
        pairs[key] = rest
    return pairs


def _no_constant(text: str) -> None:
    raise ValueError(f"{text} is Python's, not JSON's")


def _json(name: str, text: str) -> JsonValue:
    try:
        return cast("JsonValue", json.loads(text, parse_constant=_no_constant))
    except ValueError as error:
        raise ConfigurationError(
            f"--param={name}={text!r}: not JSON.", f"Quote text: --param='{name}=\"value\"'."
        ) from error


@contextmanager
def _stdout_to_stderr() -> Iterator[None]:
    """Keep standard output for the manifest: what a reader, a library or a program they start prints is log."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


@app.command("run-step")
def run_step(
    step: str,
    model: Annotated[str, typer.Option(help="The model's name.")],
    partition: Annotated[str, typer.Option(help="The (last) daily partition, e.g. 2013-03-01.")],
    window_start: Annotated[str | None, typer.Option(help="First partition, when there are several.")] = None,
    dag_id: Annotated[str | None, typer.Option(help="The Airflow DAG; default: none, noted as MODEL.shell.")] = None,
    run_id: Annotated[str | None, typer.Option(help="The run; default: the partition.")] = None,
    task_id: Annotated[str | None, typer.Option(help="The task; default: the step's name.")] = None,
    upstream: Annotated[
        list[str] | None, typer.Option(help="STEP=TASK_ID of the same run, or STEP=DAG_ID/RUN_ID/TASK_ID; repeatable.")
    ] = None,
    param: Annotated[list[str] | None, typer.Option(help="NAME=JSON; repeatable.")] = None,
) -> None:
    """Run one step here and store its manifest; the manifest is printed as one line of JSON, the log is stderr."""
    from evergreen.environment import complete
    from evergreen.logs import configure
    from evergreen.pipelines import STEPS
    from evergreen.runner import build_request, check_step, execute, exit_code, stoppable

    configure()
    os.umask(0o077)  # what a step leaves on this machine is nobody else's to read
    check_step(step)
    end = day_of(partition, "--partition")
    start = day_of(window_start, "--window-start") if window_start else end
    if start > end:
        raise ConfigurationError(f"--window-start={start} is after --partition={end}.", "Swap them.")
    run = RunIdentity(dag_id=dag_id or shell_dag(model), run_id=run_id or str(end), task_id=task_id or step)
    params = {name: _json(name, text) for name, text in _pairs(param or [], "--param").items()}
    complete(STEPS[step].secrets)
    try:
        with stoppable():
            window = Window(start=start, end=end)
            with _stdout_to_stderr():
                manifest = execute(
                    build_request(step, model, window, run, _pairs(upstream or [], "--upstream"), params)
                )
    except Stopped:
        raise TemporaryError("Stopped by SIGTERM.", "Run it again.") from None
    typer.echo(manifest.model_dump_json())
    if manifest.failure:
        typer.echo(f"error: {manifest.failure.message} {manifest.failure.hint}".rstrip(), err=True)
    raise typer.Exit(exit_code(manifest))


@app.command()
def partitions(
    model: Annotated[str, typer.Argument(help="The model's name.")],
    last: Annotated[int, typer.Option(min=1, help="How many days to show.")] = 31,
) -> None:
    """Show what is published day by day: rows, quarantined rows, snapshot."""
    from rich.console import Console

    from evergreen.catalog import load_model
    from evergreen.data.partitions import show

    show(load_model(model), Console(), last)


@app.command()
def history(
    model: Annotated[str | None, typer.Argument(help="Only this model's decisions.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The events, one a line.")] = False,
    at: Annotated[str, typer.Option(help="A time (UTC), e.g. 2013-06-01T12:00: which version was champion then.")] = "",
) -> None:
    """Show what was decided and what followed, newest last: the scores, the evidence, the reason, who."""
    from evergreen.catalog import load_model
    from evergreen.judgement.audit import log_of, models_with_events
    from evergreen.store import get_store

    if model is not None:
        load_model(model)
    store = get_store()
    surveys = {name: log_of(store, name).survey() for name in ([model] if model else models_with_events(store))}
    logs = {name: events for name, (events, _) in surveys.items()}
    problems = [problem for _, unreadable in surveys.values() for problem in unreadable]
    if at:
        from evergreen.judgement.history import champion_at

        for name, log in logs.items():
            typer.echo(champion_at(name, log, _moment(at, "--at")))
    elif as_json:
        for event in (event for log in logs.values() for event in log):
            typer.echo(event.model_dump_json(exclude_none=True))
    elif any(logs.values()):
        from rich.console import Console

        from evergreen.judgement.history import history_table

        Console().print(history_table(logs, _who_ask(model)))
    elif not problems:
        typer.echo("No decisions yet: a challenger is judged by <model>.train.")
    if problems:
        raise ConfigurationError("\n".join(map(str, problems)))


def _who_ask(model: str | None) -> frozenset[str]:
    """Return the models whose promotions people have to approve."""
    from evergreen.catalog import load_model, survey

    try:
        specs = [load_model(model)] if model is not None else survey().models
    except ConfigurationError:  # no models folder: what is on record can be shown all the same
        return frozenset()
    return frozenset(spec.name for spec in specs if spec.approval.required)


@app.command()
def rollback(
    model: Annotated[str, typer.Argument(help="The model's name.")],
    reason: Annotated[str, typer.Option(help="Why; kept in the log of decisions.", prompt="Why")],
    to: Annotated[str, typer.Option(help="A version that was champion, or none; default: the one before.")] = "",
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for a confirmation.")] = False,
) -> None:
    """Let an earlier champion serve again, or put back an alias moved by hand: logs who did it and why."""
    if not yes:
        typer.confirm(f"Let {f'version {to}' if to else 'the champion before'} of {model} serve again?", abort=True)
    facts = run_by_hand("rollback", model, {"version": to, "reason": reason})
    instead = f", instead of {facts['previous']}" if facts["previous"] != facts["version"] else ""
    outcome = f"version {facts['version']} is champion again" if facts["version"] else "there is no champion now"
    typer.echo(f"{model}: {outcome}{instead}.")


@app.command("feast", context_settings={"ignore_unknown_options": True, "help_option_names": []})
def feast(arguments: Annotated[list[str] | None, typer.Argument()] = None) -> None:
    """Run Feast's own command line in feature_repo/, e.g. `evergreen feast apply`."""
    from evergreen.features.feast_repo import run_feast

    run_feast(arguments or [])
