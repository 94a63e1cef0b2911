"""Reads stored documents: what is wrong with one is said with its address and what to do."""

from __future__ import annotations

from typing import TypeVar

from evergreen.contract import ConfigurationError
from evergreen.store.base import ArtifactStore
from evergreen.stored import NewerSchema, Stored

_Kind = TypeVar("_Kind", bound=Stored)


class NewerDocument(ConfigurationError):
    """A document was written by a newer version in a way that this one cannot understand."""

    def __init__(self, uri: str, why: str) -> None:
        super().__init__(
            f"{uri}: written by a newer version of Evergreen: {why}.",
            "Update Evergreen here: Airflow's image and the step image have to be at least as new as what is stored.",
        )


def read_document(store: ArtifactStore, key: str, kind: type[_Kind], name: str, hint: str) -> _Kind | None:
    """Return a stored document, or None if there is none; see `parse_document`."""
    content = store.read(key)
    return None if content is None else parse_document(content, store.uri(key), kind, name, hint)


def parse_document(content: bytes, uri: str, kind: type[_Kind], name: str, hint: str) -> _Kind:
    """Return what the content of a stored document says.

    Parameters
    ----------
    content, uri
        The document, and its address.
    kind, name
        What it must be, and what to call that: ``"a claim"``.
    hint
        What to do when it is something else.

    Raises
    ------
    NewerDocument
        If only a newer version understands it.
    ConfigurationError
        If it is no such document.
    """
    try:
        return kind.parse(content)
    except NewerSchema as error:
        raise NewerDocument(uri, str(error)) from error
    except ValueError as error:
        raise ConfigurationError(f"{uri}: not {name}: {error}.", hint) from error
