"""The people between a registered challenger and its promotion, for the models that ask for one or two."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from airflow.providers.standard.operators.hitl import HITLOperator
from airflow.sdk.exceptions import AirflowSkipException, TaskAwaitingInput

from evergreen.contract import RunIdentity, StepError
from evergreen.judgement.questions import Answer, questions_of, write_answer
from evergreen.pipelines import APPROVED, REJECTED, WITHDRAWN, dag_id
from evergreen.spec import ModelSpec
from evergreen.store import get_store
from evergreen_airflow.alerts.notifier import approval_callback
from evergreen_airflow.approval_evidence import evidence_of, manifest_of
from evergreen_airflow.approval_page import page
from evergreen_airflow.approval_trigger import ApprovalTrigger
from evergreen_airflow.outcome import airflow_error
from evergreen_airflow.partition import resolve_window

if TYPE_CHECKING:
    from airflow.sdk import Context

_ACTIVE_WITH_APPROVAL = 4


class ApprovalQuestion(HITLOperator):
    """Asks a person, until a newer challenger makes the question obsolete, or the other approver says no.

    The first skips it; after the other's no it ends with an answer that is none, so that ``promote`` records that no.

    It waits deferred, which Airflow's *Required actions* and its API take for a question like any other, because the
    state that Airflow 3.3 has for it, ``awaiting_input``, can be left by an answer or in the end only.

    What counts is the answer in the artifact store. What the task returns is for people to look at: whoever may answer
    may write that too, for every task of the run.

    Parameters
    ----------
    model
        Whose challenger it is about.
    response_timeout
        How long it waits.
    others
        The tasks that ask others the same.
    kwargs
        What a HITLOperator takes.
    """

    def __init__(self, *, model: str, response_timeout: timedelta, others: Sequence[str] = (), **kwargs: Any) -> None:
        super().__init__(response_timeout=response_timeout, **kwargs)
        self.model = model
        self.others = list(others)
        self.waits = response_timeout

    def execute(self, context: Context) -> None:
        """Ask, and wait in the triggerer; what was answered before is void from now on."""
        try:
            about = self._prepare(context)
        except StepError as error:
            raise airflow_error(error) from None  # the message says it all
        try:
            super().execute(context)
        except TaskAwaitingInput as parking:
            self.defer(
                trigger=ApprovalTrigger(
                    model=self.model,
                    training=context["ti"].run_id,
                    partition=resolve_window(context).end.isoformat(),
                    ti_id=context["ti"].id,
                    options=self.options,
                    params={},
                    defaults=self.defaults,
                    timeout_datetime=datetime.now(UTC) + self.waits,
                    asked=context["dag_run"].start_date,  # of all questions, however late each began
                    others=self.others,
                    version=about.version,
                    evaluation=about.evaluation,
                ),
                method_name=parking.method_name,
                kwargs={"version": about.version, "evaluation": about.evaluation, "shown": about.shown},
            )

    def execute_complete(self, context: Context, event: dict[str, Any], **about: str) -> Any:
        """Leave the answer, with what it is about; skip when none is needed any more.

        Parameters
        ----------
        context
            Of the task.
        event
            What the trigger has read from Airflow's record of the question.
        about
            What was shown: fields of the answer.
        """
        if why := event.get("superseded"):
            raise AirflowSkipException(f"superseded: {why}")
        told = super().execute_complete(context, event)
        if why := event.get("rejected"):
            self.log.info("Withdrawn: %s", why)
            told = {**told, "chosen_options": [WITHDRAWN]}
        person = told["responded_by_user"] or {"name": "", "id": ""}
        given = {"chosen": told["chosen_options"][0], "by": person["name"], "by_id": person["id"]}
        answer = Answer.model_validate({**about, **given, "at": told["responded_at"]})
        try:
            write_answer(get_store(), self._task(context), answer)
        except StepError as error:
            raise airflow_error(error) from None
        return told

    def _prepare(self, context: Context) -> Answer:
        """Write the page, and say in the store that nobody has answered it yet; returns that."""
        task = self._task(context)
        gate, registered = (manifest_of(task.sibling(step)) for step in ("gate", "register"))
        version, judged = str(registered.facts["version"]), str(gate.facts.get("evaluation_digest", ""))
        self.body = page(gate.facts, version, evidence_of(task.sibling("evaluate"), judged))
        shown = hashlib.sha256(f"{self.subject}\n\n{self.body}".encode()).hexdigest()
        answer = Answer(version=version, evaluation=judged, shown=shown)
        write_answer(get_store(), task, answer)
        return answer

    def _task(self, context: Context) -> RunIdentity:
        return RunIdentity(dag_id=dag_id(self.model, "train"), run_id=context["ti"].run_id, task_id=self.task_id)


def approval(spec: ModelSpec) -> list[ApprovalQuestion]:
    """Return the tasks that ask for approvals of a model, at the same time; none when it does not require any.

    They hold no slot while they wait; silence is a rejection. Airflow's ApprovalOperator would skip the promotion
    after a rejection: here ``promote`` reads the answers, skips itself and records who gave them.
    """
    asked, subject = questions_of(spec), f"Promote the challenger of {spec.name}?"
    return [
        ApprovalQuestion(
            task_id=task,
            model=spec.name,
            subject=subject
            if len(asked) == 1
            else f"{subject} ({number} of {len(asked)} approvers, each another person)",
            options=[APPROVED, REJECTED],
            defaults=REJECTED,
            response_timeout=timedelta(hours=spec.approval.timeout_hours),
            others=[other for other in asked if other != task],
            **approval_callback(spec),
        )
        for number, task in enumerate(asked, start=1)
    ]


def active_trainings(spec: ModelSpec) -> int:
    """Return how many runs of a model's training Airflow may have under way.

    One, unless a person is asked: then the one that waits and the one that trains, which supersedes it when its
    challenger is registered. The others are for questions that somebody asks again by clearing them, and for a
    triggerer that is down for a while. The pool decides how many train at once.
    """
    return _ACTIVE_WITH_APPROVAL if spec.approval.required else 1
