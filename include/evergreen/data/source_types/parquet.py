"""A Parquet file a day, on a disk or in S3."""

from __future__ import annotations

import io
from datetime import date
from typing import TYPE_CHECKING

from evergreen.contract import Frozen
from evergreen.data.source_types import DailyPath, content_of

if TYPE_CHECKING:
    import pandas as pd


class Options(Frozen):
    """Where the files are."""

    path: DailyPath


def read(day: date, options: Options) -> pd.DataFrame | None:
    """Return the rows of a day's file, or None if there is none."""
    import pandas as pd
    from pyarrow import parquet

    content = content_of(options.path, day)
    if content is None:
        return None
    # Arrow's types, not NumPy's: a whole number beside a missing one stays whole
    return parquet.read_table(io.BytesIO(content)).to_pandas(types_mapper=pd.ArrowDtype)
