"""``evergreen serve`` and ``evergreen tokens``."""

from __future__ import annotations

import getpass
import os
import re
from datetime import timedelta
from typing import Annotated

import typer

from evergreen.contract import ConfigurationError, utc_now
from evergreen.environment import add

serving_app = typer.Typer(no_args_is_help=True)
tokens_app = typer.Typer(no_args_is_help=True, help="The tokens with which clients ask for predictions.")

_LASTS = re.compile(r"([1-9][0-9]{0,3})d")


@serving_app.command("serve")
def serve(
    model: Annotated[list[str] | None, typer.Option(help="A model to serve; repeatable. Default: all.")] = None,
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int | None, typer.Option(help="Default: EVERGREEN_SERVING_PORT.")] = None,
    certificate: Annotated[str | None, typer.Option(help="PEM file; with --key the server speaks TLS.")] = None,
    key: Annotated[str | None, typer.Option(help="Its private key.")] = None,
    wait: Annotated[bool, typer.Option(help="Start without a champion: not ready until there is one.")] = False,
) -> None:
    """Answer requests for predictions, with the champions, until told to stop."""
    # whoever serves does not stop for a registry that is away: it is asked again at the next look
    # nor for a PostgreSQL that lets nobody in
    least = {"EVERGREEN_MLFLOW_RETRY_SECONDS": "0", "PGCONNECT_TIMEOUT": "2"}
    add({name: os.environ.get(name, value) for name, value in least.items()})
    from evergreen.logs import configure
    from evergreen.serving.server import run_server

    if (certificate is None) != (key is None):
        raise ConfigurationError("--certificate and --key go together.", "Give both, or none.")
    configure()
    run_server(model or [], host, port, certificate, key, wait=wait)


@tokens_app.command("create")
def create(
    client: Annotated[str, typer.Argument(help="Who is to have it.")],
    model: Annotated[list[str] | None, typer.Option(help="A model it may ask; repeatable. Default: all.")] = None,
    expires: Annotated[str | None, typer.Option(help="After how many days it opens nothing more, e.g. 90d.")] = None,
    requests_per_second: Annotated[float | None, typer.Option(min=0.01, help="Its limit of each model.")] = None,
) -> None:
    """Make a token for a client and print it: it is shown once."""
    from evergreen.catalog import load_model
    from evergreen.serving.tokens import create_token

    for name in model or []:
        load_model(name)
    end = None
    if expires is not None:
        lasts = _LASTS.fullmatch(expires)
        if lasts is None:
            raise ConfigurationError(f"--expires={expires!r} is no number of days.", "Write it as 90d.")
        end = utc_now() + timedelta(days=int(lasts[1]))
    typer.echo(create_token(client, getpass.getuser(), model or [], end, requests_per_second))


@tokens_app.command("list")
def list_tokens() -> None:
    """Show every token there is, by its id: the token itself is kept nowhere."""
    from rich.console import Console
    from rich.table import Table

    from evergreen.serving.tokens import read_tokens

    table = Table(box=None)
    for name in ("id", "client", "models", "requests/s", "made", "by", "expires", "state"):
        table.add_column(name, no_wrap=name in {"id", "state"})
    now = utc_now()
    for token in read_tokens():
        ended = "revoked" if token.revoked else "expired"
        table.add_row(
            *(token.id, token.client, ", ".join(sorted(token.models)) if token.models else "all"),
            f"{token.requests_per_second:g}" if token.requests_per_second else "",
            *(f"{token.created:%Y-%m-%d}", token.created_by),
            f"{token.expires:%Y-%m-%d}" if token.expires else "never",
            "valid" if token.valid(now) else ended,
        )
    Console().print(table)


@tokens_app.command("revoke")
def revoke(identity: Annotated[str, typer.Argument(help="Its id, which is the second part of the token.")]) -> None:
    """Take a token back: within seconds it opens nothing more."""
    from evergreen.serving.tokens import revoke_token

    token = revoke_token(identity)
    typer.echo(f"{token.id} of {token.client} is revoked.")
