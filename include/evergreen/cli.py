"""The ``evergreen`` command."""

from __future__ import annotations

import json
import logging
import sys
from datetime import date, datetime
from typing import Annotated

import typer

from evergreen.contract import EXIT_CODES, ConfigurationError, RunIdentity, StepError, Window

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
models_app = typer.Typer(no_args_is_help=True, help="List, check and create models.")
app.add_typer(models_app, name="models")


def main() -> None:
    """Run the command; an error a user can cause ends in one clear sentence and the exit code of its class."""
    try:
        app()
    except StepError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(EXIT_CODES[error.failure_class])


def _day(value: str | None, option: str) -> date | None:
    if value is None:
        return None
    try:
        return datetime.strptime(value, "%Y-%m-%d").date()  # a calendar day has no zone
    except ValueError as error:
        raise ConfigurationError(f"{option}={value!r} is not a day.", "Write it as 2013-03-01.") from error


def _pairs(values: list[str], option: str) -> dict[str, str]:
    pairs = {}
    for value in values:
        key, separator, rest = value.partition("=")
        if not separator:
            raise ConfigurationError(f"{option}={value!r} is not of the form NAME=VALUE.")
        pairs[key] = rest
    return pairs


@app.command("run-step")
def run_step(
    step: str,
    model: Annotated[str, typer.Option(help="The model's name.")],
    partition: Annotated[str, typer.Option(help="The (last) daily partition, e.g. 2013-03-01.")],
    window_start: Annotated[str | None, typer.Option(help="First partition, when there are several.")] = None,
    dag_id: Annotated[str, typer.Option(help="The Airflow DAG this run belongs to.")] = "shell",
    run_id: Annotated[str | None, typer.Option(help="The run; default: the partition.")] = None,
    task_id: Annotated[str | None, typer.Option(help="The task; default: the step's name.")] = None,
    upstream: Annotated[list[str] | None, typer.Option(help="STEP=TASK_ID of the same run; repeatable.")] = None,
    param: Annotated[list[str] | None, typer.Option(help="NAME=JSON; repeatable.")] = None,
) -> None:
    """Run one step here and store its manifest."""
    from evergreen.runner import build_request, execute, exit_code, load_step

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    load_step(step)
    end = _day(partition, "--partition")
    assert end is not None  # noqa: S101  # --partition is required
    start = _day(window_start, "--window-start") or end
    if start > end:
        raise ConfigurationError(f"--window-start={start} is after --partition={end}.")
    params = {}
    for name, value in _pairs(param or [], "--param").items():
        try:
            params[name] = json.loads(value)
        except ValueError as error:
            raise ConfigurationError(f"--param={name}={value!r}: not JSON.", 'Quote text: name="value".') from error
    request = build_request(
        step,
        model,
        Window(start=start, end=end),
        RunIdentity(dag_id=dag_id, run_id=run_id or partition, task_id=task_id or step),
        _pairs(upstream or [], "--upstream"),
        params,
    )
    manifest = execute(request)
    typer.echo(manifest.model_dump_json(indent=2))
    if manifest.failure:
        typer.echo(f"error: {manifest.failure.message} {manifest.failure.hint}".rstrip(), err=True)
    raise typer.Exit(exit_code(manifest))


@app.command()
def loop(
    through: Annotated[str, typer.Option(help="The last period: 2013-06, or a day.")] = "2013-06",
    model: Annotated[str, typer.Option(help="The model's name.")] = "flight_delay",
    start: Annotated[str | None, typer.Option(help="First day after the history; default: three months on.")] = None,
    history_start: Annotated[str | None, typer.Option(help="First day; default: the first partition.")] = None,
    step: Annotated[str, typer.Option(help="month or week: the time between two judgements.")] = "month",
    in_process: Annotated[bool, typer.Option("--in-process", help="As plain function calls, without Airflow.")] = False,
) -> None:
    """Replay a season: history, a first champion, then one period after another."""
    from evergreen.local.loop import run_loop
    from evergreen.local.plan import parse_day, parse_length

    end = parse_day(through, "--through", last=True)
    first = parse_day(start, "--start", last=False) if start else None
    history = parse_day(history_start, "--history-start", last=False) if history_start else None
    run_loop(model, end, history, first, parse_length(step), in_process=in_process)


@models_app.command("list")
def models_list() -> None:
    """List the models, a line each."""
    from evergreen.catalog import load_models

    for spec in load_models():
        typer.echo(f"{spec.name}\t{spec.task}\t{spec.owner}\t{spec.description}")
