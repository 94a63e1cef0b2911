"""YAML files that people write: what is no YAML, and what is not what it must be, is said in words."""

from __future__ import annotations

import os
import re
import traceback
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field

from evergreen.contract import ConfigurationError, Frozen
from evergreen.field_types import matching
from evergreen.mistakes import Mistake, Mistakes
from evergreen.yaml_files import checked, read_yaml


class Shelf(Frozen):
    """Something that a person describes."""

    name: Annotated[str, matching("[a-z]+", "lower-case letters")] = "shelf"
    password: str | None = None


class Book(Frozen):
    """Something that has no defaults."""

    title: str


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "the file is empty"),
        (b"# only a comment\n", "the file is empty"),
        (b"name: a\nowner: x\nname: b\n", "line 3, column 1: not valid YAML: the key 'name' is given twice"),
        (b"gate:\n  metric: auc\n  metric: brier\n", "line 3, column 3: not valid YAML: the key 'metric' is given"),
        (b"gate: {auc: 1, auc: 2}\n", "the key 'auc' is given twice"),
        (b"gate:\n\tmetric: auc\n", "line 2, column 1: not valid YAML: a character that cannot start anything here"),
        (b"name: caf\xe9\n", "not UTF-8: byte 9 is wrong"),
        (b"name: [a\n", "not valid YAML"),
        (b"name: Flights: late\n", "line 1, column 14: not valid YAML: mapping values are not allowed"),
        (b"start: 2013-02-30\n", "not valid YAML: day is out of range for month"),
        (b"run: !!python/object/apply:os.system [id]\n", "could not determine a constructor for the tag"),
        (b"text: \x00\n", "not valid YAML"),
        (b'a: 1\n"b\\0c": 1\n', "line 2, column 1: not valid YAML: a control character, such as \\0, in a text"),
        (b'owner: "ann\\ea"\n', "line 1, column 8: not valid YAML: a control character"),
    ],
)
def test_what_is_no_yaml_is_named_with_its_line(tmp_path: Path, content: bytes, expected: str) -> None:
    path = tmp_path / "model.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigurationError) as raised:
        read_yaml(path)
    assert raised.value.message.startswith(f"{path}: ")
    assert expected in raised.value.message
    assert raised.value.hint


def test_right_yaml_is_read_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_bytes(b"\xef\xbb\xbfa: &base {x: 1}\nb: {<<: *base, y: 2}\nc: [{x: 1}, {x: 2}]\n")
    assert read_yaml(path) == {"a": {"x": 1}, "b": {"x": 1, "y": 2}, "c": [{"x": 1}, {"x": 2}]}


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"nope.yaml: there is no such file"):
        read_yaml(tmp_path / "nope.yaml")
    with pytest.raises(ConfigurationError, match="cannot be read: Is a directory"):
        read_yaml(tmp_path)


def test_an_empty_file_gives_the_defaults_if_there_are_any(tmp_path: Path) -> None:
    assert checked(tmp_path / "x.yaml", "# nothing\n", Shelf, "") == Shelf()
    with pytest.raises(ConfigurationError, match=r"x\.yaml: the file is empty\. See the page"):
        checked(tmp_path / "x.yaml", "", Book, "See the page.")


@pytest.mark.parametrize("text", ["Top-Left", '"top\\n"', '""'])
def test_what_is_allowed_is_said_in_words(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigurationError, match=r"x\.yaml: name: lower-case letters \(value: ") as caught:
        checked(tmp_path / "x.yaml", f"name: {text}", Shelf, "")
    assert "[a-z]" not in caught.value.message


@pytest.mark.parametrize(
    "text",
    ["password: [hunter2]", "password: 77777777", "{name: [, password: hunter2}", "password: *hunter2", "- hunter2"],
)
def test_a_secret_is_in_no_message_and_no_traceback(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigurationError, match=r"x\.yaml: ") as caught:
        checked(tmp_path / "x.yaml", text, Shelf, "", {"password"})
    told = "".join(traceback.format_exception(caught.value))
    assert "hunter2" not in told
    assert "77777777" not in told


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{this}: &{this} [{', '.join([f'*{before}'] * 9)}]\n" for before, this in pairwise("abcdefghi")
)
"""0.4 kB that stand for 387 million values."""


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (BOMB, "more than 20,000 keys and values, those behind an alias counted each time"),
        ("a: &a [1, *a]\n", "line 1, column 11: not valid YAML: more than 20,000"),
        ("[" * 100_000, "more than 50 brackets or indents deep"),
        ("{a: " * 100_000, "more than 50 brackets or indents deep"),
        ("".join(f"key{number}: 1\n" for number in range(70_000)), "line 10000, column 10: not valid YAML: more than"),
        ("a: " + "1:" * 100_000 + "1\n", "a text of more than 10,000 characters"),
        ("# " + "x" * 1_000_000, "longer than 1,000,000 bytes. Is it the right file?"),
    ],
)
def test_what_asks_too_much_of_the_machine_is_refused_unread(tmp_path: Path, content: str, expected: str) -> None:
    path = tmp_path / "model.yaml"
    path.write_text(content)
    with pytest.raises(ConfigurationError) as raised:
        read_yaml(path)
    assert str(path) in raised.value.message
    assert expected in str(raised.value)
    assert len(raised.value.message) < 500


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "model.yaml")
    with pytest.raises(ConfigurationError, match=r"model\.yaml: a pipe or device, not a file"):
        read_yaml(tmp_path / "model.yaml")


def test_many_problems_are_counted_and_the_first_ones_said(tmp_path: Path) -> None:
    class Wide(Frozen):
        columns: dict[str, int]

    right = "columns: {a: 1}\n"
    with pytest.raises(Mistakes) as raised:
        checked(tmp_path / "x.yaml", right + "".join(f"key{number}: 1\n" for number in range(9000)), Wide, "Look.")
    assert raised.value.message == (
        f"{tmp_path}/x.yaml: there is no such field (9,000 times: 'key0', 'key1', 'key2', 'key3', …)."
    )
    many = ", ".join(f"k{number}: {number}x" for number in range(50))
    text = f"columns: {{{many}}}\n" + "".join(f"{letter}: 1\n" for letter in "bcd")
    with pytest.raises(Mistakes) as raised:
        checked(tmp_path / "x.yaml", text, Wide, "Look.")
    assert [mistake.times for mistake in raised.value.mistakes] == [50, 1, 1, 1]
    mistakes = [Mistake(f"line {number}") for number in range(100_000)]
    cut = Mistakes(mistakes, "Look.")
    assert len(cut.message.splitlines()) == 21
    assert cut.message.endswith("line 19\n… and 99,980 more.")


def test_a_number_of_any_length_can_be_shown(tmp_path: Path) -> None:
    with pytest.raises(Mistakes, match="a number of thousands of digits"):
        checked(tmp_path / "x.yaml", f"name: 0x{'f' * 9000}\n", Shelf, "")


class Label(Frozen):
    """What may be on a shelf instead of a name."""

    words: str


class Rack(Frozen):
    """Something with places that hold one thing or another."""

    shelves: tuple[Shelf, ...] = ()
    width: Annotated[float, Field(gt=0)] | Literal["any"] | None = None
    labels: dict[str, Label | int] = Field(default_factory=dict)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("width: wide", "width: must be a valid number or 'any' (value: 'wide')."),
        ("width: -1", "width: must be greater than 0 or 'any' (value: -1)."),
        ("labels: {a: {words: 1}}", "labels.a.words: Input should be a valid string (value: 1)."),
        ("labels: {a: {word: x}}", "labels.a.word: there is no such field; did you mean 'words'? (value: 'x')."),
        ("shelves: [{}, {nmae: a}]", "shelves, entry 2, nmae: there is no such field; did you mean 'name'? (value: "),
        ("shelves: [{}, {color: a}]", "shelves, entry 2, color: there is no such field (value: 'a')."),
        ("labels: {1: 2}", "labels.1: Input should be a valid string (value: 1)."),
    ],
)
def test_a_problem_is_said_where_it_stands_without_the_names_that_pydantic_makes(
    tmp_path: Path, text: str, said: str
) -> None:
    with pytest.raises(Mistakes) as raised:
        checked(tmp_path / "x.yaml", text, Rack, "Look.")
    assert f"{tmp_path}/x.yaml: {said}" in raised.value.message
    assert not {"function", "literal", "[key]", "Label"} & set(re.split(r"[.\[(:]", raised.value.message))
