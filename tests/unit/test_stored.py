"""Stored documents: those of every earlier version are read, and those of a later one as far as they can be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import create_model

from corpus_kit import CORPUS, documents, kinds, unseen, version_of
from evergreen.contract import Manifest
from evergreen.stored import NewerSchema, OpenEnum, Part, SchemaVersion, Stored

FILES = sorted(CORPUS.glob("*/*/*.json"))


def kind_of(path: Path) -> type[Stored]:
    return kinds()[path.parent.name]


def holds(whole: Any, part: Any) -> bool:
    """Tell whether everything in a document is in another."""
    if isinstance(part, dict):
        return isinstance(whole, dict) and all(key in whole and holds(whole[key], part[key]) for key in part)
    if isinstance(part, list):
        return len(whole) == len(part) and all(map(holds, whole, part))
    return bool(whole == part)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(CORPUS)))
def test_a_document_of_every_version_is_read_and_written_again(path: Path) -> None:
    content = json.loads(path.read_text())
    again = json.loads(kind_of(path).parse(path.read_bytes()).model_dump_json())
    assert again.pop("schema_version") == version_of(kind_of(path))
    content.pop("schema_version", None)
    assert holds(again, content)


def add_everywhere(value: Any) -> Any:
    """Return a document as a later version might write it: with a field more in everything it is made of."""
    if isinstance(value, dict):
        return {**{key: add_everywhere(one) for key, one in value.items()}, "added": {"later": [1, "x"]}}
    return [add_everywhere(one) for one in value] if isinstance(value, list) else value


_MAPPED = {
    "metrics",
    "psi",
    "missing_psi",
    "columns",
    "indices",
    "known",
    "new",
    "exempt",
    "asked",
    "inputs",
    "answers",
    "relations",
    "pictures",
}
"""Names to numbers, to lists or to parts of one kind: what a later version adds to them is another of these."""


def later(path: Path) -> dict[str, Any]:
    return json.loads(
        json.dumps(add_everywhere(json.loads(path.read_text()))),
        object_hook=lambda found: {
            key: {name: one for name, one in value.items() if name != "added"}
            if key in _MAPPED and isinstance(value, dict)
            else value
            for key, value in found.items()
        },
    )


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(CORPUS)))
def test_what_a_later_version_adds_is_kept(path: Path) -> None:
    content = later(path)
    if "sources" in content:  # a name in it stands for a source
        content["sources"].pop("added", None)
    again = json.loads(kind_of(path).parse(json.dumps(content)).model_dump_json())
    content.pop("schema_version", None)
    assert holds(again, content)


@pytest.mark.parametrize("kind", kinds().values(), ids=lambda kind: kind.__name__)
def test_the_corpus_has_every_version_and_every_field(kind: type[Stored]) -> None:
    versions = {int(path.parents[1].name[1:]) for path in FILES if path.parent.name == kind.__name__}
    assert versions, f"no document of {kind.__name__} is in tests/corpus"
    assert versions == set(range(min(versions), version_of(kind) + 1))
    assert unseen(kind) == {}, "run PYTHONPATH=plugins .venv/bin/python tests/corpus_kit.py, and look at what it adds"


def test_a_field_or_a_version_that_the_corpus_lacks_is_noticed() -> None:
    wider = create_model("Manifest", __base__=Manifest, verdict=(str, ""))
    assert unseen(wider) == {"Manifest": {"verdict"}}
    newer = create_model("Manifest", __base__=Manifest, schema_version=(int, 99))
    assert documents(newer, version_of(newer)) == []
    assert "status" in unseen(newer)["Manifest"]


class Note(Stored):
    schema_version: SchemaVersion = 3
    text: str
    tag: str = "none"


def test_a_document_without_a_number_is_of_the_first_schema() -> None:
    note = Note.parse(b'{"text": "hello"}')
    assert (note.schema_version, note.tag) == (3, "none")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "EOF while parsing"),
        ("[]", "expected an object, found list"),
        ("{}", "text: Field required"),
        ('{"text": "a", "schema_version": "new"}', "schema_version: Input should be a valid integer"),
        ('{"text": "a", "schema_version": 0}', "schema_version: Input should be greater than or equal to 1"),
        ('{"text": "a", "schema_version": null}', "schema_version: Input should be a valid integer"),
    ],
)
def test_what_is_wrong_with_a_document_is_named_by_its_field(content: str, said: str) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        Note.parse(content)
    assert not isinstance(caught.value, NewerSchema)
    assert "\n" not in str(caught.value)


def test_a_document_of_a_newer_schema_is_refused() -> None:
    with pytest.raises(NewerSchema, match="schema_version: 4 is newer than 3"):
        Note.parse('{"schema_version": 4, "body": "moved"}')


class Colour(OpenEnum):
    RED = "red"


class Shape(Part):
    colour: Colour


def test_an_unknown_value_is_kept_and_equals_none_that_is_known() -> None:
    shape = Shape.model_validate({"colour": "teal"})
    assert (shape.colour.known, Colour.RED.known) == (False, True)
    assert shape.colour is not Colour.RED
    assert json.loads(shape.model_dump_json()) == {"colour": "teal"}
    assert Shape.model_validate_json(shape.model_dump_json()) == shape
    with pytest.raises(ValueError, match="colour"):
        Shape.model_validate({"colour": 7})


def test_what_is_stored_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Shape(colour=Colour.RED).colour = Colour.RED  # type: ignore[misc]
