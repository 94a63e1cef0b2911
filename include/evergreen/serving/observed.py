"""What the variants of a rollout answered, and what became of it, as it is judged."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING

from evergreen.judgement.guardrails import AT, ENTITY, LATENCY, OUTCOME, STATUS, VARIANT
from evergreen.judgement.rollouts import Rollout
from evergreen.serving.log_files import OUTPUT, REQUEST, log_keys, read_log
from evergreen.spec import ModelSpec, Task
from evergreen.store import ArtifactStore

if TYPE_CHECKING:
    import pandas as pd


def answers_of(store: ArtifactStore, spec: ModelSpec, rollout: Rollout) -> pd.DataFrame:
    """Return every row of a rollout that a variant was asked for, with its outcome where there is feedback."""
    import pandas as pd

    log = read_log(store, list(log_keys(store, spec.name, rollout.experiment))).to_pandas()
    if log.empty:
        return pd.DataFrame(columns=[VARIANT, ENTITY, AT, STATUS, LATENCY, OUTCOME])
    log = log[log["variant"].isin(["champion", "challenger"])].reset_index(drop=True)
    keys = log[[f"{REQUEST}{column}" for column in rollout.split_by]]
    rows = pd.DataFrame(
        {
            VARIANT: log["variant"],
            ENTITY: [json.dumps(list(map(str, key))) for key in keys.itertuples(index=False)],
            AT: log["served_at"],
            STATUS: log["status"],
            LATENCY: log["latency_ms"],
            OUTCOME: log["prediction_id"].map(_outcomes(store, spec)),
        }
    )
    outputs = [name for name in log.columns if name.startswith(OUTPUT)]
    return rows.join(log[outputs].rename(columns=lambda name: name.removeprefix(OUTPUT)))


def _outcomes(store: ArtifactStore, spec: ModelSpec) -> pd.Series:
    """Return the newest outcome of every prediction that feedback tells of."""
    import pandas as pd

    contents = (store.read(key) for key in store.keys(f"feedback/{spec.name}/") if key.endswith(".parquet"))
    told = [pd.read_parquet(io.BytesIO(content)) for content in contents if content is not None]
    if not told:
        return pd.Series(dtype=object)
    newest = pd.concat(told).sort_values("at").drop_duplicates("prediction_id", keep="last")
    outcomes = newest.set_index("prediction_id")["outcome"]
    return outcomes if spec.task is Task.MULTICLASS else pd.to_numeric(outcomes)
