"""``predict``: what the champion says of every row of the window."""

from __future__ import annotations

import logging
import resource
import time

from pydantic import JsonValue

from evergreen.contract import Output, Request, Result, Status
from evergreen.data.chunks import write_chunks
from evergreen.data.lake import get_lake
from evergreen.data.lineage import current_together, written_by
from evergreen.features.feast_repo import apply
from evergreen.features.feature_store import feature_tables
from evergreen.judgement.champions import champion_of
from evergreen.serving.bulk import PREDICTIONS, prediction_schema, predictions
from evergreen.spec import ModelSpec
from evergreen.training.loading import load_version
from evergreen.training.registry import Version, named_version

log = logging.getLogger(__name__)


def run(request: Request, spec: ModelSpec) -> Result:
    """Write the table ``predictions``: of each row the keys, its time, what was predicted, and the version.

    It is the champion that predicts, or the version that the parameter ``version`` names. The label is not read. A
    window is replaced as a whole, in one commit, which records the version and the snapshots that were read.

    Skipped while there is no champion, and where there are no examples.
    """
    version = _version(request)
    if version is None:
        return Result(status=Status.SKIPPED, reason="there is no champion yet")
    lake = get_lake()
    if not any(lake.days(spec.name, table, request.window) for table in ("examples", PREDICTIONS)):
        return Result(status=Status.SKIPPED, reason=f"There are no examples in {request.window}.")
    inputs = current_together(spec.name, feature_tables(spec))
    began = time.monotonic(), _cpu_seconds()
    model = load_version(version)
    if spec.features.views:
        apply(spec)
    snapshots = {table.name: table.version for table in inputs}
    schema = prediction_schema(spec, lake.load(spec.name, "examples").schema().as_arrow(), model)
    written = write_chunks(
        lake,
        spec.name,
        PREDICTIONS,
        schema,
        predictions(spec, model, version.number, schema, request.window, snapshots),
        request.window,
        {**written_by(request), "version": version.number, "read": _read(inputs)},
    )
    log.info("%s rows of %s predicted by version %s", written.output.rows, request.window, version.number)
    return Result(
        outputs=(written.output,),
        inputs=(version.output("version"), *inputs),
        metrics=_cost(*began, rows=written.output.rows or 0, written=written.bytes),
        facts=_facts(request, version, written.output),
    )


def _version(request: Request) -> Version | None:
    """Return the version that is to predict: the one that is named, or the champion if there is one."""
    named = str(request.params.get("version") or "")
    return named_version(request.model, named) if named else champion_of(request)


def _read(inputs: list[Output]) -> str:
    return " ".join(f"{table.name}={table.version}" for table in inputs)


def _facts(request: Request, version: Version, output: Output) -> dict[str, JsonValue]:
    return {"version": version.number, "rows": output.rows, "window": str(request.window), "snapshot": output.version}


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _cost(began: float, cpu: float, *, rows: int, written: int) -> dict[str, float]:
    """Return what the predictions took: time, processor, memory, disk."""
    return {
        "rows": rows,
        "seconds": round(time.monotonic() - began, 3),
        "cpu_seconds": round(_cpu_seconds() - cpu, 3),
        "peak_memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),  # KiB, on Linux
        "bytes_written": written,
    }
