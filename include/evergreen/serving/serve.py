"""Puts a server's models together: each with its engine, features and log, and one follower for all."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from evergreen.catalog import load_model, survey
from evergreen.contract import ConfigurationError
from evergreen.serving.engine import Engine
from evergreen.serving.following import Follower
from evergreen.serving.host import Host
from evergreen.serving.online_features import OnlineFeatures
from evergreen.serving.prediction_log import PredictionLog
from evergreen.settings import get_settings
from evergreen.spec import ModelSpec

log = logging.getLogger(__name__)


@contextmanager
def build_host(models: Sequence[str] = (), *, wait: bool = False) -> Iterator[Host]:
    """Yield the models that a server answers for, which follow the registry until it ends.

    Parameters
    ----------
    models
        Their names; none are all that model.yaml does not take out.
    wait
        Whether to go on without any verified model: the server is not ready until there is one.

    Raises
    ------
    ConfigurationError
        If there is no such model, or no verified version of any, and not ``wait``.
    """
    specs = _specs(models)
    with ExitStack() as stack:
        engines = dict(_engines(specs, stack, needed=bool(models)))
        follower = Follower(engines, get_settings().serving_follow_seconds)
        problems = follower.look()
        if not wait and not any(engine.ready for engine in engines.values()):
            raise ConfigurationError(
                f"no model can be served: {'; '.join(f'{name}: {why}' for name, why in problems.items())}",
                "Train one, or start with --wait: the server is not ready until there is a verified champion.",
            )
        follower.start()
        stack.callback(follower.stop)
        yield Host(engines)


def _specs(models: Sequence[str]) -> list[ModelSpec]:
    """Return the models that are named, or all that are to be served."""
    if not models:
        found = survey()
        for name, problem in found.problems.items():
            log.error("%s is not served: %s", name, problem)
        specs = [spec for spec in found.models if spec.serving.enabled]
        if not specs:
            raise ConfigurationError("no model is to be served.", "Each has serving.enabled: false in its model.yaml.")
        return specs
    specs = [load_model(name) for name in models]
    for spec in specs:
        if not spec.serving.enabled:
            raise ConfigurationError(f"{spec.name}: serving.enabled is false.", "Set it to true in its model.yaml.")
    return specs


def _engines(specs: Sequence[ModelSpec], stack: ExitStack, *, needed: bool) -> Iterator[tuple[str, Engine]]:
    """Yield the engine of each model; of one that is wrong, and was not asked for by name, only the log hears."""
    for spec in specs:
        try:
            features = OnlineFeatures(spec)
            written = stack.enter_context(PredictionLog.of(spec, features, len(specs))) if spec.serving.log else None
        except ConfigurationError as error:
            if needed:
                raise
            log.error("%s is not served: %s", spec.name, error)  # a traceback tells a person nothing
            continue
        engine = Engine(spec, features, written)
        stack.callback(engine.close)  # before its log, which has then everything
        yield spec.name, engine
