"""The decision log: one record per judged challenger, with everything an auditor asks for."""

from __future__ import annotations

from datetime import date, datetime
from urllib.parse import quote

from pydantic import Field, JsonValue

from evergreen.contract import ConfigurationError, Output, RunIdentity
from evergreen.judgement.evidence import Decision, Evaluation
from evergreen.store import ArtifactStore, read_document
from evergreen.stored import Part, Stored


class Promotion(Part):
    """What followed a positive decision."""

    version: str
    previous: str | None
    """The version that was champion before; None for the first."""
    approved_by: str | None
    """The person who approved; None when the model needs no approval."""
    promoted_at: datetime


class Rejection(Part):
    """The answer no to a positive decision, where a model asks a person."""

    rejected_by: str | None
    """The person who rejected; None when nobody answered in time."""
    rejected_at: datetime


class DecisionRecord(Stored):
    """Who judged what, when, on which evidence, and what followed."""

    model: str
    partition: date
    run: RunIdentity
    decision: Decision
    why: str
    decided_at: datetime
    requested_by: str
    """A person, a drift report or the DAG: whatever asked for the training."""
    evaluation: Evaluation
    evidence: tuple[Output, ...]
    """The evaluation, the model and the data sets, each with address and version."""
    gate: dict[str, JsonValue]
    """The rules as they were."""
    config_digest: str
    code_version: str
    registered_version: str | None = None
    promotion: Promotion | None = Field(default=None)
    rejection: Rejection | None = Field(default=None)


def said_no(rejection: Rejection) -> str:
    """Return who rejected, in words."""
    return f"rejected by {rejection.rejected_by}" if rejection.rejected_by else "rejected: nobody answered in time"


def decision_key(model: str, partition: date, run_id: str) -> str:
    """Return the artifact key of a decision."""
    name = RunIdentity(dag_id="-", run_id=run_id, task_id="-").key.split("/")[2]
    return f"decisions/{quote(model)}/{partition}__{name}.json"


def read_decision(store: ArtifactStore, key: str) -> DecisionRecord | None:
    """Return a decision, or None if there is none.

    Raises
    ------
    ConfigurationError
        If the file is no decision.
    """
    hint = "Restore it, or clear the gate task that writes it."
    return read_document(store, key, DecisionRecord, "a decision record", hint)


def write_decision(store: ArtifactStore, record: DecisionRecord) -> str:
    """Store a decision; returns its key. The same decision keeps the time at which it was first taken."""
    key = decision_key(record.model, record.partition, record.run.run_id)
    earlier = read_decision(store, key)
    if earlier is not None:
        kept = record.model_copy(
            update={"decided_at": earlier.decided_at, "registered_version": earlier.registered_version}
        )
        if kept == earlier.model_copy(update={"promotion": None, "rejection": None}):
            return key  # nothing new, and what followed from it stays
    store.write(key, record.model_dump_json(indent=2).encode())
    return key


def amend_decision(store: ArtifactStore, key: str, **changes: object) -> DecisionRecord:
    """Add what followed to a decision.

    Raises
    ------
    ConfigurationError
        If there is no such decision.
    """
    record = read_decision(store, key)
    if record is None:
        raise ConfigurationError(f"{store.uri(key)}: the decision is gone.", "Clear the gate task that writes it.")
    amended = record.model_copy(update=changes)
    if amended != record:
        store.write(key, amended.model_dump_json(indent=2).encode())
    return amended


def list_decisions(store: ArtifactStore, model: str | None = None) -> list[DecisionRecord]:
    """Return all decisions, of one model or of all, oldest partition first."""
    prefix = f"decisions/{model}/" if model else "decisions/"
    records = [read_decision(store, key) for key in store.keys(prefix) if key.endswith(".json")]
    return sorted(
        (record for record in records if record is not None),
        key=lambda record: (record.partition, record.decided_at, record.run.run_id),
    )
