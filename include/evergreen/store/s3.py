"""Artifacts in an S3 bucket."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from evergreen.contract import ConfigurationError, TemporaryError
from evergreen.settings import get_settings
from evergreen.store.base import UNTRUSTED, checked_key, retrying

if TYPE_CHECKING:
    from botocore.exceptions import ClientError
    from tenacity import Retrying


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
        content, _ = self._get(key)
        return content

    def write(self, key: str, content: bytes) -> str:
        """Store the bytes under a key, replacing what was there; returns the address."""
        with s3_errors(self.uri(key)):
            self._client.put_object(Bucket=self.bucket, Key=self._key(key), Body=content)
        return self.uri(key)

    def create(self, key: str, content: bytes) -> bool:
        """Store the bytes under a key that has none yet; returns whether this call did."""
        return self._put_if(key, content, IfNoneMatch="*")

    def replace(self, key: str, old: bytes, new: bytes) -> bool:
        """Store the bytes if those under the key are ``old``; returns whether this call did."""
        content, version = self._get(key)
        return content == old and self._put_if(key, new, IfMatch=version)

    def _get(self, key: str) -> tuple[bytes | None, str]:
        """Return the bytes under a key and what S3 calls their version (ETag), or None and nothing."""
        with s3_errors(self.uri(key)):
            try:
                answer = self._client.get_object(Bucket=self.bucket, Key=self._key(key))
            except self._client.exceptions.NoSuchKey:
                return None, ""
            return bytes(answer["Body"].read()), answer["ETag"]

    def _put_if(self, key: str, content: bytes, **condition: str) -> bool:
        from botocore.exceptions import ClientError

        arguments = {"Bucket": self.bucket, "Key": self._key(key), "Body": content, **condition}
        with s3_errors(self.uri(key)):
            try:
                _asking_again()(self._client.put_object, **arguments)
            except ClientError as error:
                if _status(error) == 412:  # the condition does not hold
                    return False
                raise
        return True

    def remove(self, key: str) -> None:
        """Delete the object of a key; that there is none is well too."""
        with s3_errors(self.uri(key)):
            self._client.delete_object(Bucket=self.bucket, Key=self._key(key))

    def keys(self, prefix: str) -> Iterator[str]:
        """Yield every key that starts with ``prefix``, sorted (S3 lists in that order)."""
        skip = len(self.prefix) + 1 if self.prefix else 0
        arguments = {"Bucket": self.bucket, "Prefix": self._key(prefix, prefix=True)}
        with s3_errors(f"{self.root}/{prefix}"):
            for page in self._client.get_paginator("list_objects_v2").paginate(**arguments):
                names = (item["Key"][skip:] for item in page.get("Contents", []))
                # Ray and S3 consoles mark folders by empty objects, which are no artifacts
                yield from (name for name in names if name and not name.endswith("/"))


def s3_client() -> Any:
    """Return a boto3 S3 client for the configured endpoint; keys come from the usual ``AWS_*`` variables."""
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError

    settings = get_settings()
    endpoint = settings.s3_endpoint
    config = Config(
        connect_timeout=settings.s3_connect_seconds,
        read_timeout=settings.s3_read_seconds,
        retries={"mode": "standard", "total_max_attempts": settings.s3_attempts},
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


def arrow_options() -> dict[str, Any]:
    """Return what pyarrow's `S3FileSystem` is told: Arrow itself gives up after 3 s without a byte, three times."""
    settings = get_settings()
    return {
        **({"endpoint_override": settings.s3_endpoint} if settings.s3_endpoint else {}),
        "connect_timeout": settings.s3_connect_seconds,
        "request_timeout": settings.s3_read_seconds,
        "retry_strategy": arrow_retries(),
    }


def iceberg_properties() -> dict[str, str]:
    """Return the same in PyIceberg's words."""
    settings = get_settings()
    properties = {
        "s3.connect-timeout": str(settings.s3_connect_seconds),
        "s3.request-timeout": str(settings.s3_read_seconds),
        "s3.retry-strategy-impl": f"{__name__}.{arrow_retries.__name__}",  # what it calls without arguments
    }
    if settings.s3_endpoint:
        properties["s3.endpoint"] = settings.s3_endpoint
        # PyIceberg would ask Amazon where the bucket is, and wait for an answer that does not come
        properties["s3.region"] = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
    return properties


def arrow_retries() -> Any:
    """Return how often Arrow makes a request."""
    from pyarrow.fs import AwsStandardS3RetryStrategy

    return AwsStandardS3RetryStrategy(max_attempts=get_settings().s3_attempts)


_S3_HINT = "Check EVERGREEN_ARTIFACT_ROOT, EVERGREEN_S3_ENDPOINT, the AWS_* keys and AWS_CA_BUNDLE."
_S3_CONFLICT = frozenset({"ConditionalRequestConflict", "OperationAborted"})
"""409: another such call was under way, which says nothing about the condition. S3's own advice is to ask again."""
_S3_BUSY = frozenset({"SlowDown", "RequestTimeout", "RequestTimeTooSkewed", "TooManyRequests"}) | _S3_CONFLICT
_S3_FULL = 507
"""Insufficient Storage, as servers of one's own answer whose disks are full."""
_CONFLICT_SECONDS = 20


def _asking_again() -> Retrying:
    """Return a retrier for conflicts: of many that ask again one is told yes, the others that they are late."""
    return retrying(lambda error: _code(error) in _S3_CONFLICT, _CONFLICT_SECONDS)


def _code(error: BaseException) -> str:
    return str(getattr(error, "response", {}).get("Error", {}).get("Code", ""))


def _status(error: ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 500))


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
            code, status = _code(error), _status(error)
            refused = (300 <= status < 500 and status != 429 and code not in _S3_BUSY) or status == _S3_FULL
            message = f"{uri}: S3 answered {code}: {error}."
        else:
            refused = isinstance(error, NoCredentialsError | PartialCredentialsError | ParamValidationError)
            refused = refused or bool(UNTRUSTED.search(str(error)))
            message = f"{uri}: {error}."
        if refused:
            raise ConfigurationError(message, _S3_HINT) from raised
        raise TemporaryError(message, "Is the S3 server up, and EVERGREEN_S3_ENDPOINT right?") from raised
