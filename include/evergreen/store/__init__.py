"""The artifact store: manifests, decisions, reports, checkpoints; a local disk or S3 through one interface."""

from __future__ import annotations

from pathlib import Path

from evergreen.settings import get_settings
from evergreen.store.base import ArtifactStore
from evergreen.store.json_documents import NewerDocument, parse_document, read_document
from evergreen.store.local import LocalStore
from evergreen.store.manifests import check_unchanged, manifest_uri, read_manifest, write_manifest
from evergreen.store.s3 import S3Store, arrow_options, iceberg_properties, s3_client

__all__ = [
    "ArtifactStore",
    "LocalStore",
    "NewerDocument",
    "S3Store",
    "arrow_options",
    "check_unchanged",
    "get_store",
    "iceberg_properties",
    "manifest_uri",
    "parse_document",
    "read_document",
    "read_manifest",
    "s3_client",
    "write_manifest",
]


def get_store(root: str | None = None) -> ArtifactStore:
    """Return the artifact store at ``root`` (default: the configured one)."""
    location = root or get_settings().artifact_root
    return S3Store(location) if location.startswith("s3://") else LocalStore(Path(location))
