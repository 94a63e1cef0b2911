"""What the variants of a rollout answered, and what became of it, as it is judged."""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING, NamedTuple

from evergreen.contract import Window
from evergreen.data.served import labels_of, told_of
from evergreen.data.transform import EVENT_TIMESTAMP
from evergreen.judgement.guardrails import AT, ENTITY, GRAPH_MS, METRIC_DROP, OUTCOME, STATUS, VARIANT
from evergreen.judgement.rollouts import Rollout
from evergreen.serving.log_files import OUTPUT, REQUEST, keys_by_day, log_keys, read_log
from evergreen.spec import ModelSpec
from evergreen.store import ArtifactStore

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa


class Observed(NamedTuple):
    """What there is to judge."""

    rows: pd.DataFrame
    """As `evergreen.judgement.guardrails.judge` takes them."""
    unreadable: int
    """Files that could not be read."""


def answers_of(store: ArtifactStore, spec: ModelSpec, rollout: Rollout) -> Observed:
    """Return every row of a rollout that a variant's graph was asked for.

    What was refused is left out: that does not depend on the variant. Outcomes are looked up only where the
    guardrail ``metric_drop`` asks for them.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    with_outcomes = METRIC_DROP in spec.delivery.guardrails.active
    days = keys_by_day(log_keys(store, spec.name, rollout.experiment))
    found = read_log(store, [key for keys in days.values() for key in keys], _columns(spec, rollout, with_outcomes))
    asked = pc.and_(
        pc.is_in(found.table["variant"], pa.array(["champion", "challenger"])),
        pc.is_in(found.table["status"], pa.array(["ok", "error"])),
    )
    log = found.table.filter(asked).to_pandas()
    outcomes, unreadable = _outcomes(store, spec, log, sorted(days)) if with_outcomes and len(log) else (None, 0)
    by = [f"{REQUEST}{column}" for column in rollout.split_by]
    outputs = [name for name in log.columns if name.startswith(OUTPUT)]
    rows = log[["variant", "status", GRAPH_MS]].rename(columns={"variant": VARIANT, "status": STATUS})
    rows = rows.assign(**{ENTITY: log.groupby(by, dropna=False).ngroup(), AT: log["served_at"], OUTCOME: outcomes})
    named = log[outputs].rename(columns=lambda name: name.removeprefix(OUTPUT))
    return Observed(rows.join(named), found.unreadable + unreadable)


def _columns(spec: ModelSpec, rollout: Rollout, with_outcomes: bool) -> dict[str, pa.DataType]:
    """Return what is read of the log beside the outputs, with its types."""
    import pyarrow as pa

    moment = pa.timestamp("us", tz="UTC")
    columns = {"variant": pa.string(), "status": pa.string(), "served_at": moment, GRAPH_MS: pa.float64()}
    keys = (*rollout.split_by, *(spec.features.keys if with_outcomes else ()))
    columns |= {f"{REQUEST}{name}": pa.string() for name in keys}
    return columns | ({"prediction_id": pa.string(), EVENT_TIMESTAMP: moment} if with_outcomes else {})


def _outcomes(store: ArtifactStore, spec: ModelSpec, log: pd.DataFrame, days: list[str]) -> tuple[pd.Series, int]:
    """Return what became of each answer: feedback as servers have left it, else the label in the lake."""
    import pyarrow as pa

    moment = pa.timestamp("us", tz="UTC")
    keys = keys_by_day(store.keys(f"feedback/{spec.name}/"))  # feedback lies at the day of the event, as its answer
    files = [key for day in days for key in keys.get(day, [])]
    feedback = read_log(store, files, {"prediction_id": pa.string(), "outcome": pa.string(), "at": moment})
    told, _ = told_of(spec, log["prediction_id"], feedback.table.to_pandas())
    window = Window(start=date.fromisoformat(days[0]), end=date.fromisoformat(days[-1]))
    labels, _ = labels_of(spec, window, log)
    return told.where(told.notna(), labels), feedback.unreadable
