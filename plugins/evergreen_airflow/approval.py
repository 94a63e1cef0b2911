"""The person between a registered challenger and its promotion, for the models that ask for one."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from airflow.providers.standard.operators.hitl import HITLOperator
from airflow.sdk.exceptions import AirflowSkipException, TaskAwaitingInput

from evergreen.pipelines import APPROVED, REJECTED
from evergreen.spec import ModelSpec
from evergreen_airflow.alerts.notifier import approval_callback
from evergreen_airflow.approval_page import page
from evergreen_airflow.approval_trigger import ApprovalTrigger
from evergreen_airflow.partition import resolve_window

if TYPE_CHECKING:
    from airflow.sdk import Context

_ACTIVE_WITH_APPROVAL = 4


class ApprovalQuestion(HITLOperator):
    """Asks a person, until a newer challenger makes the question obsolete; it is skipped then.

    It waits deferred, which Airflow's *Required actions* and its API take for a question like any other, because the
    state that Airflow 3.3 has for it, ``awaiting_input``, can be left by an answer or in the end only.

    Parameters
    ----------
    model
        Whose challenger it is about.
    response_timeout
        How long it waits.
    kwargs
        What a HITLOperator takes.
    """

    def __init__(self, *, model: str, response_timeout: timedelta, **kwargs: Any) -> None:
        super().__init__(response_timeout=response_timeout, **kwargs)
        self.model = model
        self.waits = response_timeout

    def execute(self, context: Context) -> None:
        """Ask, and wait in the triggerer."""
        told = context["ti"].xcom_pull
        self.body = page(told(task_ids="gate"), told(task_ids="register")["version"])
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
                ),
                method_name=parking.method_name,
                kwargs={"shown": hashlib.sha256(f"{self.subject}\n\n{self.body}".encode()).hexdigest()},
            )

    def execute_complete(self, context: Context, event: dict[str, Any], shown: str = "") -> Any:
        """Return the answer, with the digest of the question as it was asked; skip when none is needed any more."""
        if why := event.get("superseded"):
            raise AirflowSkipException(f"superseded: {why}")
        return {**super().execute_complete(context, event), "shown": shown}


def approval(spec: ModelSpec) -> list[ApprovalQuestion]:
    """Return the approval task of a model, or nothing when its ``model.yaml`` does not require one.

    The task holds no slot while it waits; silence is a rejection. Airflow's ApprovalOperator would skip the promotion
    after a rejection: here ``promote`` is told the answer, skips itself and records who gave it.
    """
    if not spec.approval.required:
        return []
    return [
        ApprovalQuestion(
            task_id="approve",
            model=spec.name,
            subject=f"Promote the challenger of {spec.name}?",
            options=[APPROVED, REJECTED],
            defaults=REJECTED,
            response_timeout=timedelta(hours=spec.approval.timeout_hours),
            **approval_callback(spec),
        )
    ]


def active_trainings(spec: ModelSpec) -> int:
    """Return how many runs of a model's training Airflow may have under way.

    One, unless a person is asked: then the one that waits and the one that trains, which supersedes it when its
    challenger is registered. The others are for questions that somebody asks again by clearing ``approve``, and for a
    triggerer that is down for a while. The pool decides how many train at once.
    """
    return _ACTIVE_WITH_APPROVAL if spec.approval.required else 1


def answer(spec: ModelSpec) -> dict[str, str]:
    """Return what tells ``promote`` which answer to which question was given by whom; nobody, when time ran out."""
    if not spec.approval.required:
        return {}
    response = "ti.xcom_pull(task_ids='approve')"
    return {
        "answer": f"{{{{ {response}['chosen_options'][0] }}}}",
        "answered_by": f"{{{{ ({response}['responded_by_user'] or {{}}).get('name', '') }}}}",
        "shown": f"{{{{ {response}.get('shown', '') }}}}",
    }
