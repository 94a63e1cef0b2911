"""What answers for a model at one time: its champion and, during a rollout, its challenger."""

from __future__ import annotations

from dataclasses import dataclass

from evergreen.serving.answers import VariantName
from evergreen.serving.log_files import NO_EXPERIMENT
from evergreen.training.graph import Graph


@dataclass(frozen=True)
class Variant:
    """A registered version, verified and loaded."""

    version: str
    graph: Graph


@dataclass(frozen=True)
class Deployment:
    """A champion, and who else answers.

    Parameters
    ----------
    champion
        It answers whatever the challenger does not.
    challenger
        None outside a rollout.
    share
        Of the entities that the challenger answers for.
    shadow
        Whether the challenger answers every row after the champion has, for the log alone.
    experiment
        The id of the rollout.
    salt
        Of the split.
    split_by
        The columns of a request that the split goes by; empty: the model's entity keys.
    """

    champion: Variant
    challenger: Variant | None = None
    share: float = 0.0
    shadow: bool = False
    experiment: str = NO_EXPERIMENT
    salt: str = ""
    split_by: tuple[str, ...] = ()

    @property
    def variants(self) -> tuple[Variant, ...]:
        """The champion, then the challenger if there is one."""
        return (self.champion, self.challenger) if self.challenger else (self.champion,)

    @property
    def by_name(self) -> dict[VariantName, Variant]:
        """The champion, then the challenger if there is one, by name."""
        names: tuple[VariantName, ...] = ("champion", "challenger")
        return dict(zip(names, self.variants, strict=False))

    @property
    def answering(self) -> tuple[Variant, ...]:
        """Those that clients get answers of: a challenger in the shadow answers nobody."""
        return self.variants if self.is_split else (self.champion,)

    def name_of(self, version: str) -> VariantName | None:
        """Return which of those that answer a version is, None if it is none of them."""
        known = {one.version: name for name, one in self.by_name.items() if one in self.answering}
        return known.get(version)

    @property
    def summary(self) -> str:
        """What answers, in words."""
        alone = f"version {self.champion.version}"
        if self.challenger is None:
            return alone
        seen = "in its shadow" if self.shadow else f"to {self.share:.0%}"
        return f"{alone}, and version {self.challenger.version} {seen}"

    @property
    def is_split(self) -> bool:
        """Whether the challenger answers some of the rows."""
        return self.challenger is not None and not self.shadow and self.share > 0
