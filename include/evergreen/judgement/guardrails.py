"""Whether a challenger that answers beside the champion is worse than it, for certain.

Rows of one entity depend on each other, so an entity counts once: with its first row of a block of time. The blocks
are the steps of the rollout, its days and its hours, each cut where a step ends: within a block both variants answer
under the same conditions and shares, and a challenger that breaks later is found in a later block. Every block has
its own part of the chance of a false alarm, whatever the blocks have to do with each other.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from functools import lru_cache, partial
from typing import TYPE_CHECKING, NamedTuple

from evergreen.judgement.events import Guarded
from evergreen.judgement.metrics import Scored, scored
from evergreen.judgement.sequential import (
    bounds_of_rate,
    chance_of_block,
    distance,
    width_of_distribution,
    width_of_mean,
)
from evergreen.spec import Guardrails, ModelSpec

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

CHAMPION, CHALLENGER = "champion", "challenger"
METRIC_DROP = "metric_drop"
_VARIANTS = (CHAMPION, CHALLENGER)
VARIANT, ENTITY, AT, STATUS, GRAPH_MS, OUTCOME = "variant", "entity", "at", "status", "graph_ms", "outcome"
"""The columns of the rows that are judged; the others are the outputs."""
_SCALES = ("step", "day", "hour")
_SECONDS = {"day": 86_400, "hour": 3_600}
_GROUPS = 100
"""So many groups of entities are left out in turn for a standard error."""


class _Block(NamedTuple):
    """The first row of every entity in a part of a rollout."""

    rows: pd.DataFrame
    chance: float
    """Its part of a guardrail's chance."""


def judge(spec: ModelSpec, rows: pd.DataFrame, starts: Sequence[datetime]) -> tuple[Guarded, ...]:
    """Return what each guardrail that is on finds.

    Parameters
    ----------
    spec
        The model.
    rows
        What was asked of a graph, a row each: variant, entity, at, status (``ok`` or ``error``), graph_ms and outcome
        (null if they are not known), and the model's outputs.
    starts
        When each step of the rollout began; rows from before the first one do not count.
    """
    guardrails = spec.delivery.guardrails
    alpha = guardrails.alpha / len(guardrails.active)
    blocks = list(_blocks(rows, starts))
    found = []
    for name, limit in guardrails.active.items():
        if name == METRIC_DROP:
            found.append(_metric_drop(spec, rows, starts, limit, alpha))
        elif name == "prediction_shift":
            found.append(_largest(name, limit, [_shift(name, limit, block, alpha) for block in blocks]))
        else:
            found.append(_largest(name, limit, [_rate(name, limit, block, alpha, spec) for block in blocks]))
    return tuple(found)


def _blocks(rows: pd.DataFrame, starts: Sequence[datetime]) -> Iterator[_Block]:
    """Yield every block that has rows of both variants."""
    import numpy as np
    import pandas as pd

    begun, moments = (pd.DatetimeIndex(times).as_unit("ns") for times in (starts, rows[AT]))  # files have microseconds
    step = np.searchsorted(begun.asi8, moments.asi8, side="right") - 1
    passed = (moments - pd.Timestamp(starts[0])).total_seconds().to_numpy()
    for scale in _SCALES:
        # steps and hours both only grow, so their sum tells a block from every other of its scale
        number = step + (passed // _SECONDS[scale]).astype(int) if scale in _SECONDS else step
        ordered = rows.assign(block=number)[step >= 0].sort_values(AT, kind="stable")
        first = ordered.drop_duplicates(["block", VARIANT, ENTITY])
        for block, part in first.groupby("block"):
            if part[VARIANT].nunique() == 2:
                yield _Block(part, chance_of_block(int(str(block))) / len(_SCALES))


def _of(rows: pd.DataFrame, variant: str) -> pd.DataFrame:
    return rows[rows[VARIANT] == variant]


def _rate(name: str, limit: float, block: _Block, alpha: float, spec: ModelSpec) -> Guarded:
    rows, chance = block.rows, alpha * block.chance / 2
    if name == "slow_rate":
        rows = rows[(rows[STATUS] == "ok") & rows[GRAPH_MS].notna()]
        hits = (rows[GRAPH_MS] > float(spec.delivery.guardrails.graph_ms or 0)).to_numpy()
    else:
        hits = (rows[STATUS] == "error").to_numpy()
    of = {variant: (rows[VARIANT] == variant).to_numpy() for variant in _VARIANTS}
    counts = {variant: (int(hits[own].sum()), int(own.sum())) for variant, own in of.items()}
    counted = {"champion_rows": counts[CHAMPION][1], "challenger_rows": counts[CHALLENGER][1]}
    if not _can_break(name, limit, chance, min(counted.values())):
        return Guarded(guardrail=name, limit=limit, **counted)
    low = bounds_of_rate(*counts[CHALLENGER], chance)[0] - bounds_of_rate(*counts[CHAMPION], chance)[1]
    mine, other = (hit / count for hit, count in (counts[CHALLENGER], counts[CHAMPION]))
    return Guarded(
        guardrail=name,
        champion=other,
        challenger=mine,
        difference=mine - other,
        low=low,
        limit=limit,
        broken=low > limit,
        **counted,
    )


def _can_break(name: str, limit: float, chance: float, entities: int) -> bool:
    """Tell whether the worst challenger there can be would break a guardrail with so many entities of each variant."""
    if not entities:
        return False
    if name == "prediction_shift":
        return 1 - 2 * width_of_distribution(entities, chance) > limit
    return bounds_of_rate(entities, entities, chance)[0] - bounds_of_rate(0, entities, chance)[1] > limit


@lru_cache
def entities_needed(guardrails: Guardrails, step: int, outputs: int) -> Mapping[str, int]:
    """Return how many entities of each variant a step needs before a guardrail could break in it at all.

    Parameters
    ----------
    guardrails
        The limits. ``metric_drop`` is left out: it needs outcomes.
    step
        From 0: a later one has a smaller part of the chance of a false alarm.
    outputs
        How many values the model answers with.
    """
    chance = guardrails.alpha / len(guardrails.active) * chance_of_block(step) / len(_SCALES) / 2
    needed = {}
    for name, limit in guardrails.active.items():
        if name == METRIC_DROP:
            continue
        own = chance / max(outputs, 1) if name == "prediction_shift" else chance
        breaks, enough = partial(_can_break, name, limit, own), 1
        while not breaks(enough):
            enough *= 2
        needed[name] = bisect_left(range(1, enough + 1), True, key=breaks) + 1
    return needed


def outputs_of(rows: pd.DataFrame) -> list[str]:
    """Return the names of the model's outputs in rows that are judged."""
    return [name for name in rows.columns if name not in {VARIANT, ENTITY, AT, STATUS, GRAPH_MS, OUTCOME, "block"}]


def _shift(name: str, limit: float, block: _Block, alpha: float) -> Guarded:
    answered = block.rows[block.rows[STATUS] == "ok"]
    parts = [_of(answered, variant) for variant in _VARIANTS]
    # of a class that only one of them knows there is nothing to compare: what it takes, the others lack
    outputs = [output for output in outputs_of(answered) if all(part[output].notna().any() for part in parts)]
    rows = {"champion_rows": len(parts[0]), "challenger_rows": len(parts[1])}
    if not outputs:
        return Guarded(guardrail=name, limit=limit, **rows)
    chance = alpha * block.chance / 2 / len(outputs)
    if not _can_break(name, limit, chance, min(rows.values())):
        return Guarded(guardrail=name, limit=limit, **rows)
    apart = max(distance(*(part[output].to_numpy(dtype=float) for part in parts)) for output in outputs)
    low = apart - sum(width_of_distribution(len(part), chance) for part in parts)
    return Guarded(guardrail=name, difference=apart, low=low, limit=limit, broken=low > limit, **rows)


def _largest(name: str, limit: float, found: Sequence[Guarded]) -> Guarded:
    """Return what the block says in which the challenger is worst for certain."""
    measured = [one for one in found if one.low is not None]
    nothing = found[0] if found else Guarded(guardrail=name, limit=limit)
    return max(measured, key=lambda one: one.low or 0.0, default=nothing)


def _metric_drop(
    spec: ModelSpec, rows: pd.DataFrame, starts: Sequence[datetime], limit: float, alpha: float
) -> Guarded:
    """Return how much the deciding metric has dropped, in the step where that is the surest."""
    import pandas as pd

    known = rows[(rows[STATUS] == "ok") & rows[OUTCOME].notna()]
    found = []
    for number, start in enumerate(starts):
        end = starts[number + 1] if number + 1 < len(starts) else None
        inside = known[(known[AT] >= pd.Timestamp(start)) & ((known[AT] < pd.Timestamp(end)) if end else True)]
        found.append(_drop(spec, inside, limit, alpha * chance_of_block(number)))
    return _largest(METRIC_DROP, limit, found)


def _drop(spec: ModelSpec, rows: pd.DataFrame, limit: float, chance: float) -> Guarded:
    import numpy as np

    parts = [_of(rows, variant) for variant in _VARIANTS]
    counted = {"champion_rows": len(parts[0]), "challenger_rows": len(parts[1])}
    nothing = Guarded(guardrail=METRIC_DROP, limit=limit, **counted)
    entities = min(part[ENTITY].nunique() for part in parts)
    if entities < 2:
        return nothing
    codes = dict(zip(rows[ENTITY].unique(), np.arange(rows[ENTITY].nunique()) % _GROUPS, strict=True))
    figures = [_left_out(spec, part, part[ENTITY].map(codes).to_numpy()) for part in parts]
    worse = spec.gate.direction.sign * (figures[0] - figures[1])
    if not np.isfinite(worse).all():
        return nothing
    others = worse[1:]
    error = float(np.sqrt((len(others) - 1) / len(others) * np.square(others - others.mean()).sum()))
    low = float(worse[0]) - width_of_mean(error, entities, chance)
    return Guarded(
        guardrail=METRIC_DROP,
        champion=float(figures[0][0]),
        challenger=float(figures[1][0]),
        difference=float(worse[0]),
        low=low if np.isfinite(low) else None,
        limit=limit,
        broken=low > limit,
        **counted,
    )


def _left_out(spec: ModelSpec, rows: pd.DataFrame, groups: np.ndarray) -> np.ndarray:
    """Return the deciding metric of all rows, then with each group of entities left out (a jackknife)."""
    import numpy as np

    frame = rows[outputs_of(rows)].fillna(0.0).reset_index(drop=True)  # a class that it does not know
    model: Scored = scored(spec.task, rows[OUTCOME].reset_index(drop=True), [frame])[0]
    weights = np.vstack([np.ones(len(rows)), groups[None, :] != np.arange(_GROUPS)[:, None]]).astype(float)
    return model.metric(spec.gate.metric, weights)
