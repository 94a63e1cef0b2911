"""The decisions as a person reads them, newest last."""

from __future__ import annotations

from collections.abc import Sequence

from rich.markup import escape
from rich.table import Table

from evergreen.judgement.decisions import DecisionRecord, said_no
from evergreen.judgement.evidence import Decision

_COLOURS = {Decision.FIRST_CHAMPION: "green", Decision.PROMOTE: "green", Decision.NOT_JUSTIFIED: "yellow"}


def decision_table(records: Sequence[DecisionRecord]) -> Table:
    """Return the decisions, each with its scores, its reason, and who asked for it: readable at 80 columns."""
    table = Table.grid(padding=(0, 2))
    several = len({record.model for record in records}) > 1
    for record in records:
        model = f"{record.model}: " if several else ""
        lines = (_scores(record), record.why, f"by {_who(record)}", "")
        headline = f"[{_COLOURS[record.decision]}]{model}{_outcome(record)}[/]"
        table.add_row(str(record.partition), "\n".join([headline, *map(escape, lines)]))
    return table


def _scores(record: DecisionRecord) -> str:
    found = record.evaluation
    rivals = {"baseline": found.baseline.score} if found.baseline else {}
    rivals |= {"champion": found.champion.metrics.get(found.metric)} if found.champion else {}
    words = [f"{title} {_number(score)}" for title, score in rivals.items()]
    words.append(f"challenger {_number(found.challenger.metrics.get(found.metric))}")
    if interval := found.interval or (found.baseline and found.baseline.interval):
        words.append("{:+.4f} [{:+.4f}, {:+.4f}]".format(*interval))
    return f"{found.metric}: {', '.join(words)}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


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
