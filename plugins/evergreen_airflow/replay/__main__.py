"""``python -m evergreen_airflow.replay``: the replay against the Airflow that is named, as in a cluster."""

import typer

from evergreen.cli import main
from evergreen_airflow.replay.command import named_addresses, named_airflow, replay_command

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
app.command()(replay_command(named_airflow, named_addresses))
main(app)
