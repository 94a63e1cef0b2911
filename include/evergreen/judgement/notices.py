"""What the audit log has to say to those who do not read it: Airflow's side has neither its key nor its database.

The log decides; these are notices in the artifact store. Who forges one withdraws a question, which is what silence
brings about too, or raises an alarm.
"""

from __future__ import annotations

from datetime import date

from evergreen.contract import folder_name
from evergreen.judgement.events import Event
from evergreen.store import ArtifactStore, read_document
from evergreen.stored import Stored


def withdraw(store: ArtifactStore, superseded: Event) -> None:
    """Leave word that a challenger is superseded."""
    key = _key(superseded.model, superseded.training, superseded.partition)
    store.create(key, superseded.model_dump_json(indent=2).encode())


def withdrawal(store: ArtifactStore, model: str, training: str, partition: date) -> Event | None:
    """Return the event that made the question about a challenger obsolete, or None.

    Raises
    ------
    ConfigurationError
        If what lies there is none.
    """
    key = _key(model, training, partition)
    return read_document(store, key, Event, "an event", "Delete it: the question then waits for its answer.")


def tell_move(store: ArtifactStore, event: Event) -> None:
    """Leave word that the alias ``champion`` was moved otherwise than by a promotion."""
    store.create(f"notices/{event.model}/{event.number:06d}.json", event.model_dump_json(indent=2).encode())


class RolloutNotice(Stored):
    """Whether there may be a rollout under way: who reads it need not start a step to find that there is none."""

    under_way: bool


def tell_rollout(store: ArtifactStore, model: str, *, under_way: bool) -> None:
    """Leave word whether a rollout may be under way; whoever starts one says so before and after."""
    notice = RolloutNotice(under_way=under_way)
    store.write(_rollout_key(model), notice.model_dump_json(indent=2).encode())


def is_rollout_told(store: ArtifactStore, model: str) -> bool:
    """Tell whether a rollout of a model may be under way.

    Raises
    ------
    ConfigurationError
        If what lies there is no notice.
    """
    key = _rollout_key(model)
    hint = f"Delete it, then trigger {model}.deliver: its check writes it again."
    notice = read_document(store, key, RolloutNotice, "a notice", hint)
    return notice is not None and notice.under_way


def _rollout_key(model: str) -> str:
    return f"serving/{model}/rollout.json"


def moves(store: ArtifactStore, model: str) -> list[Event]:
    """Return the rollbacks of a model and the moves of its alias that no step has made, oldest first.

    Raises
    ------
    ConfigurationError
        If what lies there is none.
    """
    keys = sorted(store.keys(f"notices/{model}/"))
    told = (read_document(store, key, Event, "an event", "Delete it: it only tells of one.") for key in keys)
    return [event for event in told if event is not None]


def _key(model: str, training: str, partition: date) -> str:
    return f"withdrawn/{model}/{partition}/{folder_name(training)}.json"
