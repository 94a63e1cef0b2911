"""What every stored document is: read for years, by newer and by older code.

What people write is strict (``extra="forbid"``): a field nobody knows is a mistake. What the system stores is read
leniently: an unknown field was written by a newer version, is kept, and is written again with the rest.
"""

from __future__ import annotations

import enum
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import from_json

_UNNUMBERED = 1
"""The schema of documents that carry no number: they were written before there was one."""
_MOST_PROBLEMS = 3

SchemaVersion = Annotated[int, Field(ge=1)]


class NewerSchema(ValueError):
    """A document says that this code cannot understand it."""


class Part(BaseModel):
    """Base of what stored documents are made of: immutable, unknown fields kept."""

    model_config = ConfigDict(frozen=True, extra="allow")


class Stored(Part):
    """Base of every stored document.

    A field may be added with a default under the same ``schema_version``: older code keeps it aside. A change that
    older code would misread raises the number, and older code then refuses the document instead of guessing.
    tests/corpus has documents of every version.
    """

    schema_version: SchemaVersion = 2

    @classmethod
    def parse(cls, content: bytes | str) -> Self:
        """Return the document a file holds.

        Raises
        ------
        NewerSchema
            If it was written under a newer schema than this code's.
        ValueError
            If it is no such document; the message names the fields.
        """
        fields = from_json(content)
        if not isinstance(fields, dict):
            raise ValueError(f"expected an object, found {type(fields).__name__}")
        version, newest = fields.get("schema_version", _UNNUMBERED), cls.model_fields["schema_version"].default
        if isinstance(version, int) and version > newest:
            raise NewerSchema(f"schema_version: {version} is newer than {newest}, the newest this version reads")
        if isinstance(version, int) and version >= _UNNUMBERED:
            fields["schema_version"] = newest  # the defaults of this version are in it now
        try:
            return cls.model_validate(fields)
        except ValidationError as error:
            raise ValueError(_problems(error)) from error


class OpenEnum(enum.StrEnum):
    """An enumeration in stored documents: a value that a newer version has added stays, and equals none known here."""

    @classmethod
    def _missing_(cls, value: object) -> Any:
        if not isinstance(value, str):
            return None
        member = str.__new__(cls, value)
        member._name_, member._value_ = f"unknown {value}", value
        return member

    @property
    def known(self) -> bool:
        """Whether this version knows what it means."""
        return self._name_ in type(self).__members__


def _problems(error: ValidationError) -> str:
    """Return the first problems, each with its field."""
    lines = [f"{'.'.join(map(str, item['loc']))}: {item['msg']}".removeprefix(": ") for item in error.errors()]
    more = len(lines) - _MOST_PROBLEMS
    return "; ".join(lines[:_MOST_PROBLEMS]) + (f"; and {more} more" if more > 0 else "")
