"""The person between a registered challenger and its promotion, for the models that ask for one."""

from __future__ import annotations

from datetime import timedelta

from airflow.providers.standard.operators.hitl import HITLOperator

from evergreen.pipelines import APPROVED, REJECTED
from evergreen.spec import ModelSpec

_WAITING = 16
_BODY = """\
{{ ti.xcom_pull(task_ids='gate')['why'] }}

{% for name, value in ti.xcom_pull(task_ids='evaluate') | dictsort if value not in (none, '') and name != 'status' -%}
- {{ name }}: {{ '%.4f' % value if value is float else value }}
{% endfor %}
Version {{ ti.xcom_pull(task_ids='register')['version'] }} in the registry.
"""


def approval(spec: ModelSpec) -> list[HITLOperator]:
    """Return the approval task of a model, or nothing when its ``model.yaml`` does not require one.

    The task parks in ``awaiting_input`` and holds no slot; silence is a rejection. Airflow's ApprovalOperator would
    skip the promotion after a rejection: here ``promote`` is told the answer, skips itself and records who gave it.
    """
    if not spec.approval.required:
        return []
    return [
        HITLOperator(
            task_id="approve",
            subject=f"Promote the challenger of {spec.name}?",
            body=_BODY,
            options=[APPROVED, REJECTED],
            defaults=REJECTED,
            response_timeout=timedelta(hours=spec.approval.timeout_hours),
        )
    ]


def active_trainings(spec: ModelSpec) -> int:
    """Return how many runs of a model's training Airflow may have under way.

    One, unless a person is asked: then a run that waits must not hold up the next, which supersedes it. The pool
    still decides how many train at once.
    """
    return _WAITING if spec.approval.required else 1


def answer(spec: ModelSpec) -> dict[str, str]:
    """Return the parameters that tell ``promote`` what was answered and by whom; nobody, when time ran out."""
    if not spec.approval.required:
        return {}
    given = "ti.xcom_pull(task_ids='approve')"
    return {
        "answer": f"{{{{ {given}['chosen_options'][0] }}}}",
        "answered_by": f"{{{{ ({given}['responded_by_user'] or {{}}).get('name', '') }}}}",
    }
