"""Tokens in a real PostgreSQL: made, shown once, counted by a server, taken back."""

from __future__ import annotations

from datetime import timedelta

import psycopg
import pytest
from typer.testing import CliRunner

from evergreen.cli import app
from evergreen.contract import ConfigurationError, utc_now
from evergreen.serving.clients import TokenBook
from evergreen.serving.tokens import create_token, read_tokens, revoke_token
from evergreen.settings import Settings


@pytest.fixture(autouse=True)
def _no_tokens(lake_settings: Settings) -> None:
    with psycopg.connect(lake_settings.database("serving").replace("+psycopg", "")) as connection:
        connection.execute("DROP TABLE IF EXISTS serving_tokens")


def _known() -> TokenBook:
    book = TokenBook()
    book.refresh()
    return book


def test_a_token_is_known_until_it_is_taken_back() -> None:
    assert read_tokens() == []
    shown = create_token("shop", "anna", ["flight_delay"], requests_per_second=5)
    client = _known().client_of(shown)
    assert client
    assert (client.name, client.models, client.requests_per_second) == ("shop", frozenset({"flight_delay"}), 5)
    revoke_token(shown.split("_")[1])
    assert _known().client_of(shown) is None


def test_a_token_ends_when_it_was_said_to() -> None:
    assert _known().client_of(create_token("late", "anna", expires=utc_now() - timedelta(seconds=1))) is None


def test_the_table_holds_no_token(lake_settings: Settings) -> None:
    shown = create_token("shop", "anna")
    with psycopg.connect(lake_settings.database("serving").replace("+psycopg", "")) as connection:
        kept = str(connection.execute("SELECT * FROM serving_tokens").fetchall())
    assert shown.split("_", 2)[2] not in kept


def test_a_token_that_is_not_there_cannot_be_taken_back() -> None:
    create_token("shop", "anna")
    with pytest.raises(ConfigurationError, match="There is no token 'ffff'"):
        revoke_token("ffff")


def test_a_person_makes_lists_and_revokes_tokens() -> None:
    run = CliRunner()
    made = run.invoke(app, ["tokens", "create", "shop", "--model", "flight_delay", "--expires", "90d"])
    assert made.exit_code == 0, made.output
    shown = made.output.strip()
    identity = shown.split("_")[1]
    listed = run.invoke(app, ["tokens", "list"])
    assert identity in listed.output
    assert "valid" in listed.output
    assert shown not in listed.output
    assert run.invoke(app, ["tokens", "revoke", identity]).output == f"{identity} of shop is revoked.\n"
    assert "revoked" in run.invoke(app, ["tokens", "list"]).output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["a b"], "cannot be a client's name"),
        (["shop", "--expires", "soon"], "is no number of days"),
        (["shop", "--model", "flights"], "flights"),
    ],
)
def test_what_is_no_token_is_refused_before_one_is_made(arguments: list[str], said: str) -> None:
    done = CliRunner().invoke(app, ["tokens", "create", *arguments])
    assert isinstance(done.exception, ConfigurationError)
    assert said in str(done.exception)
    assert read_tokens() == []
