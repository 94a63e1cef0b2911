"""The commands of the documentation, and how a test runs one of them."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from evergreen import cli

NOT_RUN = re.compile(r"<!-- not run: .{10,} -->\n\Z")
"""What stands above a block whose commands cannot run where the tests do, with the reason."""


def blocks(text: str, language: str = "console") -> Iterator[tuple[str, bool]]:
    """Yield the blocks of a language, and whether the tests must run them."""
    for found in re.finditer(rf"^```{language}\n(.*?)^```", text, flags=re.M | re.S):
        yield found[1], not NOT_RUN.search(text[: found.start()])


def commands(text: str, placeholders: dict[str, str] | None = None) -> Iterator[list[str]]:
    """Yield the commands of a block, as argument lists without comments; ``<run id>`` and the like are filled in."""
    command = ""
    for line in text.replace("\\\n", " ").splitlines():
        command += re.sub(r"<([^<>]*)>", lambda name: (placeholders or {}).get(name[1], "PLACEHOLDER"), line) + "\n"
        try:
            words = shlex.split(command, comments=True)
        except ValueError:  # a quotation that goes on in the next line
            continue
        command = ""
        if words:
            yield words
    assert not command, f"a quotation is not closed: {command}"


def page_commands(page: Path, placeholders: dict[str, str] | None = None) -> list[list[str]]:
    """Return the commands of a page that the tests must run."""
    return [words for block, run in blocks(page.read_text()) if run for words in commands(block, placeholders)]


def run_cli(words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """Run an ``evergreen`` command in this process; it must end well; returns what it printed."""
    monkeypatch.setattr(sys, "argv", words)
    monkeypatch.setattr("evergreen.logs.configure", lambda: None)  # it would replace pytest's handlers
    with pytest.raises(SystemExit) as ended:
        cli.main()
    out, err = capsys.readouterr()
    assert not ended.value.code, err
    return out
