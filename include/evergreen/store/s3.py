"""Artifacts in an S3 bucket."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

from evergreen.contract import ConfigurationError, TemporaryError
from evergreen.settings import get_settings
from evergreen.store.base import checked_key, disk_errors, files_of, targets_of


class S3Store:
    """Artifacts in an S3 bucket. An S3 PUT is atomic, so a reader never sees half of an object."""

    def __init__(self, root: str) -> None:
        bucket, _, prefix = root.removeprefix("s3://").partition("/")
        if not bucket:
            raise ConfigurationError(f"EVERGREEN_ARTIFACT_ROOT={root!r} names no bucket.", "Write s3://bucket/prefix.")
        self.root, self.bucket, self.prefix = root, bucket, prefix
        self._client = s3_client()

    def _key(self, key: str, *, prefix: bool = False) -> str:
        key = checked_key(key, prefix=prefix)
        return f"{self.prefix}/{key}" if self.prefix else key

    def uri(self, key: str) -> str:
        """Return the ``s3://`` address of a key."""
        return f"{self.root}/{checked_key(key)}"

    def read(self, key: str) -> bytes | None:
        """Return the bytes under a key, or None if there is nothing."""
        with s3_errors(self.uri(key)):
            answer = self._get(key)
            return None if answer is None else bytes(answer["Body"].read())

    def write(self, key: str, content: bytes) -> str:
        """Store the bytes under a key, replacing what was there; returns the address."""
        with s3_errors(self.uri(key)):
            self._client.put_object(Bucket=self.bucket, Key=self._key(key), Body=content)
        return self.uri(key)

    def create(self, key: str, content: bytes) -> bool:
        """Store the bytes under a key that has none yet; returns whether this call did."""
        return self._put_if(key, content, IfNoneMatch="*")

    def look(self, key: str) -> tuple[bytes, float] | None:
        """Return the bytes under a key and the seconds since they were written, by the server's clock, or None."""
        with s3_errors(self.uri(key)):
            answer = self._get(key)
            if answer is None:
                return None
            now = parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"])
            return answer["Body"].read(), max(0.0, (now - answer["LastModified"]).total_seconds())

    def replace(self, key: str, old: bytes, new: bytes) -> bool:
        """Store the bytes if those under the key are ``old``; returns whether this call did."""
        with s3_errors(self.uri(key)):
            answer = self._get(key)
            if answer is None or answer["Body"].read() != old:
                return False
        return self._put_if(key, new, IfMatch=answer["ETag"])

    def _get(self, key: str) -> Any:
        try:
            return self._client.get_object(Bucket=self.bucket, Key=self._key(key))
        except self._client.exceptions.NoSuchKey:
            return None

    def _put_if(self, key: str, content: bytes, **condition: str) -> bool:
        from botocore.exceptions import ClientError

        with s3_errors(self.uri(key)):
            try:
                self._client.put_object(Bucket=self.bucket, Key=self._key(key), Body=content, **condition)
            except ClientError as error:
                # 412: the condition does not hold; 409: another such call is under way
                if error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") in {409, 412}:
                    return False
                raise
        return True

    def keys(self, prefix: str) -> Iterator[str]:
        """Yield every key that starts with ``prefix``, sorted (S3 lists in that order)."""
        skip = len(self.prefix) + 1 if self.prefix else 0
        arguments = {"Bucket": self.bucket, "Prefix": self._key(prefix, prefix=True)}
        with s3_errors(f"{self.root}/{prefix}"):
            for page in self._client.get_paginator("list_objects_v2").paginate(**arguments):
                found = (item["Key"][skip:] for item in page.get("Contents", []))
                # Ray and S3 consoles mark folders by empty objects, which are no artifacts
                yield from (key for key in found if key and not key.endswith("/"))

    def upload(self, folder: Path, key: str) -> str:
        """Store every file of a local folder under a key (in parts when large); returns the address."""
        for path, name in files_of(folder):
            with s3_errors(self.uri(f"{key}/{name}")):
                self._client.upload_file(str(path), self.bucket, self._key(f"{key}/{name}"))
        return self.uri(key)

    def download(self, key: str, folder: Path) -> None:
        """Copy everything under a key into a local folder.

        Raises
        ------
        DataError
            If there is nothing under the key.
        """
        for found, path in targets_of(self, key, folder):
            with s3_errors(self.uri(found)), disk_errors(path):
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
def s3_errors(uri: str) -> Iterator[None]:
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
