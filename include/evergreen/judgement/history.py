"""The audit log as a person reads it: what was decided, newest last, and which version served when."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime

from rich.markup import escape
from rich.table import Table

from evergreen.contract import ConfigurationError
from evergreen.judgement.decisions import DecisionRecord, fold, in_words
from evergreen.judgement.events import Event, EventKind, Release, RolloutStep, last_move
from evergreen.judgement.evidence import Decision, Verdict, said
from evergreen.judgement.questions import read_answer
from evergreen.judgement.rollouts import rollout_of
from evergreen.pipelines import APPROVED, QUESTIONS
from evergreen.store import get_store

_PUT_BACK = "where the alias was put back"
_STARTED = (EventKind.TRAINING_STARTED, EventKind.BACKFILL_STARTED)
_COLOURS = {Decision.FIRST_CHAMPION: "green", Decision.PROMOTE: "green", Decision.NOT_JUSTIFIED: "yellow"}


def history_table(logs: Mapping[str, Sequence[Event]], asking: Collection[str] = ()) -> Table:
    """Return what happened to each model, readable at 80 columns.

    A decision has its scores, its reasons, its count of warnings and who asked for it, and stands where it was taken; a
    rollback, and an alias that was seen out of place, have rows of their own; so has what only a newer version
    understands. A decision is found by its partition; whatever else, by the time when it happened.

    Parameters
    ----------
    logs
        The events of each model.
    asking
        The models whose promotions people have to approve.
    """
    table = Table.grid(padding=(0, 2))
    for model, events in logs.items():
        prefix = f"{model}: " if len(logs) > 1 else ""
        for first, headline, below in _rows(events, asks=model in asking):
            coloured = headline.replace("]", f"]{prefix}", 1)
            table.add_row(first, "\n".join([coloured, *map(escape, below), ""]))
    return table


def champion_at(model: str, events: Sequence[Event], moment: datetime) -> str:
    """Return which version was champion at a time, since when and why, as the log had it then."""
    then = [event for event in events if event.at <= moment]
    moved = last_move(then)
    if moved is None:
        return f"{model}: no champion at {moment:%Y-%m-%d %H:%M} UTC"
    champion = f"version {moved.version}" if moved.version else "no champion"
    lines = [f"{model}: {champion} at {moment:%Y-%m-%d %H:%M} UTC, since {moved.at:%Y-%m-%d %H:%M}"]
    record = next((one for one in fold(then) if one.promoted == moved), None)
    if record is not None:
        lines += [_scores(record), record.judgement.why, f"by {_who(record)}"]
    else:
        instead = f"instead of {moved.previous or 'none'}" if moved.previous != moved.version else _PUT_BACK
        lines += [f"{moved.kind.value.replace('_', ' ')}, {instead}: {moved.why}"]
        lines += [f"by {moved.by}"]
    return "\n  ".join(lines)


def _rows(events: Sequence[Event], *, asks: bool) -> Iterator[tuple[str, str, list[str]]]:
    records = {(record.decided.training, record.partition): record for record in fold(events)}
    for position, event in enumerate(events):
        if event.kind is EventKind.DECIDED:
            record = records.pop((event.training, event.partition), None)
            if record is not None:
                colour = _COLOURS.get(record.decision, "red")
                refused = [record.refused.why] if record.refused and not record.promoted else []
                lines = [_scores(record), *_reasons(record), *refused, f"by {_who(record)}"]
                headline = _waits(record) if asks and record.waiting and not record.refused else _outcome(record)
                yield f"{record.partition}\npartition", f"[{colour}]{headline}{_warned(record)}[/]", lines
        elif event.kind is EventKind.ROLLED_BACK:
            instead = f"instead of {event.previous or 'none'}"
            version = f"version {event.version}" if event.version else "no champion"
            stays = (
                _PUT_BACK if (under_way := rollout_of(events[:position])) is None else "its challenger's rollout ended"
            )
            moved = f"rollback: {version}, {instead if event.version != event.previous else stays}"
            moved += f"; the rollout of version {under_way.challenger} ended" if under_way and instead in moved else ""
            yield _when(event), f"[red]{moved}[/]", [event.why, f"by {event.by}"]
        elif event.kind is EventKind.ALIAS_MOVED:
            yield _when(event), "[red]alias out of place[/]", [event.why, f"seen by {event.run.task_id}"]
        elif event.kind is EventKind.QUARANTINE_RELEASED and event.release is not None:
            reasons = [f"{name}: {_counted(len(digests))}" for name, digests in event.release.exempt.items()]
            yield (
                _when(event),
                f"[cyan]{_released(event, event.release)}[/]",
                [*reasons, event.why, f"by {event.by}"],
            )
        elif event.rollout is not None:
            colour = "red" if event.kind is EventKind.ROLLOUT_ENDED else "cyan"
            reason = [event.why] if event.why else []
            yield _when(event), f"[{colour}]{_rolled_out(event, event.rollout)}[/]", [*reason, f"by {event.by}"]
        elif event.kind in _STARTED:
            yield (
                _when(event),
                f"[cyan]{event.kind.value.replace('_', ' ')}[/]",
                [_params(event), f"by {event.by}"],
            )
        elif not event.kind.known:
            yield (
                _when(event),
                f"[yellow]{_unknown(event)}[/]",
                [
                    *([event.why] if event.why else []),
                    f"by {event.by or event.run.task_id}; written by a newer version of Evergreen",
                ],
            )


def _when(event: Event) -> str:
    return f"{event.at:%Y-%m-%d\n%H:%M} UTC"


def _waits(record: DecisionRecord) -> str:
    """Return that a version waits for people, and who of two has said yes: the log has it only when both have."""
    assert record.registered is not None  # noqa: S101  # else it would not wait
    version, needed = record.registered.version, record.registered.approvers
    given = {number: answer.by for number, answer in record.answers.items()}
    for number, question in enumerate(QUESTIONS[:needed], start=1):
        with suppress(ConfigurationError):  # no answer that could be read
            answer = read_answer(get_store(), record.run.sibling(question))
            if answer is not None and answer.chosen == APPROVED and answer.version == version:
                given[number] = answer.by
    words = f"{record.decision.value.replace('_', ' ')}: version {version} waits for approval"
    people = f", by {' and '.join(map(str, given.values()))}" if given else ""
    return escape(f"{words}: {len(given)} of {needed} given{people}" if needed > 1 else words)


def _released(event: Event, release: Release) -> str:
    return f"released from quarantine: {_counted(release.rows)} of {release.source} of {event.partition}"


def _rolled_out(event: Event, at: RolloutStep) -> str:
    """Return what became of a rollout, in words."""
    shown = "in the shadow" if at.shadow else f"for {100 * at.share:g} % of the entities"
    match event.kind:
        case EventKind.ROLLOUT_STARTED:
            what = f"{at.strategy.replace('_', ' ')} started, {shown}, beside version {event.previous}"
        case EventKind.ROLLOUT_MOVED:
            what = f"goes on, {shown}"
        case EventKind.PROMOTED:
            what = f"{at.strategy.replace('_', ' ')} finished: it is champion, instead of {event.previous}"
        case EventKind.ROLLOUT_ENDED:
            what = f"{(at.outcome or 'ended').replace('_', ' ')}: version {event.previous} stays champion"
        case _:
            what = f"{event.kind.value.removeprefix('rollout_')}, {shown}"
    return escape(f"rollout of version {event.version}: {what}")


def _counted(rows: int) -> str:
    return "1 row" if rows == 1 else f"{rows:,} rows"


def _params(event: Event) -> str:
    return f"{event.run.run_id}: {', '.join(f'{name} {value}' for name, value in event.params.items())}"


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


def _reasons(record: DecisionRecord) -> list[str]:
    """Return why it was decided so: where checks have objected each has a line, and what else was said another."""
    objections = said(record.decided.checks, Verdict.FAILED)
    why, together = record.judgement.why, "; ".join(objections)
    if not objections or not why.startswith(together):
        return [why]
    rest = why.removeprefix(together).removeprefix("; ")
    return [*objections, *([rest] if rest else [])]


def _warned(record: DecisionRecord) -> str:
    count = len(said(record.decided.checks, Verdict.WARNING))
    return f", with {count} {'warning' if count == 1 else 'warnings'}" if count else ""


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
    if record.refused:
        return f"{words}, refused"
    if record.rollout:
        return f"{words}, {'rolled out, and not promoted' if record.rollout_ended else 'its rollout is under way'}"
    return f"{words}, superseded" if record.superseded else f"{words}, not promoted"


def _who(record: DecisionRecord) -> str:
    asked = record.judgement.requested_by
    if record.answered is None:
        return f"{asked}; {record.superseded.why}" if record.superseded and not record.promoted else asked
    if record.answered.kind is EventKind.REJECTED and record.promoted:
        return asked
    return f"{asked}; {in_words(record.answers.values())}"
