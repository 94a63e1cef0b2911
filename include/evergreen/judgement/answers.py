"""What people answered who were asked about a challenger, and whether it comes to a yes."""

from __future__ import annotations

from collections.abc import Sequence

from evergreen.catalog import SPEC_FILE
from evergreen.contract import ConfigurationError, Request, Result, Status
from evergreen.judgement.decisions import DecisionRecord, decision_of, event_of, in_words
from evergreen.judgement.events import Event, EventKind
from evergreen.judgement.questions import Answer, questions_of, read_answer
from evergreen.pipelines import APPROVED, QUESTIONS, WITHDRAWN
from evergreen.spec import ModelSpec
from evergreen.store import get_store


def answers_given(request: Request, spec: ModelSpec) -> list[Answer]:
    """Return what the run's questions were answered with, in their order; nothing when the model asks nobody.

    Raises
    ------
    ConfigurationError
        If one was not asked, or not answered.
    """
    given = []
    for question in questions_of(spec):
        answer = read_answer(get_store(), request.run.sibling(question))
        if answer is None or not answer.chosen:
            field = "required" if question == QUESTIONS[0] else "approvers"
            raise ConfigurationError(
                f"{spec.folder / SPEC_FILE}: approval.{field}: nobody has answered {question} about this promotion of "
                f"{spec.name}.",
                f"Clear {question} and answer it under Required actions: to mark it as a success is no answer. If the "
                f"run has no such task, run {spec.name}.train again.",
            )
        given.append(answer)
    return given


def about_another(given: Sequence[Answer], record: DecisionRecord, version: str) -> str:
    """Return which answer is about something else than what is to be promoted, or nothing.

    Parameters
    ----------
    given
        The answers, in the order of the questions.
    record, version
        What was judged and registered, and the version to promote.
    """
    registered, judged = record.registered and record.registered.version, record.judgement.evaluation_digest
    for question, answer in zip(QUESTIONS, given, strict=False):
        clear = f"clear {question}, so that it asks about this one"
        if not answer.version == version == registered:
            return f"{question} was answered about version {answer.version or 'unknown'}: {clear}"
        if answer.evaluation != judged:
            evaluation = f"the evaluation {answer.evaluation or 'unknown'}, and {judged} was judged"
            return f"{question} was answered about {evaluation}: {clear}"
    return ""


def as_events(given: Sequence[Answer], request: Request, version: str) -> list[Event]:
    """Return answers as the log is to have them, a no first."""
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


def outcome(answers: Sequence[Event], given: Sequence[Answer]) -> Result | None:
    """Return why answers that are on record do not come to a yes, or None."""
    if any(answer.kind is EventKind.REJECTED for answer in answers):
        return Result(status=Status.SKIPPED, reason=f"version {answers[0].version}: {in_words(answers)}")
    for name, answer in zip(QUESTIONS, given, strict=False):
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
