"""Where a task's manifest lies, and what is checked when it is read."""

from __future__ import annotations

from evergreen.contract import ConfigurationError, Manifest, RunIdentity
from evergreen.store.base import ArtifactStore

RESULT = "result.json"


def manifest_uri(store: ArtifactStore, run: RunIdentity) -> str:
    """Return the address of a task's manifest."""
    return store.uri(f"{run.key}/{RESULT}")


def read_manifest(store: ArtifactStore, run: RunIdentity) -> Manifest | None:
    """Return the manifest a task left, or None if there is none.

    Raises
    ------
    ConfigurationError
        If there is a file but it is no valid manifest, or it was copied there from another task.
    """
    content = store.read(f"{run.key}/{RESULT}")
    if content is None:
        return None
    try:
        manifest = Manifest.model_validate_json(content)
        if manifest.run != run:
            raise ValueError(f"run: it belongs to {manifest.run.key}")
    except ValueError as error:
        raise ConfigurationError(
            f"{manifest_uri(store, run)}: not a valid manifest: {error}",
            "Clear the task that writes it, so that it runs again.",
        ) from error
    return manifest


def write_manifest(store: ArtifactStore, manifest: Manifest) -> str:
    """Store a manifest in its task's folder; returns the address."""
    return store.write(f"{manifest.run.key}/{RESULT}", manifest.model_dump_json(indent=2).encode())
