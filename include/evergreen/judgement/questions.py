"""What people were asked about a challenger and what each has said: a document of every task that asks.

What an Airflow task returns (its XCom) may be written by whoever may start its DAG, so nothing that is signed comes
from there. In the artifact store only Airflow itself and the steps write.
"""

from __future__ import annotations

from datetime import datetime

from evergreen.contract import RunIdentity
from evergreen.pipelines import QUESTIONS
from evergreen.spec import ModelSpec
from evergreen.store import ArtifactStore, read_document
from evergreen.stored import Stored


class Answer(Stored):
    """What one question was about, and what came of it."""

    version: str = ""
    """The challenger's in the registry, as it was shown."""
    evaluation: str = ""
    """The digest of the evaluation that was shown, as manifests have it."""
    shown: str = ""
    """The digest of the question as it was shown."""
    chosen: str = ""
    """Empty while nobody has answered."""
    by: str = ""
    """Who chose it; nobody, when the time ran out."""
    by_id: str = ""
    at: datetime | None = None


def questions_of(spec: ModelSpec) -> tuple[str, ...]:
    """Return the tasks that ask about a model's challengers; none when it does not require an approval."""
    return QUESTIONS[: spec.approval.approvers] if spec.approval.required else ()


def write_answer(store: ArtifactStore, task: RunIdentity, answer: Answer) -> None:
    """Put an answer in the place of whatever a task has left before."""
    store.write(_key(task), answer.model_dump_json(indent=2).encode())


def read_answer(store: ArtifactStore, task: RunIdentity) -> Answer | None:
    """Return what a task that asks has left, or None.

    Raises
    ------
    ConfigurationError
        If what lies there is no answer.
    """
    return read_document(store, _key(task), Answer, "an answer", f"Clear {task.task_id}: it then asks again.")


def _key(task: RunIdentity) -> str:
    return f"{task.key}/answer.json"
