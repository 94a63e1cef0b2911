"""The ``evergreen models`` commands: what there is, whether it is right, and how a new one begins."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Annotated

import typer

from evergreen.cli_steps import day_of
from evergreen.contract import ConfigurationError, writable
from evergreen.spec import Task

models_app = typer.Typer(no_args_is_help=True, help="List, check and create models.")


@models_app.command("list")
def models_list() -> None:
    """List the models, a line each; then what is wrong with the others."""
    from evergreen.catalog import survey

    models, problems = survey()
    for spec in models:
        typer.echo(f"{spec.name}\t{spec.task}\t{spec.owner}\t{spec.description}")
    if problems:
        raise ConfigurationError("\n".join(map(str, problems.values())))


@models_app.command("validate")
def models_validate(
    name: Annotated[str | None, typer.Argument(help="The model's name; default: all models.")] = None,
) -> None:
    """Check models and everything they name: files, functions, SQL, expectations, Feast definitions."""
    from evergreen.authoring.checks import check_models

    by_model = {}
    for model, errors in check_models([name] if name else None):  # said one by one: the next one may take long
        by_model[model] = errors
        outcome = "ok" if not errors else f"{sum(error.times for error in errors)} problem(s)"
        typer.echo(f"{writable(model)}: {outcome}")
        for error in errors:
            typer.echo(f"  {error.message}\n    Fix: {error.hint}".replace("\n", "\n  "), err=True)
    wrong = [model for model, errors in by_model.items() if errors]
    if wrong:
        raise ConfigurationError(f"{len(wrong)} of {len(by_model)} models cannot run: {', '.join(wrong)}.")


@models_app.command("verify")
def models_verify(
    version: Annotated[str, typer.Argument(help="MODEL@VERSION, or MODEL@champion.")],
    keep: Annotated[Path | None, typer.Option(help="A new folder for the files and their signatures.")] = None,
    answers: Annotated[
        bool, typer.Option(help="Load it, which runs its network.py, and ask its golden requests.")
    ] = True,
) -> None:
    """Verify a registered version: its signature, its files, its tags, and that it answers as it did in training.

    For the last a process loads it, which runs its network.py on this machine, as its author wrote it: with
    --no-answers nothing of it is run. Prints what it is bound to.
    """
    from evergreen.judgement.champions import refuse_if_moved
    from evergreen.settings import export_service_environment
    from evergreen.training.registry import CHAMPION
    from evergreen.training.verification import verified_version

    export_service_environment()
    model, _, named = version.partition("@")
    if named == CHAMPION:
        refuse_if_moved(model)
    bound, requests = verified_version(version, keep, answers=answers)
    answered = f", and answers {requests} golden requests as in training" if requests else ""
    answered = answered if answers else "; nothing of it was run"
    typer.echo(f"{bound.model}@{bound.version}: verified{answered}")
    about = {"run_id": bound.run_id, "logged_model": bound.logged_model} | dict(sorted(bound.facts.items()))
    for name, value in about.items():
        typer.echo(f"  {name}: {value}")


@models_app.command("new")
def models_new(
    name: Annotated[str, typer.Argument(help="Lower case letters, digits and underscores.")],
    task: Annotated[Task, typer.Option(help="What kind of value it predicts.")] = Task.BINARY,
    owner: Annotated[str | None, typer.Option(help="Who answers for it; default: you.")] = None,
    team: Annotated[str | None, typer.Option(help="The owner's team; default: the owner.")] = None,
    start: Annotated[str | None, typer.Option(help="First day the source has; default: this 1 January.")] = None,
) -> None:
    """Create a model that passes `models validate` at once and runs when its source is filled in."""
    from getpass import getuser

    from evergreen.authoring.scaffold import create_model

    owner = owner or getuser()
    first = day_of(start, "--start") if start else date.today().replace(month=1, day=1)
    files = create_model(name, task, owner, team or owner, first)
    for path in files:
        typer.echo(f"created {path}")
    source = next(path for path in files if path.name == "source.py")
    typer.echo(f"Next: fill in {source}, adapt the rest, then run: evergreen models validate {name}")
