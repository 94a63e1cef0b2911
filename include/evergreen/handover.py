"""What one step hands to the next through the artifact store: manifests and data sets."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from evergreen.contract import ConfigurationError, DataError, Manifest, Output, Request, Status
from evergreen.store import get_store

if TYPE_CHECKING:
    import pandas as pd


def upstream(request: Request, step: str) -> Manifest:
    """Return the manifest of an upstream step that ended well.

    Raises
    ------
    DataError
        If the request carries none, or the step did not end with ``ok``.
    """
    manifest = request.upstream.get(step)
    if manifest is None:
        raise DataError(
            f"{request.step} of {request.model} needs the manifest of {step}, and was given none.",
            f"Pass it: --upstream {step}=<task id> on the command line, upstream={{...}} in a DAG.",
        )
    if manifest.status is not Status.OK:
        why = manifest.reason or (manifest.failure.message if manifest.failure else "")
        raise DataError(
            f"{manifest.run.key}/result.json: {step} ended as {manifest.status}: {why}.",
            f"{request.step} works on what {step} wrote: run {step} again first.",
        )
    return manifest


def read_bytes(output: Output) -> bytes:
    """Return the content of an output that is a file in the artifact store.

    Raises
    ------
    DataError
        If it is not there.
    ConfigurationError
        If it lies in another artifact store.
    """
    key = key_of(output.uri)
    if key is None:
        raise ConfigurationError(
            f"the output {output.name!r} is at {output.uri}, outside the artifact store {get_store().uri('-')[:-1]}.",
            "Set EVERGREEN_ARTIFACT_ROOT to the store it was written to, or run the upstream step again.",
        )
    content = get_store().read(key)
    if content is None:
        raise DataError(f"{output.uri}: the output {output.name!r} is gone.", "Run the step that writes it again.")
    return content


def key_of(uri: str) -> str | None:
    """Return the artifact key of an address, or None if it lies outside the artifact store."""
    root = get_store().uri("-").removesuffix("-")
    return uri.removeprefix(root) if uri.startswith(root) else None


def read_frame(output: Output) -> pd.DataFrame:
    """Return a Parquet output as a frame.

    Raises
    ------
    DataError
        If it is not there, or is no Parquet file.
    """
    import pandas as pd
    from pyarrow.lib import ArrowInvalid

    try:
        return pd.read_parquet(io.BytesIO(read_bytes(output)))
    except ArrowInvalid as error:
        raise DataError(f"{output.uri}: not a Parquet file: {error}.", "Run the step that writes it again.") from error
