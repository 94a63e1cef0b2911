"""What people answered who were asked about a challenger, and whether it comes to a yes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import TypeAdapter, ValidationError

from evergreen.catalog import SPEC_FILE
from evergreen.contract import ConfigurationError, Frozen, Request, Result, Status
from evergreen.judgement.decisions import decision_of, event_of, in_words
from evergreen.judgement.events import Event, EventKind
from evergreen.pipelines import APPROVED, QUESTIONS, WITHDRAWN
from evergreen.spec import ModelSpec


class Answer(Frozen):
    """What Airflow says of one question."""

    chosen: str
    by: str = ""
    """Who chose it; nobody, when the time ran out."""
    by_id: str = ""
    shown: str = ""
    """The digest of the question as it was shown."""


_ANSWERS: TypeAdapter[tuple[Answer, ...]] = TypeAdapter(tuple[Answer, ...])


def answers_to(request: Request, spec: ModelSpec, version: str) -> list[Event]:
    """Return what was answered (parameter ``answers``, one for each question) as the log is to have it, a no first.

    Raises
    ------
    ConfigurationError
        If the model asks more people than were asked.
    """
    given = _given(request.params.get("answers", []))
    where = f"{spec.folder / SPEC_FILE}: approval"
    if spec.approval.required and not given:
        raise ConfigurationError(
            f"{where}.required: nobody has approved this promotion of {spec.name}.",
            f"Run {spec.name}.train, and answer under Required actions.",
        )
    if spec.approval.required and len(given) < spec.approval.approvers:
        raise ConfigurationError(
            f"{where}.approvers: {spec.approval.approvers} people have to approve, and {len(given)} was asked.",
            f"It was changed while the question waited: run {spec.name}.train again.",
        )
    events = [
        event_of(
            request,
            EventKind.APPROVED if answer.chosen == APPROVED else EventKind.REJECTED,
            version=version,
            by=answer.by or None,
            by_id=answer.by_id,
            shown=answer.shown,
            question=number,
        )
        for number, answer in enumerate(given, start=1)
        if answer.chosen != WITHDRAWN
    ]
    return sorted(events, key=lambda event: event.kind is EventKind.APPROVED)


def _given(answers: Any) -> tuple[Answer, ...]:
    try:
        return _ANSWERS.validate_python(answers)
    except ValidationError as error:
        message = f"promote: the parameter answers is {answers!r}, and not what the questions were answered with."
        raise ConfigurationError(message, f"Clear {QUESTIONS[0]}.") from error


def outcome(answers: Sequence[Event], request: Request) -> Result | None:
    """Return why answers that are on record do not come to a yes, or None."""
    if any(answer.kind is EventKind.REJECTED for answer in answers):
        return Result(status=Status.SKIPPED, reason=f"version {answers[0].version}: {in_words(answers)}")
    asked = _given(request.params.get("answers", []))
    for name, answer in zip(QUESTIONS, asked, strict=False):
        if answer.chosen == WITHDRAWN:
            why = f"{name} was withdrawn when the other approver said no: clear {name} too"
            return Result(status=Status.REFUSED, reason=f"approval.approvers: {why}")
    return None


def does_not_count(
    events: Sequence[Event], request: Request, spec: ModelSpec, answer: Event, before: Sequence[Event]
) -> Result | None:
    """Return why an answer does not count, or None.

    Parameters
    ----------
    events
        Everything that has happened.
    answer, before
        It, and the answers to the other questions that count.
    """
    current = decision_of(events, request)
    if current is not None and current.superseded is not None:
        return Result(status=Status.SKIPPED, reason=f"version {answer.version}: superseded, {current.superseded.why}")
    if answer.kind is not EventKind.APPROVED:
        return None
    why = (spec.approval.four_eyes and _started_it(events, request, answer)) or (
        spec.approval.approvers > 1 and _gave_both(answer, before)
    )
    return Result(status=Status.REFUSED, reason=f"version {answer.version}: {why}") if why else None


def _started_it(events: Sequence[Event], request: Request, answer: Event) -> str:
    """Return why an approval is not that of another person than who started the training, or nothing."""
    ask = f"clear {QUESTIONS[answer.question - 1]}"
    if answer.by is None:
        return f"approval.four_eyes: nobody knows who approved: {ask}"
    record = decision_of(events, request)
    started = {
        event.by
        for event in events
        if event.kind is EventKind.TRAINING_STARTED and event.training == request.run.run_id
    }
    if record is not None:
        started.add(record.judgement.requested_by)
    if answer.by not in started:
        return ""
    return f"approval.four_eyes: {answer.by} started this training, so another person has to approve it: {ask}"


def _gave_both(answer: Event, before: Sequence[Event]) -> str:
    """Return why an approval is not that of a further person, or nothing."""
    ask = f"clear {QUESTIONS[answer.question - 1]}"
    if not answer.by_id:
        return f"approval.approvers: nobody knows who approved: {ask}"
    if all(answer.by_id != other.by_id for other in before):
        return ""
    return f"approval.approvers: {answer.by} has approved twice, so another person has to approve it: {ask}"
