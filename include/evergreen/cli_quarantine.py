"""The ``evergreen quarantine`` commands: which rows were not published and why, and how a person lets some pass."""

from __future__ import annotations

from typing import Annotated

import typer
from pydantic import JsonValue

from evergreen.cli_steps import day_of, run_by_hand

quarantine_app = typer.Typer(no_args_is_help=True, help="Show rows in quarantine, and release those that are right.")

_Model = Annotated[str, typer.Argument(help="The model's name.")]


@quarantine_app.command()
def show(
    model: _Model,
    source: Annotated[str | None, typer.Argument(help="Only this source; default: all.")] = None,
    partition: Annotated[str | None, typer.Option(help="Only this day, e.g. 2013-03-01; default: all.")] = None,
) -> None:
    """Show how many rows are in quarantine for which reason, with a few of them."""
    from rich.console import Console

    from evergreen.catalog import load_model
    from evergreen.data.quarantine import show as print_quarantine

    spec = load_model(model)
    sources = spec.sources if source is None else (spec.source(source),)
    print_quarantine(spec, sources, day_of(partition, "--partition") if partition else None, Console())


@quarantine_app.command()
def release(
    model: _Model,
    source: Annotated[str, typer.Argument(help="The source that the rows are of.")],
    partition: Annotated[str, typer.Argument(help="The day, e.g. 2013-03-01.")],
    why: Annotated[str, typer.Option(help="Why the rows are right; kept in the audit log.", prompt="Why")],
    reason: Annotated[str, typer.Option(help="Only what is held for this reason, as `show` names it.")] = "",
) -> None:
    """Exempt rows from the expectations that they do not meet, on record; the day is then to be ingested again."""
    params: dict[str, JsonValue] = {"source": source, "reason": reason, "why": why}
    facts = run_by_hand("release", model, params, day_of(partition, "PARTITION"))
    stay = f"; {facts['stay']} stay in quarantine" if facts["stay"] else ""
    rows = "1 row" if facts["rows"] == 1 else f"{facts['rows']} rows"
    are = "is" if facts["rows"] == 1 else "are"
    stay = stay.replace(" 1 stay ", " 1 stays ")
    typer.echo(f"{model}: {rows} of {source} of {partition} {are} released, record {facts['event']}{stay}.")
    conf = f'{{"partition": "{partition}"}}'
    typer.echo(f"Now run {model}.ingest for the day: evergreen airflow dags trigger {model}.ingest --conf '{conf}'")
