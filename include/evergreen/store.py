"""The artifact store: manifests, decisions, reports, checkpoints; a local disk or S3 through one interface."""

from __future__ import annotations

import errno
import io
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Protocol
from uuid import uuid4

from evergreen.contract import ConfigurationError, DataError, Manifest, RunIdentity, TemporaryError
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

    _PARTIAL = ".partial"
    """Where files are written before they are renamed; what a killed process leaves there is never a key."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def _path(self, key: str) -> Path:
        path = self.root / _checked(key)
        if not path.resolve().is_relative_to(self.root.resolve()) or key.partition("/")[0] == self._PARTIAL:
            raise ConfigurationError(f"artifact key {key!r} points outside {self.root}.", "Use another key.")
        return path

    def uri(self, key: str) -> str:
        """Return the absolute path of a key."""
        return str(self._path(key).absolute())

    def read(self, key: str) -> bytes | None:
        """Return the bytes under a key, or None if there is nothing."""
        path = self._path(key)
        with _disk(path):
            try:
                return path.read_bytes()
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
                return None

    def write(self, key: str, content: bytes) -> str:
        """Write through a temporary file and a rename, so that a reader never sees half of it."""
        return self._put(key, io.BytesIO(content))

    def _put(self, key: str, content: IO[bytes]) -> str:
        path = self._path(key)
        with _disk(path):
            temporary = self.root / self._PARTIAL / uuid4().hex
            temporary.parent.mkdir(parents=True, exist_ok=True)
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                with temporary.open("xb") as file:
                    shutil.copyfileobj(content, file, length=1 << 20)
                    file.flush()
                    os.fsync(file.fileno())
                temporary.replace(path)
            finally:
                temporary.unlink(missing_ok=True)
        return self.uri(key)

    def keys(self, prefix: str) -> Iterator[str]:
        """Yield every key that starts with ``prefix``, sorted; half-written files are not keys."""
        folder = self.root / _checked(prefix.rpartition("/")[0], prefix=True)
        with _disk(folder):
            found = [path.relative_to(self.root).as_posix() for path in folder.rglob("*") if path.is_file()]
        yield from sorted(key for key in found if key.startswith(prefix) and not key.startswith(f"{self._PARTIAL}/"))

    def upload(self, folder: Path, key: str) -> str:
        """Store every file of a local folder under a key; returns the address."""
        for path, name in _files(folder):
            with path.open("rb") as file:
                self._put(f"{key}/{name}", file)
        return self.uri(key)

    def download(self, key: str, folder: Path) -> None:
        """Copy everything under a key into a local folder.

        Raises
        ------
        DataError
            If there is nothing under the key.
        """
        for found, path in _targets(self, key, folder):
            with _disk(path):
                shutil.copyfile(self._path(found), path)


class S3Store:
    """Artifacts in an S3 bucket. An S3 PUT is atomic, so a reader never sees half of an object."""

    def __init__(self, root: str) -> None:
        bucket, _, prefix = root.removeprefix("s3://").partition("/")
        if not bucket:
            raise ConfigurationError(f"EVERGREEN_ARTIFACT_ROOT={root!r} names no bucket.", "Write s3://bucket/prefix.")
        self.root, self.bucket, self.prefix = root, bucket, prefix
        self._client = s3_client()

    def _key(self, key: str, *, prefix: bool = False) -> str:
        key = _checked(key, prefix=prefix)
        return f"{self.prefix}/{key}" if self.prefix else key

    def uri(self, key: str) -> str:
        """Return the ``s3://`` address of a key."""
        return f"{self.root}/{_checked(key)}"

    def read(self, key: str) -> bytes | None:
        """Return the bytes under a key, or None if there is nothing."""
        with _s3(self.uri(key)):
            try:
                return bytes(self._client.get_object(Bucket=self.bucket, Key=self._key(key))["Body"].read())
            except self._client.exceptions.NoSuchKey:
                return None

    def write(self, key: str, content: bytes) -> str:
        """Store the bytes under a key, replacing what was there; returns the address."""
        with _s3(self.uri(key)):
            self._client.put_object(Bucket=self.bucket, Key=self._key(key), Body=content)
        return self.uri(key)

    def keys(self, prefix: str) -> Iterator[str]:
        """Yield every key that starts with ``prefix``, sorted (S3 lists in that order)."""
        skip = len(self.prefix) + 1 if self.prefix else 0
        arguments = {"Bucket": self.bucket, "Prefix": self._key(prefix, prefix=True)}
        with _s3(f"{self.root}/{prefix}"):
            for page in self._client.get_paginator("list_objects_v2").paginate(**arguments):
                yield from (item["Key"][skip:] for item in page.get("Contents", []))

    def upload(self, folder: Path, key: str) -> str:
        """Store every file of a local folder under a key (in parts when large); returns the address."""
        for path, name in _files(folder):
            with _s3(self.uri(f"{key}/{name}")):
                self._client.upload_file(str(path), self.bucket, self._key(f"{key}/{name}"))
        return self.uri(key)

    def download(self, key: str, folder: Path) -> None:
        """Copy everything under a key into a local folder.

        Raises
        ------
        DataError
            If there is nothing under the key.
        """
        for found, path in _targets(self, key, folder):
            with _s3(self.uri(found)), _disk(path):
                self._client.download_file(self.bucket, self._key(found), str(path))


def s3_client() -> Any:
    """Return a boto3 S3 client for the configured endpoint; keys come from the usual ``AWS_*`` variables."""
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError

    endpoint = get_settings().s3_endpoint
    config = Config(
        connect_timeout=5,
        read_timeout=60,
        retries={"mode": "standard", "total_max_attempts": 4},
        # a server of one's own seldom has a DNS name for each bucket
        s3={"addressing_style": "path"} if endpoint else {},
    )
    try:
        # a session of its own: boto3's default one is not safe to be made in two threads at once
        return boto3.session.Session().client("s3", endpoint_url=endpoint, config=config)
    except (BotoCoreError, ValueError) as error:
        raise ConfigurationError(
            f"No S3 client can be made (EVERGREEN_S3_ENDPOINT={endpoint!r}): {error}.",
            "Write the endpoint as http://host:port and check the AWS_* variables.",
        ) from error


_S3_HINT = "Check EVERGREEN_ARTIFACT_ROOT, EVERGREEN_S3_ENDPOINT and the AWS_* keys."
_S3_BUSY = frozenset({"SlowDown", "RequestTimeout", "RequestTimeTooSkewed", "OperationAborted", "TooManyRequests"})


@contextmanager
def _s3(uri: str) -> Iterator[None]:
    """Name the class of what S3 and its client raise: a refusal is configuration, silence is temporary."""
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import (
        BotoCoreError,
        ClientError,
        NoCredentialsError,
        ParamValidationError,
        PartialCredentialsError,
    )

    try:
        yield
    except (ClientError, BotoCoreError, Boto3Error) as raised:
        error = raised.__context__ if isinstance(raised, Boto3Error) else raised  # uploads wrap what they met
        if isinstance(error, ClientError):
            code = str(error.response.get("Error", {}).get("Code", ""))
            status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 500)
            refused = 300 <= status < 500 and status != 429 and code not in _S3_BUSY
            message = f"{uri}: S3 answered {code}: {error}."
        else:
            refused = isinstance(error, NoCredentialsError | PartialCredentialsError | ParamValidationError)
            message = f"{uri}: {error}."
        if refused:
            raise ConfigurationError(message, _S3_HINT) from raised
        raise TemporaryError(message, "Is the S3 server up, and EVERGREEN_S3_ENDPOINT right?") from raised


_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_FORBIDDEN = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.EISDIR})


@contextmanager
def _disk(path: Path) -> Iterator[None]:
    """Name the class of what a local disk raises: a full one is temporary, one that may not be written is not."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise TemporaryError(f"{path}: the disk is full.", "Free space, then run it again.") from error
        if error.errno in _FORBIDDEN:
            raise ConfigurationError(
                f"{path}: {error.strerror}: {error.filename}.", "Check EVERGREEN_ARTIFACT_ROOT and the rights on it."
            ) from error
        raise TemporaryError(f"{path}: {error}.") from error


def _checked(key: str, *, prefix: bool = False) -> str:
    """Refuse a key that no store could hold, or that climbs out of it; a prefix may be empty or end in a slash."""
    parts = key.split("/")
    if prefix and not parts[-1]:
        parts.pop()
    if any(part in {"", ".", ".."} for part in parts) or not key.isprintable():
        raise ConfigurationError(f"{key!r} cannot be an artifact key.", "Use parts of text, joined by single slashes.")
    return key


def _files(folder: Path) -> list[tuple[Path, str]]:
    """Return every file of a folder with its name in it."""
    if not folder.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, "there is no such folder to upload", str(folder))
    return [(path, path.relative_to(folder).as_posix()) for path in sorted(folder.rglob("*")) if path.is_file()]


def _targets(store: ArtifactStore, key: str, folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield every key below ``key`` with the local file it belongs in, whose folder exists."""
    found = list(store.keys(f"{key}/"))
    if not found:
        raise DataError(f"{store.uri(key)}: there is nothing.", "Run the step that writes it first.")
    for name in found:
        path = folder / _checked(name.removeprefix(f"{key}/"))
        with _disk(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        yield name, path


def get_store(root: str | None = None) -> ArtifactStore:
    """Return the artifact store at ``root`` (default: the configured one)."""
    location = root or get_settings().artifact_root
    return S3Store(location) if location.startswith("s3://") else LocalStore(Path(location))


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
