"""What a worker does with a micro-batch: features, split, graphs, and the log's records."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, NamedTuple

from evergreen.serving.answers import Answer, VariantName
from evergreen.serving.deployment import Deployment, Variant
from evergreen.serving.log_files import AGE, FEATURE, NO_EXPERIMENT, OUTPUT, REQUEST, Status
from evergreen.serving.metrics import ANSWERED, GRAPH_FAILED
from evergreen.serving.online_features import FeatureRows, OnlineFeatures
from evergreen.serving.prediction_log import PredictionLog
from evergreen.serving.requests import InvalidRequestError, OverloadedError, Rows, Value
from evergreen.serving.split import in_challenger
from evergreen.serving.spool import SERVER
from evergreen.spec import ModelSpec

Outcome = list[Answer] | Exception
"""What a request gets."""
_numbers = itertools.count(1)


class GraphError(RuntimeError):
    """A version's graph could not compute a request: this is a defect, and the client gets 500.

    Parameters
    ----------
    model, variant, version
        Whose graph it is.
    why
        What it did, without any value of the request.
    """

    def __init__(self, model: str, variant: VariantName, version: str, why: str) -> None:
        self.variant, self.version = variant, version
        super().__init__(f"the graph of version {version} of {model} failed: {why}")


class Computed(NamedTuple):
    """What a variant's graph made of some rows."""

    outputs: Mapping[str, list[float]]
    milliseconds: float
    """How long the graph took for all of them together."""


def computed(
    model: str, name: VariantName, variant: Variant, inputs: Mapping[str, Sequence[Value]], rows: Sequence[int]
) -> Computed:
    """Return what a variant answers to some rows, by output, and how long that took.

    Raises
    ------
    GraphError
        If its graph asks for what there is not, raises, or answers with what is no finite number.
    """
    graph = variant.graph
    began = time.perf_counter()
    try:
        asked = {one: [inputs[one][row] for row in rows] for one in (*graph.numeric, *graph.categorical)}
        outputs = {output: values.tolist() for output, values in graph.run(asked).items()}
    except Exception as error:  # of ONNX Runtime, of a value that it does not take, or of a column that is not there
        raise GraphError(model, name, variant.version, type(error).__name__) from error
    milliseconds = (time.perf_counter() - began) * 1000
    if not all(math.isfinite(value) for values in outputs.values() for value in values):
        raise GraphError(model, name, variant.version, "an answer is no finite number")
    return Computed(outputs, milliseconds)


def new_id(at: datetime) -> str:
    """Return the id of a prediction: the day of its event, this process, and a number; ids of a process sort."""
    return f"{at:%Y%m%d}-{SERVER}-{next(_numbers):010x}"


@dataclass(frozen=True)
class Asked:
    """A request, and when it came."""

    rows: Rows
    client: str
    received: float = field(default_factory=time.perf_counter)


@dataclass(frozen=True)
class Batch:
    """Requests that are computed together, by the deployment that they began with."""

    spec: ModelSpec
    features: OnlineFeatures
    log: PredictionLog | None
    deployment: Deployment
    requests: Sequence[Asked]

    def values(self, name: str) -> list[Value]:
        """Return a column of all requests."""
        return [value for asked in self.requests for value in asked.rows.columns[name]]


@dataclass(frozen=True)
class Shadow:
    """What the challenger is still to answer, for the log alone."""

    batch: Batch
    columns: Mapping[str, Sequence[Value]]
    answered: Sequence[tuple[int, dict[str, Any]]]
    """The rows, and the record of the champion's answer to each."""

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return len(self.answered)

    def run(self) -> None:
        """Answer, and log."""
        challenger = self.batch.deployment.challenger
        if challenger is None or self.batch.log is None or not self.answered:
            return
        model = self.batch.spec.name
        told: dict[str, Any] = {"variant": "challenger", "version": challenger.version, "shadow": True}
        columns: Mapping[str, Sequence[float | None]]
        milliseconds: float | None
        try:
            columns, milliseconds = computed(
                model, "challenger", challenger, self.columns, [row for row, _ in self.answered]
            )
        except GraphError as error:  # an error of the challenger's like any other, though nobody waits for its answer
            GRAPH_FAILED.labels(model, challenger.version).inc()
            told |= {"status": "error", "reason": str(error)}
            columns, milliseconds = {name: [None] * self.rows for name in challenger.graph.outputs}, None
        told |= {"latency_ms": None, "graph_ms": milliseconds}  # nobody waited for it
        records = []
        for number, (_, record) in enumerate(self.answered):
            records.append(record | told | {f"{OUTPUT}{name}": values[number] for name, values in columns.items()})
        self.batch.log.append(records)


def answered(batch: Batch) -> tuple[list[Outcome], Shadow | None]:
    """Compute a batch: an outcome for each request, logged, and what is left for the shadow."""
    now = datetime.now(UTC)
    moments = [asked.rows.at or now for asked in batch.requests for _ in range(len(asked.rows))]
    columns: dict[str, Sequence[Value]] = {column.name: batch.values(column.name) for column in batch.features.columns}
    try:
        found = batch.features.read(columns, moments)
    except OverloadedError as error:
        return [error] * len(batch.requests), None
    computing = _Computing(batch, now, moments, columns, found)
    outcomes = computing.outcomes()
    if not batch.deployment.shadow or batch.log is None:
        return outcomes, None
    return outcomes, Shadow(batch, computing.inputs, computing.to_shadow)


class _Computing:
    """The rows of a batch on their way from features to answers."""

    def __init__(
        self,
        batch: Batch,
        now: datetime,
        moments: Sequence[datetime],
        columns: Mapping[str, Sequence[Value]],
        found: FeatureRows,
    ) -> None:
        self.batch, self.now, self.moments, self.columns, self.found = batch, now, moments, columns, found
        self.inputs = {**columns, **found.values}
        self.variants = batch.deployment.by_name
        self.to_shadow: list[tuple[int, dict[str, Any]]] = []
        self.spans = self._spans()
        self.names = [
            self._pinned(asked) or self._split(row)
            for asked, span in zip(batch.requests, self.spans, strict=True)
            for row in span
        ]

    def outcomes(self) -> list[Outcome]:
        """Return an outcome for each request, after all of them are in the log."""
        spans, problems = self.spans, self.found.problems
        sound = [span for span in spans if not any(row in problems for row in span)] if problems else spans
        results = self._results([row for span in sound for row in span], sound)
        outcomes: list[Outcome] = []
        records: list[dict[str, Any]] = []
        for asked, span in zip(self.batch.requests, spans, strict=True):
            outcome, told = self._outcome(asked, span, results)
            outcomes.append(outcome)
            records += told
        if self.batch.log is not None:
            self.batch.log.append(records)
        return outcomes

    def _spans(self) -> list[range]:
        spans, start = [], 0
        for asked in self.batch.requests:
            spans.append(range(start, start + len(asked.rows)))
            start += len(asked.rows)
        return spans

    def _pinned(self, asked: Asked) -> VariantName | None:
        """Return who is to answer a request that names its version."""
        return None if asked.rows.version is None else self.batch.deployment.name_of(asked.rows.version)

    def _split(self, row: int) -> VariantName:
        """Return whom the split lets answer a row."""
        deployment, features = self.batch.deployment, self.batch.spec.features
        if not deployment.is_split:
            return "champion"
        by = deployment.split_by or features.keys or features.request_inputs
        key = [self.columns[name][row] for name in by]
        return "challenger" if in_challenger(deployment.salt, key, deployment.share) else "champion"

    def _results(self, rows: Sequence[int], spans: Sequence[range]) -> dict[int, _Result | GraphError]:
        """Return the result of each row; where a graph fails, those requests that it fails for are told so."""
        try:
            return dict(self._run(rows))
        except GraphError as failed:
            if len(spans) <= 1:
                GRAPH_FAILED.labels(self.batch.spec.name, failed.version).inc()
                return dict.fromkeys(rows, failed)
        results: dict[int, _Result | GraphError] = {}
        for span in spans:
            results |= self._results(span, [span])
        return results

    def _run(self, rows: Sequence[int]) -> dict[int, _Result]:
        results: dict[int, _Result] = {}
        for name, variant in self.variants.items():
            chosen = [row for row in rows if self.names[row] == name]
            if not chosen:
                continue
            columns, milliseconds = computed(self.batch.spec.name, name, variant, self.inputs, chosen)
            for number, row in enumerate(chosen):
                outputs = {one: values[number] for one, values in columns.items()}
                results[row] = _Result(outputs, milliseconds)
            ANSWERED.labels(self.batch.spec.name, variant.version, name).inc(len(chosen))
        return results

    def _outcome(
        self, asked: Asked, span: range, results: Mapping[int, _Result | GraphError]
    ) -> tuple[Outcome, list[dict[str, Any]]]:
        """Return what a request gets, and its records."""
        problems = [
            replace(problem, row=row - span.start) for row in span for problem in self.found.problems.get(row, ())
        ]
        if problems:
            reason = ", ".join(sorted({f"{problem.kind}: {problem.column}" for problem in problems}))
            return InvalidRequestError(problems), [self._record(asked, row, "refused", reason) for row in span]
        failed = next((result for row in span if isinstance(result := results[row], GraphError)), None)
        if failed is not None:  # the rows that the other variant would have answered tell nothing of it
            blamed = [row for row in span if self.names[row] == failed.variant]
            return failed, [self._record(asked, row, "error", str(failed)) for row in blamed]
        answers, records = [], []
        for row in span:
            record = self._record(asked, row, "ok", "")
            result = results[row]
            if isinstance(result, _Result):
                answers.append(Answer(record["prediction_id"], record["version"], record["variant"], result.outputs))
                record |= {f"{OUTPUT}{name}": value for name, value in result.outputs.items()}
                record["graph_ms"] = result.milliseconds
            records.append(record)
            if asked.rows.version is None:
                self.to_shadow.append((row, record))
        return answers, records

    def _record(self, asked: Asked, row: int, status: Status, reason: str) -> dict[str, Any]:
        found, name = self.found, self.names[row]
        # what a client has chosen is no part of a comparison by chance
        experiment = NO_EXPERIMENT if asked.rows.version is not None else self.batch.deployment.experiment
        return {
            "prediction_id": new_id(self.moments[row]),
            "variant": name,
            "version": self.variants[name].version,
            "status": status,
            "reason": reason,
            "experiment": experiment,
            "client": asked.client,
            "server": SERVER,
            "shadow": False,
            "served_at": self.now,
            "event_timestamp": self.moments[row],
            "latency_ms": (time.perf_counter() - asked.received) * 1000,
            "graph_ms": None,
            **{f"{REQUEST}{name}": values[row] for name, values in self.columns.items()},
            **{f"{FEATURE}{name}": values[row] for name, values in found.values.items()},
            **{f"{AGE}{name}": ages[row] for name, ages in found.ages.items()},
        }


class _Result(NamedTuple):
    """What a row is answered with."""

    outputs: Mapping[str, float]
    milliseconds: float
