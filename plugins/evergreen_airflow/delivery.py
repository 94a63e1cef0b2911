"""What comes before a look at a rollout: whether there is one, found out without starting a pod."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from evergreen.judgement.notices import is_rollout_told
from evergreen.store import get_store

if TYPE_CHECKING:
    from airflow.sdk import Context

_CONFIRMED = frozenset({"finish", "roll_back"})


class RolloutUnderWay(BaseOperator):
    """Skips the check where no step has left word of a rollout, or another check is still at work.

    What a person decides goes through at once, whatever check is reading the log meanwhile.

    Parameters
    ----------
    model
        The model.
    kwargs
        What every operator takes.
    """

    def __init__(self, *, model: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.model = model

    def execute(self, context: Context) -> None:
        """Ask the artifact store, which is one request, and Airflow where there is a rollout.

        Raises
        ------
        AirflowSkipException
            If there is nothing to check.
        AirflowFailException
            If a decision lacks its reason, or the model's name as its confirmation.
        """
        params, ti = context["params"], context["ti"]
        action = params["action"]
        if action == "check":
            if not is_rollout_told(get_store(), self.model):
                raise AirflowSkipException(f"No rollout of {self.model} is under way.")
            if ti.get_dr_count(dag_id=ti.dag_id, states=["running"]) > 1:  # with this one
                raise AirflowSkipException(f"Another run of {ti.dag_id} is at work: the next check looks again.")
            return
        if not str(params["reason"] or "").strip():
            raise AirflowFailException(f"reason: {action} of {self.model} needs one. Trigger again, and say why.")
        if action in _CONFIRMED and params["confirm"] != self.model:
            raise AirflowFailException(f"confirm: {params['confirm']!r} is not {self.model}. Trigger again with it.")
