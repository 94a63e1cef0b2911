"""The ``evergreen`` command of a laptop: all that runs where steps run, and the services of this machine."""

from __future__ import annotations

from typing import Annotated

import typer

from evergreen.cli import app, main
from evergreen_airflow.replay.command import replay_command
from evergreen_laptop import embedded_airflow

app.command("loop")(replay_command(embedded_airflow.connect, embedded_airflow.addresses))


@app.command()
def up(
    foreground: Annotated[bool, typer.Option(help="Run the services in this terminal, until Ctrl-C.")] = False,
) -> None:
    """Start the services on this machine, or repair what is down."""
    from rich.console import Console

    from evergreen_laptop import control

    control.up(Console(), foreground=foreground)


@app.command()
def down() -> None:
    """Stop the services; nothing of them stays behind."""
    from rich.console import Console

    from evergreen_laptop import control

    control.down(Console())


@app.command()
def status() -> None:
    """Show each service: state, process, restarts, address. Exit code 0 only if all are healthy."""
    from rich.console import Console

    from evergreen_laptop import control

    raise typer.Exit(0 if control.status(Console()) else 1)


@app.command("airflow-settings")
def airflow_settings() -> None:
    """Load connections, pools and variables from airflow_settings.yaml into the running Airflow."""
    from evergreen_airflow.airflow_settings import SETTINGS_FILE, load, read

    settings = read()
    load(embedded_airflow.client(), settings)
    counts = (
        f"{len(settings.connections)} connections, {len(settings.pools)} pools, {len(settings.variables)} variables"
    )
    typer.echo(f"Loaded {counts} from {SETTINGS_FILE.name}.")


@app.command("airflow", context_settings={"ignore_unknown_options": True, "help_option_names": []})
def airflow(arguments: Annotated[list[str] | None, typer.Argument()] = None) -> None:
    """Run Airflow's own command line on the embedded Airflow, e.g. `evergreen airflow dags list`."""
    embedded_airflow.run(arguments or [])


__all__ = ["main"]
