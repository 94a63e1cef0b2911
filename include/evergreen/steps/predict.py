"""``predict``: what the champion says of every row of the window."""

from __future__ import annotations

import logging
import resource
import time

from evergreen.contract import Request, Result, Status
from evergreen.data.chunks import Written, write_chunks
from evergreen.data.lake import get_lake
from evergreen.data.lineage import current_together, written_by
from evergreen.features.feast_repo import apply
from evergreen.features.feature_store import feature_tables
from evergreen.handover import file_digest, store_output
from evergreen.judgement.champions import champion_of
from evergreen.serving.bulk import PREDICTIONS, Ready, predictions, predictions_of
from evergreen.serving.entity_files import entity_key, read_entities
from evergreen.spec import ModelSpec
from evergreen.training.loading import load_version
from evergreen.training.registry import Version, named_version

log = logging.getLogger(__name__)


def run(request: Request, spec: ModelSpec) -> Result:
    """Write the table ``predictions``: of each row the keys, its time, what was predicted, and the version.

    It is the champion that predicts, or the version that the parameter ``version`` names. The label is not read. A
    window is replaced as a whole, in one commit, which records the version and the snapshots that were read. Where the
    parameter ``file`` names a file of entities, that is predicted into another file, and the table is left as it is.

    Skipped while there is no champion, and where there are no examples.
    """
    version = _version(request)
    if version is None:
        return Result(status=Status.SKIPPED, reason="there is no champion yet")
    file, lake = str(request.params.get("file") or ""), get_lake()
    if not file and not any(lake.days(spec.name, table, request.window) for table in ("examples", PREDICTIONS)):
        return Result(status=Status.SKIPPED, reason=f"There are no examples in {request.window}.")
    began = time.monotonic(), _cpu_seconds()
    inputs = current_together(spec.name, feature_tables(spec))
    model = load_version(version)
    if spec.features.views:
        apply(spec)
    ready = Ready.of(spec, model, version.number, {table.name: table.version for table in inputs})
    written = _file(spec, ready, file) if file else _table(request, spec, ready)
    log.info("%s rows predicted by version %s: %s", written.output.rows, version.number, written.output.uri)
    return Result(
        outputs=(written.output,),
        inputs=(version.output("version"), *inputs),
        metrics=_cost(*began, rows=written.output.rows or 0, written=written.bytes),
        facts={"version": version.number, "rows": written.output.rows, "at": written.output.uri},
    )


def _table(request: Request, spec: ModelSpec, ready: Ready) -> Written:
    read = " ".join(f"{table}={snapshot}" for table, snapshot in ready.snapshots.items())
    properties = {**written_by(request), "version": ready.version, "read": read}
    made = predictions(spec, ready, request.window)
    return write_chunks(get_lake(), spec.name, PREDICTIONS, ready.schema, made, request.window, properties)


def _file(spec: ModelSpec, ready: Ready, file: str) -> Written:
    """Predict a file of entities; the file of predictions is known by what was predicted."""
    key = entity_key(spec, file)
    rows = read_entities(spec, key, get_lake().load(spec.name, "examples").schema().as_arrow())
    content = predictions_of(spec, ready, rows)
    where = f"predicted/{key.partition('/')[2].rpartition('.')[0]}-{file_digest(content)}.parquet"
    return Written(store_output("predictions_of_file", where, content, rows=len(rows)), len(content))


def _version(request: Request) -> Version | None:
    """Return the version that is to predict: the one that is named, or the champion if there is one."""
    named = str(request.params.get("version") or "")
    return named_version(request.model, named) if named else champion_of(request)


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
