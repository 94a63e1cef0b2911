"""What the question to a person waits for. Importable by the triggerer, which knows no DAG file."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from datetime import date, datetime
from typing import Any

from airflow.providers.standard.triggers.hitl import HITLTrigger
from airflow.sdk.exceptions import AirflowRuntimeError
from airflow.sdk.execution_time.hitl import update_hitl_detail_response
from airflow.triggers.base import TriggerEvent

from evergreen.contract import RunIdentity, StepError
from evergreen.judgement.notices import withdrawal
from evergreen.judgement.questions import read_answer
from evergreen.pipelines import REJECTED, dag_id
from evergreen.store import ArtifactStore, get_store

_LOOK_SECONDS = 30.0
"""Time between two looks for a withdrawal, each a request to the artifact store."""


class ApprovalTrigger(HITLTrigger):
    """Waits for a person's answer, or for what makes the question obsolete: a newer challenger, another's rejection.

    Nobody else can withdraw the question: a step knows no Airflow, and Airflow lets a task answer only for itself.

    Parameters
    ----------
    model, training, partition
        Which challenger is asked about: its model, its run of ``<model>.train``, its partition as an ISO day.
    asked, others
        Since when an answer of the tasks counts that ask others the same, and these tasks of the run.
    version, evaluation
        The challenger's version, and the digest of its evaluation: an answer about another says nothing here.
    kwargs
        What a HITLTrigger takes: the question and until when it waits.
    """

    def __init__(
        self,
        *,
        model: str,
        training: str,
        partition: str,
        asked: datetime | None = None,
        others: Sequence[str] = (),
        version: str = "",
        evaluation: str = "",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.version = version
        self.evaluation = evaluation
        self.asked = asked
        self.others = list(others)
        self.model = model
        self.training = training
        self.partition = partition
        self._store: ArtifactStore | None = None
        self._next_look = 0.0
        self._trouble = ""

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the import path and arguments that rebuild this trigger in the triggerer."""
        _, arguments = super().serialize()
        arguments |= {"model": self.model, "training": self.training, "partition": self.partition}
        arguments |= {"asked": self.asked, "others": self.others}
        arguments |= {"version": self.version, "evaluation": self.evaluation}
        return f"{type(self).__module__}.{type(self).__qualname__}", arguments

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait a while before the first look.

        Airflow may take a task that resumes in the moment in which it has begun to wait for one that was lost, and
        try it again (as in apache/airflow#72716).
        """
        await asyncio.sleep(self.poke_interval)
        async for event in super().run():
            yield event

    async def _handle_response(self) -> TriggerEvent | None:
        """Look for an answer, as the provider's trigger does every few seconds, then whether one is still needed.

        The question is then answered with its default, by nobody, so that Airflow refuses an answer that comes late.
        Nothing that goes wrong here ends the wait: a trigger that fails would fail the task, and with it the question.
        """
        try:
            if event := await super()._handle_response():  # type: ignore[no-untyped-call]
                return TriggerEvent(event.payload)  # type: ignore[no-untyped-call]
            if time.monotonic() < self._next_look:
                return None
            why = await asyncio.to_thread(self._obsolete)
            self._next_look = time.monotonic() + _LOOK_SECONDS
            return await self._withdraw(why) if why else None
        except AirflowRuntimeError as error:  # its database is away, or somebody has answered this very moment
            self._warn(f"Airflow: {error}")
            return None

    async def _withdraw(self, why: dict[str, str]) -> TriggerEvent:
        answer = await asyncio.to_thread(
            update_hitl_detail_response, ti_id=self.ti_id, chosen_options=self.defaults or [], params_input={}
        )
        return TriggerEvent(  # type: ignore[no-untyped-call]
            {
                "chosen_options": self.defaults,
                "params_input": {},
                "responded_by_user": None,
                "responded_at": answer.responded_at,
                **why,
            }
        )

    def _obsolete(self) -> dict[str, str]:
        """Return why no answer is needed any more, or nothing.

        What cannot be read says nothing: the audit log and the answers decide, and ``promote`` reads both.
        """
        try:
            # one client for all looks: making one costs a tenth of a second of the processor that all triggers share
            store = self._store = self._store or get_store()
            event = withdrawal(store, self.model, self.training, date.fromisoformat(self.partition))
            rejected = "" if event else self._rejected(store)
        except StepError as error:
            self._warn(str(error))
            return {}
        self._trouble = ""
        if event:
            return {"superseded": event.why}
        return {"rejected": rejected} if rejected else {}

    def _rejected(self, store: ArtifactStore) -> str:
        """Return that another approver has said no to the same, or nothing; an answer before the asking is past."""
        for task in self.others:
            run = RunIdentity(dag_id=dag_id(self.model, "train"), run_id=self.training, task_id=task)
            other = read_answer(store, run)
            if other is None or (other.version, other.evaluation) != (self.version, self.evaluation):
                continue
            if other.chosen == REJECTED and self.asked and other.at and other.at >= self.asked:
                return f"{other.by or 'nobody'} answered {task} with {REJECTED}"
        return ""

    def _warn(self, trouble: str) -> None:
        """Log what is wrong, once as long as it lasts: this goes on for days."""
        if trouble != self._trouble:
            self.log.warning("%s Looking again and again.", trouble)
        self._trouble = trouble
