"""The log of decisions as a person reads it, newest last."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from rich.markup import escape
from rich.table import Table

from evergreen.judgement.decisions import DecisionRecord, fold, said_no
from evergreen.judgement.events import Event, EventKind
from evergreen.judgement.evidence import Decision

_COLOURS = {Decision.FIRST_CHAMPION: "green", Decision.PROMOTE: "green", Decision.NOT_JUSTIFIED: "yellow"}


def history_table(logs: Mapping[str, Sequence[Event]]) -> Table:
    """Return what happened to each model, readable at 80 columns.

    A decision has its scores, its reason and who asked for it, and stands where it was first taken; a rollback, and
    an alias that was seen out of place, have rows of their own; so has what only a newer version understands.
    """
    table = Table.grid(padding=(0, 2))
    for model, events in logs.items():
        prefix = f"{model}: " if len(logs) > 1 else ""
        for first, headline, below in _rows(events):
            coloured = headline.replace("]", f"]{prefix}", 1)
            table.add_row(first, "\n".join([coloured, *map(escape, below), ""]))
    return table


def _rows(events: Sequence[Event]) -> Iterator[tuple[str, str, list[str]]]:
    records = {(record.decided.training, record.partition): record for record in fold(events)}
    for event in events:
        if event.kind is EventKind.DECIDED:
            record = records.pop((event.training, event.partition), None)
            if record is not None:
                colour = _COLOURS.get(record.decision, "red")
                lines = [_scores(record), record.judgement.why, f"by {_who(record)}"]
                yield str(record.partition), f"[{colour}]{_outcome(record)}[/]", lines
        elif event.kind is EventKind.ROLLED_BACK:
            moved = f"rollback: version {event.version}, instead of {event.previous or 'none'}"
            yield f"{event.at:%Y-%m-%d}", f"[red]{moved}[/]", [event.why, f"by {event.by}"]
        elif event.kind is EventKind.ALIAS_MOVED:
            yield f"{event.at:%Y-%m-%d}", "[red]alias out of place[/]", [event.why, f"seen by {event.run.task_id}"]
        elif not event.kind.known:
            yield (
                f"{event.at:%Y-%m-%d}",
                f"[yellow]{_unknown(event)}[/]",
                [
                    *([event.why] if event.why else []),
                    f"by {event.by or event.run.task_id}; written by a newer version of Evergreen",
                ],
            )


def _unknown(event: Event) -> str:
    """Return what can be said of an event whose kind a newer version has added."""
    about = f": version {event.version}" if event.version else f" ({event.partition})"
    return escape(f"{event.kind.value.replace('_', ' ')}{about}")


def _scores(record: DecisionRecord) -> str:
    evaluation = record.judgement.evaluation
    rivals = {"baseline": evaluation.baseline.score} if evaluation.baseline else {}
    rivals |= {"champion": evaluation.champion.metrics.get(evaluation.metric)} if evaluation.champion else {}
    words = [f"{title} {_number(score)}" for title, score in rivals.items()]
    words.append(f"challenger {_number(evaluation.challenger.metrics.get(evaluation.metric))}")
    if interval := evaluation.interval or (evaluation.baseline and evaluation.baseline.interval):
        words.append("{:+.4f} [{:+.4f}, {:+.4f}]".format(*interval))
    return f"{evaluation.metric}: {', '.join(words)}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _outcome(record: DecisionRecord) -> str:
    words = escape(record.decision.value.replace("_", " "))
    if record.promoted:
        how = ", then rolled back" if record.rolled_back else ""
        again = "" if record.decision is not Decision.NOT_JUSTIFIED else " when judged again, after promotion"
        return f"{words}{again}: version {record.promoted.version}{how}"
    if record.decision is Decision.NOT_JUSTIFIED:
        return words
    if record.answered and record.answered.kind is EventKind.REJECTED:
        return f"{words}, rejected"
    return f"{words}, superseded" if record.superseded else f"{words}, not promoted"


def _who(record: DecisionRecord) -> str:
    asked = record.judgement.requested_by
    if record.answered is None:
        return f"{asked}; {record.superseded.why}" if record.superseded and not record.promoted else asked
    if record.answered.kind is EventKind.REJECTED:
        return asked if record.promoted else f"{asked}; {said_no(record.answered)}"
    return f"{asked}; approved by {record.answered.by}"
