"""What there is to tell: from how a task ends to a finding."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from airflow.sdk.log import redact  # type: ignore[attr-defined]  # it has it, and does not list it

from evergreen.contract import Manifest, RunIdentity, Status, printable
from evergreen.spec import AlertEvent, ModelSpec
from evergreen.store import get_store, read_manifest
from evergreen_airflow.alerts.message import Finding
from evergreen_airflow.partition import resolve_window

if TYPE_CHECKING:
    from airflow.sdk import Context


def task_failed(context: Context, spec: ModelSpec) -> Finding:
    """Tell of a task that has failed for good: Airflow asks after the last try only.

    The DAG processor asks in the place of a task whose worker died, and knows of no exception then.
    """
    ti: Any = context["ti"]
    error = context.get("exception")
    why = printable(str(redact(str(error)))) if error else "it was ended from outside, or its worker died"
    run = RunIdentity(dag_id=ti.dag_id, run_id=ti.run_id, task_id=ti.task_id)
    return Finding(AlertEvent.TASK_FAILED, run.address, f"{ti.dag_id}, run {ti.run_id}: {ti.task_id} failed: {why}")


def approval_waits(context: Context, spec: ModelSpec) -> Finding:
    """Tell that a person is asked; two questions at the same time are one matter."""
    partition = resolve_window(context).end
    within = f"within {spec.approval.timeout_hours:g} hours"
    answers = "a person's answer" if spec.approval.approvers == 1 else "the answers of two people"
    what = f"the challenger of {partition} has passed the gate and waits for {answers} {within}"
    return Finding(AlertEvent.APPROVAL_WAITS, str(context["ti"].run_id), what)


def result_of(context: Context, spec: ModelSpec) -> Finding | None:
    """Tell what a step has found, if it is in the table."""
    ti: Any = context["ti"]
    run = RunIdentity(dag_id=ti.dag_id, run_id=ti.run_id, task_id=ti.task_id)
    manifest = read_manifest(get_store(), run)
    return found_in(manifest) if manifest is not None else None


def found_in(manifest: Manifest) -> Finding | None:
    """Return what a manifest says that people are to be told."""
    for row in RESULTS.get(manifest.step, ()):
        matter = row.matter(manifest) if manifest.status is row.status else None
        if matter is not None:
            return Finding(row.event, matter, row.says.format_map(_Facts(manifest)))
    return None


class _Facts(dict[str, Any]):
    """A manifest's facts for a sentence; what another version does not write is "unknown"."""

    def __init__(self, manifest: Manifest) -> None:
        super().__init__(partition=manifest.window.end, **manifest.facts)

    def __getitem__(self, name: str) -> Any:
        value = self.get(name, "unknown")
        return "none" if value is None else value


def _report(fact: str, value: object) -> Callable[[Manifest], str | None]:
    """Return which report a check has left, if a fact of it has a value."""

    def matter(manifest: Manifest) -> str | None:
        report = str(manifest.facts.get("report_id") or manifest.run.address)
        return report if manifest.facts.get(fact) == value else None

    return matter


def _refused_again(manifest: Manifest) -> str | None:
    """Return the first of the refusals in a row that this one ends, if it is not the first itself.

    A third refusal in a row is the same matter as the second.
    """
    row = manifest.facts.get("refused_in_a_row")
    return str(row[0]) if isinstance(row, list) and len(row) > 1 else None


class Row(NamedTuple):
    """An answer of a step that people are told of."""

    event: AlertEvent
    status: Status
    matter: Callable[[Manifest], str | None]
    """Which matter of its kind it is; None: there is nothing to tell."""
    says: str
    """The sentence, a template of the manifest's facts."""


def _moved(manifest: Manifest) -> str | None:
    """Return which promotion it is; the start of a rollout is none."""
    moved = "rollout" not in manifest.facts or manifest.facts.get("event") == "promoted"
    return f"{manifest.run.run_id} {manifest.facts.get('version')}" if moved else None


def _of_rollout(event: str | None) -> Callable[[Manifest], str | None]:
    """Return which rollout has come to an event, if a manifest says so; None: it has begun."""

    def matter(manifest: Manifest) -> str | None:
        rollout = manifest.facts.get("rollout")
        return f"{rollout} {event or 'started'}" if rollout and manifest.facts.get("event") == event else None

    return matter


RESULTS: Mapping[str, tuple[Row, ...]] = {
    "check_drift": (
        Row(AlertEvent.DRIFT, Status.OK, _report("verdict", "drift"), "the inputs of {partition}: {why}"),
        Row(AlertEvent.SKEW, Status.OK, _report("skew", "skewed"), "the features served to {partition}: {skew_why}"),
    ),
    "check_performance": (
        Row(AlertEvent.PERFORMANCE_DROP, Status.OK, _report("proposal", True), "the champion has become worse: {why}"),
    ),
    "gate": (
        Row(
            AlertEvent.GATE_REFUSED,
            Status.REFUSED,
            _refused_again,
            "the gate has refused at least two challengers in a row, that of {partition} because: {why}",
        ),
    ),
    "promote": (
        Row(
            AlertEvent.PROMOTION,
            Status.OK,
            _moved,
            "version {version} is champion now; before it: {previous}",
        ),
        Row(
            AlertEvent.ROLLOUT,
            Status.OK,
            _of_rollout(None),
            "the rollout of version {version} has begun ({strategy}); version {previous} is champion",
        ),
    ),
    "rollback": (
        Row(
            AlertEvent.ROLLBACK,
            Status.OK,
            lambda manifest: manifest.run.run_id,
            "version {version} serves again in the place of {previous}: {why} (by {by})",
        ),
    ),
    "rollout": (
        Row(
            AlertEvent.ROLLOUT,
            Status.OK,
            _of_rollout("rollout_ended"),
            "version {previous} stays champion, the rollout of {version} has ended ({outcome}): {why} (by {by})",
        ),
        Row(AlertEvent.PROMOTION, Status.OK, _moved, "version {version} is champion now; before it: {previous}"),
    ),
}
"""Step to what of its answers is told: the first row with a matter. Whatever else there is to tell is a row."""
