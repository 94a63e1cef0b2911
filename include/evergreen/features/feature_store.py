"""The feature store: Feast over the lake, with the checks that Feast leaves out.

What Feast does silently is checked here: a retrieval that loses rows, a materialization that writes nothing, a join
that disagrees with a plain merge.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from evergreen.contract import DataError, TemporaryError, Window
from evergreen.data.lake import PARTITION, get_lake, scan
from evergreen.data.transform import EVENT_TIMESTAMP
from evergreen.features.exclusive import exclusive
from evergreen.features.feast_repo import apply, get_feature_store, quiet
from evergreen.pipelines import outputs_of
from evergreen.spec import FeatureView, ModelSpec
from evergreen.training.encoder import category_names

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    from feast import FeatureStore

_SPOT_CHECKS = 50
"""Rows of a training set that are compared with a plain pandas merge, and keys of the online store with the lake."""
_ROW = "_row"
"""The column by which the rows that Feast returns are put back in order."""


def feature_tables(spec: ModelSpec) -> list[str]:
    """Return the tables that a training set is made of."""
    return sorted(outputs_of("build_features", (), tuple(view.name for view in spec.features.views)))


def materialize(spec: ModelSpec, window: Window) -> dict[str, int]:
    """Bring the online store up to date with the window's feature rows; returns the keys written, by view.

    A key that has newer rows in the lake than the window keeps its newest: filling in an old day never takes the
    online store back in time. A key that the window had once, and has not any more since a day of it was corrected,
    gets what it had before, or nulls.

    Raises
    ------
    TemporaryError
        If the online store does not return what the lake has.
    """
    store = get_feature_store()
    from feast.infra.provider import get_provider

    written = {}
    with exclusive(f"feast materialize {spec.name}"):
        for view in spec.features.views:
            registered, latest = store.get_feature_view(spec.feast_name(view)), _latest(spec, view, window)
            gone = _gone(spec, view, window, latest, registered.ttl)
            for rows in (latest, gone):
                if len(rows):
                    # these rows and no others: store.materialize writes every key with a row in a range of time, which
                    # takes those with a newer one after it back; store.write_to_online_store drops a frame of nulls
                    get_provider(store.config).ingest_df(registered, rows)
                _check_online(store, spec, view, rows)
            written[view.name] = len(latest) + len(gone)
    return written


def _latest(spec: ModelSpec, view: FeatureView, window: Window) -> pd.DataFrame:
    """Return the newest row of every key that has one in the window."""
    keys = list(view.entities)
    columns = [PARTITION, *keys, EVENT_TIMESTAMP, *view.features]
    since = window.through(day for day, _ in get_lake().partitions(spec.name, view.name))
    rows = get_lake().read(spec.name, view.name, since, columns=columns).to_pandas()
    inside = rows[rows[PARTITION] <= str(window.end)][keys].drop_duplicates()
    newest = rows.sort_values(EVENT_TIMESTAMP, kind="stable").drop_duplicates(keys, keep="last")
    return newest.merge(inside, on=keys).reset_index(drop=True)


def _gone(
    spec: ModelSpec, view: FeatureView, window: Window, latest: pd.DataFrame, ttl: timedelta | None
) -> pd.DataFrame:
    """Return the row to serve of every key whose rows in the window are gone; Feast keeps what it has until told else.

    It is the key's newest row that is left, unless that was too old (``ttl``) when the window began; else nulls.
    """
    import pandas as pd
    from pyiceberg.expressions import And, In

    from evergreen.features.feast_offline import between

    lake, keys = get_lake(), list(view.entities)
    had = [latest.iloc[:0][keys]]
    for snapshot, days in lake.replaced(spec.name, view.name, window):
        had.append(lake.read(spec.name, view.name, days, snapshot, keys).to_pandas())
    lost = pd.concat(had).drop_duplicates().merge(latest[keys], on=keys, how="left", indicator=True)
    lost = lost.loc[lost["_merge"] == "left_only", keys]
    if lost.empty:
        return latest.iloc[:0]
    began = pd.Timestamp(window.start, tz="UTC")
    of_interest = And(between(EVENT_TIMESTAMP, began - ttl if ttl else None, None), In(keys[0], set(lost[keys[0]])))
    rows = scan(lake.load(spec.name, view.name), of_interest, columns=[*keys, EVENT_TIMESTAMP, *view.features])
    newest = rows.to_pandas().sort_values(EVENT_TIMESTAMP, kind="stable").drop_duplicates(keys, keep="last")
    gone = lost.merge(newest, on=keys, how="left")
    return gone.assign(**{EVENT_TIMESTAMP: gone[EVENT_TIMESTAMP].fillna(began)})


def _check_online(store: FeatureStore, spec: ModelSpec, view: FeatureView, latest: pd.DataFrame) -> None:
    """Compare the online store with the lake for up to 50 keys, spread over all of them."""
    if latest.empty:
        return
    sample = latest.iloc[:: max(1, len(latest) // _SPOT_CHECKS)]
    name = spec.feast_name(view)
    online = store.get_online_features(
        features=[f"{name}:{feature}" for feature in view.features],
        entity_rows=sample[list(view.entities)].to_dict("records"),
    ).to_df()
    for feature in view.features:
        wrong = ~_same(online[feature], sample[feature])
        if wrong.any():
            at = int(wrong.argmax())
            raise TemporaryError(
                f"online store: {name}:{feature} of {sample[list(view.entities)].iloc[at].to_dict()} is "
                f"{online[feature].iloc[at]!r}, the lake has {sample[feature].iloc[at]!r}.",
                "Run materialize for this window again.",
            )


def training_set(
    spec: ModelSpec,
    window: Window,
    *,
    snapshots: Mapping[str, str] | None = None,
    labelled: bool = True,
) -> pd.DataFrame:
    """Return the examples of a window with every input as it was known at their time.

    Parameters
    ----------
    spec, window
        The model and the partitions of its examples.
    snapshots
        Versions of any of the model's tables, by name: with those of an earlier run, that run is replayed. Of the
        others, the current one is read.
    labelled
        Whether to leave out the examples that have no label.

    Returns
    -------
    pandas.DataFrame
        One row for each example, ordered by time: ``ds``, the entity columns, ``event_timestamp``, the label, the
        numeric inputs as float64 and the categorical ones as text; what was not known is null.

    Raises
    ------
    DataError
        If rows were lost or repeated, or the join disagrees with a plain merge.
    """
    pins = snapshots or {}
    examples = _examples(spec, window, pins.get("examples"), labelled=labelled)
    if len(examples) and spec.features.views:
        apply(spec)
    return _joined(spec, examples, pins)


def example_columns(spec: ModelSpec) -> list[str]:
    """Return the columns of examples that a prediction is made from: the label is none of them."""
    return list(dict.fromkeys([PARTITION, *spec.features.keys, EVENT_TIMESTAMP, *spec.features.request_inputs]))


def inputs_of(spec: ModelSpec, rows: pa.Table, snapshots: Mapping[str, str]) -> pd.DataFrame:
    """Return rows in their order with every input as it was known at their time, as `training_set` does.

    The definitions of the features must have been applied.

    Parameters
    ----------
    spec
        The model.
    rows
        The `example_columns`: a part of the examples that fits into memory, or rows from elsewhere.
    snapshots
        Versions of the feature tables, by name; of the others, the current one is read.

    Raises
    ------
    DataError
        If rows were lost or repeated, or the join disagrees with a plain merge.
    """
    return _joined(spec, _whole_numbers_kept(spec, rows).to_pandas(), snapshots)


def _joined(spec: ModelSpec, examples: pd.DataFrame, pins: Mapping[str, str]) -> pd.DataFrame:
    """Return examples with the features of every view as of their time, checked."""
    features = [feature for view in spec.features.views for feature in view.features]
    if examples.empty or not features:
        return _tidy(spec, examples.assign(**dict.fromkeys(features)))
    from evergreen.features.feast_offline import pinned_snapshots

    entities = examples[[*spec.features.keys, EVENT_TIMESTAMP]].assign(**{_ROW: range(len(examples))})
    references = [f"{spec.feast_name(view)}:{feature}" for view in spec.features.views for feature in view.features]
    with pinned_snapshots(spec.name, pins), quiet():
        joined = get_feature_store().get_historical_features(entities, references).to_df()
    joined = joined.sort_values(_ROW, kind="stable")
    if joined[_ROW].tolist() != list(range(len(examples))):
        raise DataError(
            f"{spec.name}: Feast returned {len(joined)} rows for {len(examples)} examples of {_span(examples)}.",
            "A feature view has several rows for one key and time, or Feast lost rows: this is a defect.",
        )
    full = examples.assign(**{feature: joined[feature].to_numpy() for feature in features})
    _check_join(spec, full, pins)
    return _tidy(spec, full)


def _span(examples: pd.DataFrame) -> str:
    return f"{examples[PARTITION].min()}..{examples[PARTITION].max()}"


def _examples(spec: ModelSpec, window: Window, snapshot: str | None, *, labelled: bool) -> pd.DataFrame:
    columns = dict.fromkeys(
        [PARTITION, *spec.features.keys, EVENT_TIMESTAMP, spec.features.examples.label, *spec.features.request_inputs]
    )
    table = get_lake().read(spec.name, "examples", window, snapshot, columns)
    frame: pd.DataFrame = _whole_numbers_kept(spec, table).to_pandas()
    if labelled:
        frame = frame[frame[spec.features.examples.label].notna()]
    # by all columns: the order must not depend on which partition was written last
    return frame.sort_values(
        [EVENT_TIMESTAMP, *(name for name in columns if name != EVENT_TIMESTAMP)], kind="stable"
    ).reset_index(drop=True)


def _whole_numbers_kept(spec: ModelSpec, table: pa.Table) -> pa.Table:
    """Return examples with whole numbers that are categories as text, before pandas makes floats of them.

    Those have no room for all of a long number.
    """
    from pyarrow import types

    categories = set(spec.features.categorical).intersection(spec.features.request_inputs)
    for name in categories.difference(spec.features.keys):  # a join needs its own as they are
        if types.is_integer(table.schema.field(name).type):
            table = table.set_column(table.column_names.index(name), name, table[name].cast("string"))
    return table


def _tidy(spec: ModelSpec, frame: pd.DataFrame) -> pd.DataFrame:
    features = spec.features
    keys = [PARTITION, *spec.features.keys, EVENT_TIMESTAMP]
    keys += [features.examples.label] if features.examples.label in frame.columns else []
    tidy = frame[list(dict.fromkeys([*keys, *features.numeric, *features.categorical]))]
    numbers = {name: tidy[name].astype("float64") for name in features.numeric}
    return tidy.assign(**numbers, **{name: category_names(tidy[name]) for name in features.categorical})


def _check_join(spec: ModelSpec, full: pd.DataFrame, pins: Mapping[str, str]) -> None:
    """Compare some rows of a point-in-time join with ``pandas.merge_asof`` over the same tables."""
    import pandas as pd
    from pyiceberg.expressions import And, In

    from evergreen.features.feast_offline import between

    sample = full.iloc[:: max(1, len(full) // _SPOT_CHECKS)].sort_values(EVENT_TIMESTAMP, kind="stable")
    store = get_feature_store()
    for view in spec.features.views:
        ttl = store.get_feature_view(spec.feast_name(view)).ttl
        keys, times = list(view.entities), sample[EVENT_TIMESTAMP]
        reach = between(EVENT_TIMESTAMP, times.min() - ttl if ttl else None, times.max())
        of_interest = And(reach, In(keys[0], sample[keys[0]].unique().tolist()))
        table = scan(get_lake().load(spec.name, view.name), of_interest, pins.get(view.name))
        expected = pd.merge_asof(
            sample[[*keys, EVENT_TIMESTAMP]],
            table.to_pandas()[[*keys, EVENT_TIMESTAMP, *view.features]].sort_values(EVENT_TIMESTAMP),
            on=EVENT_TIMESTAMP,
            by=keys,
            tolerance=ttl or None,  # Feast's zero is no limit, pandas' is the very moment
        )
        for feature in view.features:
            if not _same(expected[feature], sample[feature]).all():
                raise DataError(
                    f"{spec.name}: the point-in-time join of {view.name}.{feature} disagrees with a plain merge.",
                    "This is a defect in the feature store: do not train on this data.",
                )


def _same(left: pd.Series, right: pd.Series) -> Any:
    """Compare two columns row by row: null equals null, and 1.0 equals 1."""
    left, right = left.reset_index(drop=True), right.reset_index(drop=True)
    return (left == right) | (left.isna() & right.isna())
