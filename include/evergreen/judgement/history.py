"""The decisions as a person reads them: one line each, newest last."""

from __future__ import annotations

from collections.abc import Sequence

from rich.markup import escape
from rich.table import Table

from evergreen.judgement.decisions import DecisionRecord, said_no
from evergreen.judgement.evidence import Decision

_COLOURS = {Decision.FIRST_CHAMPION: "green", Decision.PROMOTE: "green", Decision.NOT_JUSTIFIED: "yellow"}


def decision_table(records: Sequence[DecisionRecord]) -> Table:
    """Return a table of decisions."""
    table = Table("model", "partition", "metric", "champion", "challenger", "improvement", "decision", "why", "who")
    for record in records:
        found, colour = record.evaluation, _COLOURS[record.decision]
        champion = found.champion.metrics.get(found.metric) if found.champion else None
        table.add_row(
            record.model,
            str(record.partition),
            found.metric,
            _number(champion),
            _number(found.challenger.metrics.get(found.metric)),
            escape(_interval(record)),
            f"[{colour}]{_outcome(record)}[/{colour}]",
            escape(record.why),
            escape(_who(record)),
        )
    return table


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _interval(record: DecisionRecord) -> str:
    interval = record.evaluation.interval
    return f"{interval[0]:+.4f} [{interval[1]:+.4f}, {interval[2]:+.4f}]" if interval else "-"


def _outcome(record: DecisionRecord) -> str:
    if record.decision is Decision.NOT_JUSTIFIED:
        return "not justified"
    words = record.decision.value.replace("_", " ")
    if record.rejection and not record.promotion:
        return f"{words}, rejected"
    return f"{words}: version {record.promotion.version}" if record.promotion else f"{words}, not promoted"


def _who(record: DecisionRecord) -> str:
    if record.rejection and not record.promotion:
        return f"{record.requested_by}; {said_no(record.rejection)}"
    approver = record.promotion.approved_by if record.promotion else None
    return f"{record.requested_by}; approved by {approver}" if approver else record.requested_by
