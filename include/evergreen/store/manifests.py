"""Where a task's manifest lies, and what is checked when it is read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import UUID

from pydantic_core import from_json

from evergreen.contract import (
    ConfigurationError,
    DataError,
    Manifest,
    RunIdentity,
    Status,
    TemporaryError,
    folder_name,
    printable,
)
from evergreen.store.base import ArtifactStore
from evergreen.store.json_documents import NewerDocument, read_document

_COPIES = "manifests"
"""Where a second copy of every manifest lies, apart from the folders of the runs: one an attempt."""


def manifest_uri(store: ArtifactStore, run: RunIdentity) -> str:
    """Return the address of a task's manifest."""
    return store.uri(run.manifest_key)


def read_manifest(store: ArtifactStore, run: RunIdentity) -> Manifest | None:
    """Return the manifest a task left, or None if there is none.

    Raises
    ------
    NewerDocument
        If a newer version wrote it, and this one cannot tell how the step ended.
    ConfigurationError
        If there is a file but it is no valid manifest, or it was copied there from another task.
    """
    uri, hint = manifest_uri(store, run), "Clear the task that writes it, so that it runs again."
    manifest = read_document(store, run.manifest_key, Manifest, "a valid manifest", hint)
    if manifest is None:
        return None
    if not manifest.status.known:
        raise NewerDocument(uri, f"status: {manifest.status.value!r} is none of {', '.join(Status)}")
    if manifest.run.key != run.key:
        raise ConfigurationError(f"{uri}: not a valid manifest: run: it belongs to {manifest.run.key}.", hint)
    return manifest


def write_manifest(store: ArtifactStore, manifest: Manifest) -> str:
    """Store the copy of an attempt's manifest, then the task's manifest itself; returns the address of that.

    Airflow may start a task again while an earlier process of it still runs: after a restart, on a node that is cut
    off. Every write of a step can be repeated, so that both may go on; but the task's manifest must be that of the
    newer attempt, whichever ends last. So it is written on the condition that what lies there is not newer.

    An attempt is called ``<try number>-<id of the task instance>``. Airflow 3.3 gives the instance a new id before
    every further try, be it a retry, a clearing or the reset of an orphan (``TaskInstance.prepare_db_for_next_try``):
    a UUID of version 7, which begins with the millisecond it was made in. So the ids come first in the order. The try
    number only decides between equal times, as it begins again at 1 in a run that was deleted and created anew under
    the same name. What has no such id ("1" from a shell) cannot be ordered: there the later writer wins, as among
    writes of one attempt.

    Raises
    ------
    TemporaryError
        If a newer attempt has written its manifest.
    """
    content, key = manifest.model_dump_json(indent=2).encode(), manifest.run.manifest_key
    store.write(_copy_key(manifest), content)
    while not store.create(key, content):
        current = store.read(key)
        if current is None:  # somebody has deleted it since
            continue
        written = _attempt_in(current)
        if _is_newer(written, manifest.attempt):
            raise TemporaryError(
                f"{store.uri(key)}: another process took this step over: attempt {written}, which is newer than "
                f"{manifest.attempt}.",
                "The result of this one is dropped, and that of the other counts.",
            )
        # equal: S3 stored it, and the answer was lost
        if current == content or store.replace(key, current, content):
            break
    return store.uri(key)


def _is_newer(attempt: str, than: str) -> bool:
    """Tell whether an attempt is known to be newer than another."""
    order, other = _order(attempt), _order(than)
    return order is not None and other is not None and order > other


def _order(attempt: str) -> tuple[int, int] | None:
    """Return when Airflow made the id of an attempt (ms) and its try number, or None if that is not its name."""
    number, _, name = attempt.partition("-")
    try:
        identifier, try_number = UUID(name), int(number)
    except ValueError:
        return None
    return (identifier.int >> 80, try_number) if identifier.version == 7 else None


def _attempt_in(content: bytes) -> str:
    """Return whose manifest this is, also one of a newer schema; nobody's if it is none."""
    try:
        fields = from_json(content)
    except ValueError:
        return ""
    return str(fields.get("attempt", "")) if isinstance(fields, dict) else ""


def check_unchanged(store: ArtifactStore, manifest: Manifest) -> None:
    """Refuse a manifest that is not as its step wrote it; one of a version that kept no copies passes.

    Outputs can be compared with the lake, with files and with MLflow. What a step found out (its facts, its metrics,
    which inputs it read, how it ended) stands nowhere else.

    Raises
    ------
    DataError
        If it differs from the copy that was stored with it.
    """
    key = _copy_key(manifest)
    again = f"Run the task {manifest.run.task_id!r} of {manifest.run.dag_id} ({manifest.run.run_id}) again."
    copy = read_document(store, key, Manifest, "the copy of a manifest", again)
    if copy is None:
        return
    for field, present, written in _differences(manifest.model_dump(mode="json"), copy.model_dump(mode="json")):
        raise DataError(
            f"{manifest_uri(store, manifest.run)}: {field}: it says {_shown(present)}, but its step wrote "
            f"{_shown(written)} ({store.uri(key)}): the manifest was changed.",
            again,
        )


def _copy_key(manifest: Manifest) -> str:
    return f"{_COPIES}/{manifest.run.key.partition('/')[2]}/{folder_name(manifest.attempt)}.json"


_NOTHING = object()


def _differences(present: Any, written: Any, field: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield the fields in which two documents differ, with both values."""
    if isinstance(present, dict) and isinstance(written, dict):
        for name in dict.fromkeys([*written, *present]):
            inner = f"{field}.{name}".removeprefix(".")
            yield from _differences(present.get(name, _NOTHING), written.get(name, _NOTHING), inner)
    elif isinstance(present, list) and isinstance(written, list) and len(present) == len(written):
        for index, pair in enumerate(zip(present, written, strict=True)):
            yield from _differences(*pair, f"{field}[{index}]")
    elif present != written:
        yield field, present, written


def _shown(value: object) -> str:
    return "nothing" if value is _NOTHING else printable(repr(value), 100)
