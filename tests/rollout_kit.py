"""Begins a rollout as ``promote`` does, of whatever versions are there."""

from __future__ import annotations

from datetime import date

from evergreen.catalog import load_model
from evergreen.contract import RunIdentity, utc_now
from evergreen.judgement.audit import append
from evergreen.judgement.events import Event, EventKind
from evergreen.judgement.notices import tell_rollout
from evergreen.judgement.rollouts import first_step
from evergreen.settings import get_settings
from evergreen.spec import Delivery
from evergreen.store import get_store
from evergreen_laptop.credentials import read_credentials
from evergreen_laptop.step_settings import signing_secrets


def signing() -> dict[str, str]:
    """Return the variable that lets this process sign as a step of the installation it is inside of."""
    settings = get_settings()
    return signing_secrets(settings, read_credentials(settings))


def begin_rollout(model: str, champion: str, challenger: str, **delivery: object) -> Event:
    """Begin a rollout; returns its first event."""
    spec = load_model(model)
    spec = spec.model_copy(update={"delivery": Delivery.model_validate(delivery)})
    return _append(EventKind.ROLLOUT_STARTED, model, champion, challenger, first_step(spec, challenger))


def end_rollout(begun: Event) -> None:
    """End it."""
    _append(EventKind.ROLLOUT_ENDED, begun.model, str(begun.previous), str(begun.version), begun.rollout)


def _append(kind: EventKind, model: str, champion: str, challenger: str, step: object) -> Event:
    at = utc_now()
    run = RunIdentity(dag_id=f"{model}.train", run_id=f"{kind}-{at:%H%M%S%f}", task_id="promote")
    about = {"kind": kind, "model": model, "at": at, "run": run, "partition": date(2013, 1, 27)}
    versions = {"version": challenger, "previous": champion, "training": run.run_id}
    event = Event.model_validate({**about, **versions, "rollout": step})
    tell_rollout(get_store(), model, under_way=True)
    written = append(get_store(), event)
    assert isinstance(written, Event)
    return written
