"""Whether a challenger that answers beside the champion is worse than it, for certain.

Rows of one entity depend on each other, so an entity counts once: with its first row of a block of time. The blocks
are the steps of the rollout, its days and its hours, each cut where a step ends: within a block both variants answer
under the same conditions and shares, and a challenger that breaks later is found in a later block. Every block has
its own part of the chance of a false alarm, whatever the blocks have to do with each other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
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
from evergreen.spec import ModelSpec

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

CHAMPION, CHALLENGER = "champion", "challenger"
_VARIANTS = (CHAMPION, CHALLENGER)
VARIANT, ENTITY, AT, STATUS, LATENCY, OUTCOME = "variant", "entity", "at", "status", "latency_ms", "outcome"
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
        What was answered, a row each: variant, entity, at, status, latency_ms, outcome (null if it is not known), and
        the model's outputs.
    starts
        When each step of the rollout began; rows from before the first one do not count.
    """
    guardrails = spec.delivery.guardrails
    alpha = guardrails.alpha / len(guardrails.active)
    blocks = list(_blocks(rows, starts))
    found = []
    for name, limit in guardrails.active.items():
        if name == "metric_drop":
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
        rows = rows[rows[STATUS] == "ok"]
        hits = rows[LATENCY] > float(spec.delivery.guardrails.latency_ms or 0)
    else:
        hits = rows[STATUS] == name.removesuffix("_rate")
    counts = {variant: (int(hits[rows[VARIANT] == variant].sum()), len(_of(rows, variant))) for variant in _VARIANTS}
    shares = {variant: hit / count if count else None for variant, (hit, count) in counts.items()}
    low = bounds_of_rate(*counts[CHALLENGER], chance)[0] - bounds_of_rate(*counts[CHAMPION], chance)[1]
    mine, other = shares[CHALLENGER], shares[CHAMPION]
    return Guarded(
        guardrail=name,
        champion=other,
        challenger=mine,
        difference=mine - other if mine is not None and other is not None else None,
        low=low,
        limit=limit,
        champion_rows=counts[CHAMPION][1],
        challenger_rows=counts[CHALLENGER][1],
        broken=low > limit,
    )


def outputs_of(rows: pd.DataFrame) -> list[str]:
    """Return the names of the model's outputs in rows that are judged."""
    return [name for name in rows.columns if name not in {VARIANT, ENTITY, AT, STATUS, LATENCY, OUTCOME, "block"}]


def _shift(name: str, limit: float, block: _Block, alpha: float) -> Guarded:
    answered = block.rows[block.rows[STATUS] == "ok"]
    outputs, parts = outputs_of(answered), [_of(answered, variant) for variant in _VARIANTS]
    rows = {"champion_rows": len(parts[0]), "challenger_rows": len(parts[1])}
    if not outputs or not all(len(part) for part in parts):
        return Guarded(guardrail=name, limit=limit, **rows)
    apart = max(distance(*(part[output].to_numpy(dtype=float) for part in parts)) for output in outputs)
    chance = alpha * block.chance / 2 / len(outputs)
    low = apart - sum(width_of_distribution(len(part), chance) for part in parts)
    return Guarded(guardrail=name, difference=apart, low=low, limit=limit, broken=low > limit, **rows)


def _largest(name: str, limit: float, found: Sequence[Guarded]) -> Guarded:
    """Return what the block says in which the challenger is worst for certain."""
    measured = [one for one in found if one.low is not None]
    return max(measured, key=lambda one: one.low or 0.0, default=Guarded(guardrail=name, limit=limit))


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
    return _largest("metric_drop", limit, found)


def _drop(spec: ModelSpec, rows: pd.DataFrame, limit: float, chance: float) -> Guarded:
    import numpy as np

    parts = [_of(rows, variant) for variant in _VARIANTS]
    counted = {"champion_rows": len(parts[0]), "challenger_rows": len(parts[1])}
    nothing = Guarded(guardrail="metric_drop", limit=limit, **counted)
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
        guardrail="metric_drop",
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

    frame = rows[outputs_of(rows)].reset_index(drop=True)
    model: Scored = scored(spec.task, rows[OUTCOME].reset_index(drop=True), [frame])[0]
    weights = np.vstack([np.ones(len(rows)), groups[None, :] != np.arange(_GROUPS)[:, None]]).astype(float)
    return model.metric(spec.gate.metric, weights)
