"""The artifact store: manifests, decisions, reports, checkpoints; a local disk or S3 through one interface."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from evergreen.contract import ConfigurationError, Manifest, RunIdentity, TemporaryError
from evergreen.settings import get_settings

RESULT = "result.json"


class ArtifactStore(Protocol):
    """Bytes under keys such as ``runs/a/b/result.json``. A write is seen whole or not at all."""

    def uri(self, key: str) -> str:
        """Return the full address of a key."""
        ...

    def read(self, key: str) -> bytes | None:
        """Return the bytes under a key, or None if there is nothing."""
        ...

    def write(self, key: str, content: bytes) -> str:
        """Store the bytes under a key, replacing what was there; returns the address."""
        ...

    def keys(self, prefix: str) -> Iterator[str]:
        """Yield every key that starts with ``prefix``, sorted."""
        ...

    def upload(self, folder: Path, key: str) -> str:
        """Store every file of a local folder under a key; returns the address."""
        ...

    def download(self, key: str, folder: Path) -> None:
        """Copy everything under a key into a local folder."""
        ...


class LocalStore:
    """Artifacts in a local folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def _path(self, key: str) -> Path:
        path = (self.root / key).resolve()
        if not path.is_relative_to(self.root.resolve()):
            raise ConfigurationError(f"artifact key {key!r} points outside {self.root}.")
        return path

    def uri(self, key: str) -> str:
        """Return the absolute path of a key."""
        return str(self._path(key))

    def read(self, key: str) -> bytes | None:
        """Return the bytes under a key, or None if there is nothing."""
        path = self._path(key)
        return path.read_bytes() if path.is_file() else None

    def write(self, key: str, content: bytes) -> str:
        """Write through a temporary file and a rename, so that a reader never sees half of it."""
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        return str(path)

    def keys(self, prefix: str) -> Iterator[str]:
        """Yield every key that starts with ``prefix``, sorted; half-written files are not keys."""
        start = self._path(prefix)
        folder = start if prefix.endswith("/") or start.is_dir() else start.parent
        found = (path.relative_to(self.root.resolve()).as_posix() for path in folder.rglob("*") if path.is_file())
        yield from sorted(key for key in found if key.startswith(prefix) and not key.rpartition("/")[2].startswith("."))

    def upload(self, folder: Path, key: str) -> str:
        """Store every file of a local folder under a key; returns the address."""
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                self.write(f"{key}/{path.relative_to(folder).as_posix()}", path.read_bytes())
        return self.uri(key)

    def download(self, key: str, folder: Path) -> None:
        """Copy everything under a key into a local folder."""
        _download(self, key, folder)


class S3Store:
    """Artifacts in an S3 bucket. An S3 PUT is atomic, so a reader never sees half of an object."""

    def __init__(self, root: str) -> None:
        bucket, _, prefix = root.removeprefix("s3://").partition("/")
        self.root, self.bucket, self.prefix = root, bucket, prefix
        self._client = s3_client()

    def _key(self, key: str) -> str:
        return f"{self.prefix}/{key}" if self.prefix else key

    def uri(self, key: str) -> str:
        """Return the ``s3://`` address of a key."""
        return f"{self.root}/{key}"

    def read(self, key: str) -> bytes | None:
        """Return the bytes under a key, or None if there is nothing."""
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            return bytes(self._client.get_object(Bucket=self.bucket, Key=self._key(key))["Body"].read())
        except ClientError as error:
            if error.response.get("Error", {}).get("Code") in {"NoSuchKey", "404"}:
                return None
            raise _s3_error(self.uri(key), error) from error
        except BotoCoreError as error:
            raise TemporaryError(f"{self.uri(key)}: {error}.") from error

    def write(self, key: str, content: bytes) -> str:
        """Store the bytes under a key, replacing what was there; returns the address."""
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            self._client.put_object(Bucket=self.bucket, Key=self._key(key), Body=content)
        except ClientError as error:
            raise _s3_error(self.uri(key), error) from error
        except BotoCoreError as error:
            raise TemporaryError(f"{self.uri(key)}: {error}.") from error
        return self.uri(key)

    def keys(self, prefix: str) -> Iterator[str]:
        """Yield every key that starts with ``prefix``, sorted (S3 lists in that order)."""
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=self._key(prefix))
        skip = len(self.prefix) + 1 if self.prefix else 0
        for page in pages:
            for item in page.get("Contents", []):
                yield item["Key"][skip:]

    def upload(self, folder: Path, key: str) -> str:
        """Store every file of a local folder under a key (in parts when large); returns the address."""
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                self._client.upload_file(
                    str(path), self.bucket, self._key(f"{key}/{path.relative_to(folder).as_posix()}")
                )
        return self.uri(key)

    def download(self, key: str, folder: Path) -> None:
        """Copy everything under a key into a local folder."""
        _download(self, key, folder)


def s3_client() -> Any:
    """Return a boto3 S3 client for the configured endpoint; keys come from the usual ``AWS_*`` variables."""
    import boto3

    return boto3.client("s3", endpoint_url=get_settings().s3_endpoint)


def _s3_error(uri: str, error: Any) -> Exception:
    code = error.response.get("Error", {}).get("Code", "")
    message = f"{uri}: S3 answered {code}: {error}."
    if code in {"AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "NoSuchBucket"}:
        return ConfigurationError(message, "Check EVERGREEN_ARTIFACT_ROOT, EVERGREEN_S3_ENDPOINT and the AWS_* keys.")
    return TemporaryError(message)


def _download(store: ArtifactStore, key: str, folder: Path) -> None:
    for found in store.keys(f"{key}/"):
        path = folder / found.removeprefix(f"{key}/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(store.read(found) or b"")


def get_store(root: str | None = None) -> ArtifactStore:
    """Return the artifact store at ``root`` (default: the configured one)."""
    location = root or get_settings().artifact_root
    return S3Store(location) if location.startswith("s3://") else LocalStore(Path(location))


def read_manifest(store: ArtifactStore, run: RunIdentity) -> Manifest | None:
    """Return the manifest a task left, or None if there is none.

    Raises
    ------
    ConfigurationError
        If there is a file but it is no valid manifest.
    """
    key = f"{run.key}/{RESULT}"
    content = store.read(key)
    if content is None:
        return None
    try:
        return Manifest.model_validate_json(content)
    except ValueError as error:
        raise ConfigurationError(
            f"{store.uri(key)}: not a valid manifest: {error}", "Clear the task that writes it, so that it runs again."
        ) from error


def write_manifest(store: ArtifactStore, manifest: Manifest) -> str:
    """Store a manifest in its task's folder; returns the address."""
    return store.write(f"{manifest.run.key}/{RESULT}", manifest.model_dump_json(indent=2).encode())
