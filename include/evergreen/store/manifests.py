"""Where a task's manifest lies, and what is checked when it is read."""

from __future__ import annotations

from evergreen.contract import ConfigurationError, Manifest, RunIdentity, Status
from evergreen.store.base import ArtifactStore
from evergreen.store.documents import NewerDocument, read_document

RESULT = "result.json"


def manifest_uri(store: ArtifactStore, run: RunIdentity) -> str:
    """Return the address of a task's manifest."""
    return store.uri(f"{run.key}/{RESULT}")


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
    manifest = read_document(store, f"{run.key}/{RESULT}", Manifest, "a valid manifest", hint)
    if manifest is None:
        return None
    if not manifest.status.known:
        raise NewerDocument(uri, f"status: {manifest.status.value!r} is none of {', '.join(Status)}")
    if manifest.run.key != run.key:
        raise ConfigurationError(f"{uri}: not a valid manifest: run: it belongs to {manifest.run.key}.", hint)
    return manifest


def write_manifest(store: ArtifactStore, manifest: Manifest) -> str:
    """Store a manifest in its task's folder; returns the address."""
    return store.write(f"{manifest.run.key}/{RESULT}", manifest.model_dump_json(indent=2).encode())
