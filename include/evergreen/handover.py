"""What one step hands to the next through the artifact store: manifests and data sets."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from datetime import date
from typing import TYPE_CHECKING

from evergreen.contract import ConfigurationError, DataError, Manifest, Output, Request
from evergreen.store import get_store

if TYPE_CHECKING:
    import pandas as pd


def upstream(request: Request, step: str) -> Manifest:
    """Return the manifest of an upstream step, which ended well: a step is not run after one that said no.

    Raises
    ------
    DataError
        If the request carries none.
    """
    manifest = request.upstream.get(step)
    if manifest is None:
        raise DataError(
            f"{request.step} of {request.model} needs the manifest of {step}, and was given none.",
            f"Pass it: --upstream {step}=<task id> on the command line, upstream={{...}} in a DAG.",
        )
    return manifest


def checked(manifest: Manifest, known: Output, recorded_by: str) -> Output:
    """Return what is known of an upstream output, or refuse the manifest that says something else of it.

    Parameters
    ----------
    manifest
        The upstream step's.
    known
        The output as its own place records it: the lake, the file, MLflow.
    recorded_by
        What that place is called in a message.

    Raises
    ------
    DataError
        If address, version, digest or rows differ.
    """
    output = manifest.output(known.name)
    for field in ("uri", "version", "digest", "rows"):
        if getattr(output, field) != getattr(known, field):
            raise disagreement(manifest, output, field, f"{recorded_by} says {getattr(known, field)!r}")
    return known


def disagreement(manifest: Manifest, output: Output, field: str, instead: str) -> DataError:
    """Return the refusal of an upstream manifest whose output is not what it says."""
    run = manifest.run
    return DataError(
        f"{run.manifest_key}: outputs: {output.name}.{field} is {getattr(output, field)!r}, but {instead}.",
        f"It was changed, or what it names was: run the task {run.task_id!r} of {run.dag_id} ({run.run_id}) again.",
    )


def read_bytes(manifest: Manifest, name: str) -> bytes:
    """Return the content of an upstream output that is a file in the artifact store; it is what the manifest says.

    Raises
    ------
    DataError
        If it is not there, or digest or version are not those of its content.
    ConfigurationError
        If it lies in another artifact store.
    """
    output = manifest.output(name)
    key = key_of(output.uri)
    if key is None:
        raise ConfigurationError(
            f"the output {output.name!r} is at {output.uri}, outside the artifact store {get_store().uri('-')[:-1]}.",
            "Set EVERGREEN_ARTIFACT_ROOT to the store it was written to, or run the upstream step again.",
        )
    content = get_store().read(key)
    if content is None:
        raise disagreement(manifest, output, "uri", "the file is gone")
    digest = file_digest(content)
    # a data set is one of several files that share a version, which names their folder
    version = key.split("/")[-2].rpartition("-")[2] if key.startswith(DATASETS) else digest
    if output.digest != digest:
        raise disagreement(manifest, output, "digest", f"the file {output.uri} has {digest!r}")
    if output.version != version:
        raise disagreement(manifest, output, "version", f"the file {output.uri} has {version!r}")
    return content


DATASETS = "datasets/"
"""Where data sets lie in the artifact store: ``datasets/<model>/<partition>-<version>/<name>.parquet``."""


def file_digest(content: bytes) -> str:
    """Return the digest (16 hex characters) by which manifests know the content of a file."""
    return hashlib.sha256(content).hexdigest()[:16]


def store_output(name: str, key: str, content: bytes, *, version: str = "", rows: int | None = None) -> Output:
    """Write a file of the artifact store; returns the output that it is, versioned by its digest unless otherwise."""
    digest = file_digest(content)
    return Output(name=name, uri=get_store().write(key, content), version=version or digest, digest=digest, rows=rows)


def store_frames(model: str, partition: date, frames: Mapping[str, pd.DataFrame]) -> tuple[Output, ...]:
    """Write data sets under one digest of their content: equal data has an equal address, whenever it is written."""
    contents = {name: _parquet(frame) for name, frame in frames.items()}
    digest = file_digest(b"".join(contents.values()))
    folder = f"{DATASETS}{model}/{partition}-{digest}"
    return tuple(
        store_output(name, f"{folder}/{name}.parquet", content, version=digest, rows=len(frames[name]))
        for name, content in contents.items()
    )


def _parquet(frame: pd.DataFrame) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pandas(frame, preserve_index=False), sink, compression="zstd")
    return bytes(sink.getvalue())


def key_of(uri: str) -> str | None:
    """Return the artifact key of an address, or None if it lies outside the artifact store."""
    root = get_store().uri("-").removesuffix("-")
    return uri.removeprefix(root) if uri.startswith(root) else None


def read_frame(manifest: Manifest, name: str) -> pd.DataFrame:
    """Return an upstream Parquet output as a frame.

    Raises
    ------
    DataError
        If it is not there, not what the manifest says, or no Parquet file.
    """
    import pandas as pd
    from pyarrow.lib import ArrowInvalid

    output = manifest.output(name)
    try:
        frame = pd.read_parquet(io.BytesIO(read_bytes(manifest, name)))
    except ArrowInvalid as error:
        raise DataError(f"{output.uri}: not a Parquet file: {error}.", "Run the step that writes it again.") from error
    if output.rows != len(frame):
        raise disagreement(manifest, output, "rows", f"the file {output.uri} has {len(frame)}")
    return frame
