"""From when the row of a feature view is that an example gets: what tells how old an online row should have been."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from evergreen.data.lake import get_lake, scan
from evergreen.data.transform import EVENT_TIMESTAMP
from evergreen.features.feast_repo import get_feature_store
from evergreen.spec import FeatureView, ModelSpec

if TYPE_CHECKING:
    import pandas as pd

_ROW, _KNOWN = "_row", "_known"


def row_times(spec: ModelSpec, view: FeatureView, rows: pd.DataFrame, snapshots: Mapping[str, str]) -> pd.Series:
    """Return the time of the view's row in force at each row's ``event_timestamp``; none is NaT.

    The definitions of the features must have been applied.

    Parameters
    ----------
    spec, view
        The model, and one of its views.
    rows
        The view's keys, and ``event_timestamp``.
    snapshots
        Versions of the feature tables, by name; of the others, the current one is read.
    """
    import pandas as pd
    from pyiceberg.expressions import And, In

    from evergreen.features.feast_offline import between

    keys, ttl = list(view.entities), get_feature_store().get_feature_view(spec.feast_name(view)).ttl
    times = rows[EVENT_TIMESTAMP]
    reach = between(EVENT_TIMESTAMP, times.min() - ttl if ttl else None, times.max())
    of_interest = And(reach, In(keys[0], rows[keys[0]].dropna().unique().tolist()))
    table = scan(
        get_lake().load(spec.name, view.name), of_interest, snapshots.get(view.name), columns=[*keys, EVENT_TIMESTAMP]
    )
    known = table.to_pandas().sort_values(EVENT_TIMESTAMP)
    asked = rows[[*keys, EVENT_TIMESTAMP]].assign(**{_ROW: range(len(rows))}).sort_values(EVENT_TIMESTAMP)
    found = pd.merge_asof(
        asked,
        known.assign(**{_KNOWN: known[EVENT_TIMESTAMP]}),
        on=EVENT_TIMESTAMP,
        by=keys,
        tolerance=ttl or None,  # Feast's zero is no limit, pandas' is the very moment
    )
    return found.set_index(_ROW)[_KNOWN].sort_index()
