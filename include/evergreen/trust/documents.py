"""Files that one step hands to the next with a signature beside them: the reader knows which task wrote them."""

from __future__ import annotations

from hashlib import sha256

from evergreen.contract import Manifest, Output, Request
from evergreen.handover import key_of, read_bytes, store_output
from evergreen.store import get_store
from evergreen.trust.chain import canonical
from evergreen.trust.keys import ChangedError, sign, verify

PAYLOAD_TYPE = "application/vnd.evergreen.output+json"
SUFFIX = ".dsse"
"""Of the envelope beside a file."""


def store_signed(request: Request, name: str, key: str, content: bytes, rows: int | None = None) -> Output:
    """Write an output of a step, and beside it that this very task has written it.

    Raises
    ------
    ConfigurationError
        If this process was not given the key.
    """
    envelope = sign(_statement(request.run.address, name, content), PAYLOAD_TYPE)
    get_store().write(f"{key}{SUFFIX}", envelope.encode())
    return store_output(name, key, content, rows=rows)


def read_signed(manifest: Manifest, name: str) -> bytes:
    """Return the content of an upstream output, once it is known to be what that task has written.

    Raises
    ------
    DataError
        If it is not what the manifest says.
    UntrustedError
        If manifest and file agree, but nobody with the key has written it, or another task has.
    """
    content, uri = read_bytes(manifest, name), manifest.output(name).uri
    envelope = get_store().read(f"{key_of(uri)}{SUFFIX}")
    if verify(envelope, PAYLOAD_TYPE, uri) != _statement(manifest.run.address, name, content):
        run = manifest.run
        raise ChangedError(
            f"{uri}: it is not what the task {run.task_id!r} of {run.dag_id} ({run.run_id}) has signed.",
            "It was changed, or another task's was put in its place: run that task again.",
        )
    return content


def _statement(address: str, name: str, content: bytes) -> bytes:
    return canonical({"output": name, "sha256": sha256(content).hexdigest(), "task": address}).encode()
