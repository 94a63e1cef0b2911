"""The person between a registered challenger and its promotion, for the models that ask for one."""

from __future__ import annotations

from datetime import timedelta

from airflow.providers.standard.operators.hitl import ApprovalOperator

from evergreen.spec import ModelSpec


def approval(spec: ModelSpec) -> list[ApprovalOperator]:
    """Return the approval task of a model, or nothing when its ``model.yaml`` does not require one.

    The task parks in ``awaiting_input`` and holds no slot; silence is a rejection, and a rejection skips
    the promotion.
    """
    if not spec.approval.required:
        return []
    return [
        ApprovalOperator(
            task_id="approve",
            subject=f"Promote the challenger of {spec.name}?",
            body="{{ ti.xcom_pull(task_ids='gate')['why'] }}\n\n"
            "Evaluation: `{{ ti.xcom_pull(task_ids='evaluate') }}`\n\n"
            "Registered: `{{ ti.xcom_pull(task_ids='register') }}`",
            defaults=ApprovalOperator.REJECT,
            response_timeout=timedelta(hours=spec.approval.timeout_hours),
        )
    ]


def approver(spec: ModelSpec) -> dict[str, str]:
    """Return the parameter that tells ``promote`` who approved, for the decision's record."""
    if not spec.approval.required:
        return {}
    return {"approved_by": "{{ ti.xcom_pull(task_ids='approve')['responded_by_user']['name'] }}"}
