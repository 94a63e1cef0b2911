"""Keeps what a server answers with at what is decided: the champion is where its alias is, a rollout in the audit log.

All of it happens in one thread beside the requests. What cannot be loaded is never put in place of what serves: a
registry that is away, a version that is not what was signed, one without a graph. Only an alias that was taken away
ends a model's answers. A challenger that cannot be loaded answers nothing; the champion does.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

from evergreen.contract import DataError, described
from evergreen.judgement.audit import AuditLog
from evergreen.judgement.rollouts import Rollout, rollout_of
from evergreen.serving.deployment import Deployment, Variant
from evergreen.serving.engine import Engine
from evergreen.serving.metrics import FOLLOWING_FAILED
from evergreen.store import get_store
from evergreen.training.graph import Graph
from evergreen.training.loading import FILES
from evergreen.training.registry import CHAMPION, alias_number, by_number
from evergreen.training.signatures import stated_of_version, verified_files
from evergreen.trust.audit_log import newest_number

log = logging.getLogger(__name__)

NO_CHAMPION = "it has no champion yet"


def load_variant(model: str, number: str) -> Variant:
    """Return a registered version, verified by its signature, ready to answer.

    Raises
    ------
    UntrustedError
        If anything about it is not what was signed.
    DataError
        If there is no graph among its files.
    """
    version = by_number(model, number)
    with verified_files(stated_of_version(version), version.uri) as folder:
        graph = Graph.load(folder / FILES)
    graph.run({name: [None] for name in (*graph.numeric, *graph.categorical)})  # the first run is slow, and may fail
    return Variant(version=number, graph=graph)


def refuse_unfit(model: str, variant: Variant, supplied: Collection[str]) -> None:
    """Refuse a version whose graph asks for a column that its server has not.

    Raises
    ------
    DataError
        If there is such a column; the error names it.
    """
    graph = variant.graph
    if lacking := [name for name in (*graph.numeric, *graph.categorical) if name not in supplied]:
        raise DataError(
            f"version {variant.version} of {model} asks for {', '.join(lacking)}, and this server has no such column: "
            f"it has {', '.join(sorted(supplied))}.",
            "Start the server again with the model.yaml that the version was trained with, or roll the version back.",
        )


@dataclass
class _Followed:
    """One model, as this thread last saw it."""

    engine: Engine
    deployment: Deployment | None = None
    problem: str = NO_CHAMPION
    variants: dict[str, Variant] = field(default_factory=dict)
    rollout: Rollout | None = None
    read_up_to: int = -1
    """The number of the newest record of the audit log when the rollout was read."""


class Follower:
    """Follows the alias ``champion`` of each model.

    Parameters
    ----------
    engines
        By model, what answers.
    seconds
        Between two looks.
    """

    def __init__(self, engines: Mapping[str, Engine], seconds: float) -> None:
        self._store = get_store()
        self._followed = {name: _Followed(engine) for name, engine in engines.items()}
        self._seconds = seconds
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="follower", daemon=True)

    def start(self) -> None:
        """Go on looking, until told to stop."""
        self._thread.start()

    def stop(self) -> None:
        """Stop looking; what serves goes on serving."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(self._seconds)

    def look(self) -> dict[str, str]:
        """Look once; returns why a model is not at what the registry says, by name: empty if all are."""
        for name, followed in self._followed.items():
            problem = self._settle(name, followed)
            if problem and problem != followed.problem:
                log.warning("%s: %s", name, problem)
            followed.problem = problem
            FOLLOWING_FAILED.labels(name).set(bool(problem))
        return {name: followed.problem for name, followed in self._followed.items() if followed.problem}

    def _follow(self) -> None:
        while not self._stop.wait(self._seconds):
            self.look()

    def _settle(self, name: str, followed: _Followed) -> str:
        """Bring one model to what the registry says; returns why that cannot be done now, or nothing."""
        now, problem = followed.deployment, ""
        try:
            number = alias_number(name, CHAMPION)
            wanted = Deployment(_variant(name, followed, number)) if number else None
        except Exception as error:  # of the registry's client, or of the graph's: what serves goes on
            serving = f"version {now.champion.version} serves on" if now else "nothing serves"
            return f"{serving}: {described(error)}"
        if wanted is not None:
            try:
                wanted = self._split(name, followed, wanted)
            except Exception as error:  # a rollout stays where it is, as long as its champion is the same
                problem = f"its rollout is not followed: {described(error)}"
                wanted = now if now and now.champion == wanted.champion else wanted
        if wanted != followed.deployment:
            followed.engine.use(wanted)
            log.info("%s: serves %s", name, wanted.summary if wanted else "nothing: its alias was taken away")
            followed.deployment = wanted
            kept = {variant.version for variant in (wanted.variants if wanted else ())}
            followed.variants = {version: one for version, one in followed.variants.items() if version in kept}
        return problem if wanted else NO_CHAMPION

    def _split(self, name: str, followed: _Followed, alone: Deployment) -> Deployment:
        """Return the deployment of the rollout that is under way, or of the champion alone."""
        if (newest := newest_number(name)) != followed.read_up_to:
            followed.rollout = rollout_of(AuditLog(self._store, name).read())
            followed.read_up_to = newest
        rollout = followed.rollout
        # of another champion than it was begun with, no comparison would be right
        if rollout is None or rollout.champion != alone.champion.version:
            return alone
        return replace(
            alone,
            challenger=_variant(name, followed, rollout.challenger),
            share=rollout.share,
            shadow=rollout.shadow,
            experiment=rollout.experiment,
            salt=rollout.salt,
            split_by=rollout.split_by,
        )


def _variant(name: str, followed: _Followed, number: str) -> Variant:
    if number not in followed.variants:
        variant = load_variant(name, number)
        refuse_unfit(name, variant, followed.engine.supplied)
        followed.variants[number] = variant
    return followed.variants[number]
