"""Questions that need no answer any more, told to whoever waits for one: Airflow does not read the audit log.

The log decides; this is a notice. Who forges one brings about a rejection, which is what silence brings about too.
"""

from __future__ import annotations

from datetime import date

from evergreen.contract import folder_name
from evergreen.judgement.events import Event
from evergreen.store import ArtifactStore, read_document


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


def _key(model: str, training: str, partition: date) -> str:
    return f"withdrawn/{model}/{partition}/{folder_name(training)}.json"
