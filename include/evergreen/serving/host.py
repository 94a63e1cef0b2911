"""The models of one server."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from evergreen.serving.answers import Served


@dataclass
class Host:
    """What a server answers for.

    Parameters
    ----------
    models
        By name.
    draining
        Whether it was told to stop: it answers what comes, and is not ready for more.
    """

    models: Mapping[str, Served]
    draining: bool = False

    @property
    def ready(self) -> bool:
        """Whether it can answer for a model at least; the others have a readiness of their own."""
        return not self.draining and any(model.ready for model in self.models.values())
