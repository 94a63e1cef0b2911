"""The command that replays a season, and the Airflow it drives where one is named by a setting."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated

import typer

from evergreen.contract import ConfigurationError
from evergreen.settings import get_settings

if TYPE_CHECKING:
    from evergreen_airflow.rest_api import AirflowApi


def replay_command(
    connect: Callable[[], AirflowApi], addresses: Callable[[], Mapping[str, str]]
) -> Callable[..., None]:
    """Return the command.

    Parameters
    ----------
    connect
        Gives the Airflow whose pipelines are run.
    addresses
        Gives where a person looks afterwards, by name.
    """

    def loop(
        through: Annotated[str, typer.Option(help="The last period: 2013-06, or a day.")] = "2013-06",
        model: Annotated[str, typer.Option(help="The model's name.")] = "flight_delay",
        start: Annotated[
            str | None, typer.Option(help="First day after the history; default: three months on.")
        ] = None,
        history_start: Annotated[str | None, typer.Option(help="First day; default: the first partition.")] = None,
        step: Annotated[str, typer.Option(help="month or week: the time between two judgements.")] = "month",
        in_process: Annotated[
            bool, typer.Option("--in-process", help="As plain function calls, without Airflow.")
        ] = False,
    ) -> None:
        """Replay a season: history, a first champion, then one period after another."""
        from evergreen_airflow.replay.loop import run_loop
        from evergreen_airflow.replay.plan import parse_day, parse_length

        os.umask(0o077)
        end = parse_day(through, "--through", last=True)
        first = parse_day(start, "--start", last=False) if start else None
        history = parse_day(history_start, "--history-start", last=False) if history_start else None
        airflow = None if in_process else connect
        run_loop(model, end, history, first, parse_length(step), airflow=airflow, addresses=addresses())

    return loop


def named_airflow() -> AirflowApi:
    """Return a client of the Airflow that is named by ``EVERGREEN_AIRFLOW_URL``.

    Raises
    ------
    ConfigurationError
        If none is named, or no password is given for it.
    """
    from evergreen_airflow.rest_api import AirflowApi

    settings = get_settings()
    if settings.airflow_url is None:
        raise ConfigurationError("EVERGREEN_AIRFLOW_URL is not set.", "Name the Airflow whose pipelines are to run.")
    if settings.airflow_password is None:
        raise ConfigurationError(
            f"EVERGREEN_AIRFLOW_URL is {settings.airflow_url}, but EVERGREEN_AIRFLOW_PASSWORD is not set.",
            f"Give the password of the user {settings.airflow_user!r} there.",
        )
    return AirflowApi(settings.airflow_url, settings.airflow_user, settings.airflow_password.get_secret_value())


def named_addresses() -> dict[str, str]:
    """Return where the user interfaces of that Airflow and of MLflow are."""
    settings = get_settings()
    return {"Airflow": settings.airflow_url or "", "MLflow": settings.mlflow_tracking_uri}
