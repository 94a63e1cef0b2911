"""The people between a registered challenger and its promotion, for the models that ask for one or two."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from airflow.providers.standard.operators.hitl import HITLOperator
from airflow.sdk.exceptions import AirflowSkipException, TaskAwaitingInput

from evergreen.contract import RunIdentity, StepError
from evergreen.pipelines import APPROVED, QUESTIONS, REJECTED, WITHDRAWN, dag_id
from evergreen.spec import ModelSpec
from evergreen_airflow.alerts.notifier import approval_callback
from evergreen_airflow.approval_evidence import evidence_of
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
        """Ask, and wait in the triggerer."""
        ti: Any = context["ti"]
        gate, version = ti.xcom_pull(task_ids="gate"), ti.xcom_pull(task_ids="register")["version"]
        evaluate = RunIdentity(dag_id=dag_id(self.model, "train"), run_id=ti.run_id, task_id="evaluate")
        try:
            self.body = page(gate, version, evidence_of(evaluate, gate.get("evaluation_digest", "")))
        except StepError as error:
            raise airflow_error(error) from None  # the message says it all
        try:
            super().execute(context)
        except TaskAwaitingInput as parking:
            now = datetime.now(UTC)
            self.defer(
                trigger=ApprovalTrigger(
                    model=self.model,
                    training=context["ti"].run_id,
                    partition=resolve_window(context).end.isoformat(),
                    ti_id=context["ti"].id,
                    options=self.options,
                    params={},
                    defaults=self.defaults,
                    timeout_datetime=now + self.waits,
                    asked=now,
                    others=self.others,
                ),
                method_name=parking.method_name,
                kwargs={"shown": hashlib.sha256(f"{self.subject}\n\n{self.body}".encode()).hexdigest()},
            )

    def execute_complete(self, context: Context, event: dict[str, Any], shown: str = "") -> Any:
        """Return the answer, with the digest of the question as it was asked; skip when none is needed any more."""
        if why := event.get("superseded"):
            raise AirflowSkipException(f"superseded: {why}")
        answer = {**super().execute_complete(context, event), "shown": shown}
        if not (why := event.get("rejected")):
            return answer
        self.log.info("Withdrawn: %s", why)
        return {**answer, "chosen_options": [WITHDRAWN]}


def approval(spec: ModelSpec) -> list[ApprovalQuestion]:
    """Return the tasks that ask for approvals of a model, at the same time; none when it does not require any.

    They hold no slot while they wait; silence is a rejection. Airflow's ApprovalOperator would skip the promotion
    after a rejection: here ``promote`` is told the answers, skips itself and records who gave them.
    """
    asked, subject = _questions(spec), f"Promote the challenger of {spec.name}?"
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


def _questions(spec: ModelSpec) -> tuple[str, ...]:
    return QUESTIONS[: spec.approval.approvers] if spec.approval.required else ()


def active_trainings(spec: ModelSpec) -> int:
    """Return how many runs of a model's training Airflow may have under way.

    One, unless a person is asked: then the one that waits and the one that trains, which supersedes it when its
    challenger is registered. The others are for questions that somebody asks again by clearing them, and for a
    triggerer that is down for a while. The pool decides how many train at once.
    """
    return _ACTIVE_WITH_APPROVAL if spec.approval.required else 1


def answers(spec: ModelSpec) -> dict[str, Any]:
    """Return what tells ``promote`` which answer to each question was given by whom; nobody, when time ran out."""
    asked = [_answer(f"ti.xcom_pull(task_ids='{task}')") for task in _questions(spec)]
    return {"answers": asked} if asked else {}


def _answer(response: str) -> dict[str, str]:
    person = f"({response}['responded_by_user'] or {{}})"
    return {
        "chosen": f"{{{{ {response}['chosen_options'][0] }}}}",
        "by": f"{{{{ {person}.get('name', '') }}}}",
        "by_id": f"{{{{ {person}.get('id', '') }}}}",
        "shown": f"{{{{ {response}.get('shown', '') }}}}",
    }
