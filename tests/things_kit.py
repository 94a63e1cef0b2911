"""A model of a few rows: its only source, ``things``, reads what a test has put into its folder."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import pytest
import yaml

import evergreen.catalog
from data_steps import UPSTREAM, day
from evergreen.contract import Manifest, RunIdentity, Status, Window
from evergreen.data.lake import get_lake
from evergreen.runner import build_request, execute
from evergreen.settings import PROJECT_ROOT, get_settings

DAY = day("2013-03-01")
NOON = datetime(2013, 3, 1, 12, tzinfo=UTC)

SUITE = """
- {type: expect_column_values_to_be_between, severity: warning, kwargs: {column: size, min_value: 0}}
- {type: expect_column_values_to_not_be_null, severity: critical, kwargs: {column: name}}
"""


def make_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a model whose only source reads ``rows.pickle`` from its folder."""
    folder = tmp_path / "models" / "small"
    folder.mkdir(parents=True)
    spec = yaml.safe_load((PROJECT_ROOT / "include/models/flight_delay/model.yaml").read_text())
    columns = {"name": "string", "size": "double", "at": "timestamp"}
    spec |= {
        "name": "small",
        "sources": [
            {
                "name": "things",
                "reader": "source.py:read",
                "key": ["name"],
                "columns": columns,
                "expectations": "e.yaml",
            }
        ],
    }
    (folder / "model.yaml").write_text(yaml.safe_dump(spec))
    (folder / "e.yaml").write_text(SUITE)
    (folder / "source.py").write_text(
        "from pathlib import Path\nimport pandas as pd\n\n\ndef read(day):\n"
        "    return pd.read_pickle(Path(__file__).with_name('rows.pickle'))\n"
    )
    monkeypatch.setenv("EVERGREEN_MODELS_DIR", str(folder.parent))
    get_settings.cache_clear()
    assert evergreen.catalog.model_names() == ["small"]
    return folder


def run(step: str, window: Window = DAY, run_id: str = "1") -> Manifest:
    """Run a data step."""
    identity = RunIdentity(dag_id="test", run_id=run_id, task_id=step)
    return execute(build_request(step, "small", window, identity, UPSTREAM.get(step, {}), {}))


def ingest(folder: Path, rows: list[tuple[object, object]], run_id: str = "1") -> None:
    """Let the source have these rows, (name, size), and ingest them."""
    frame = pd.DataFrame(rows, columns=["name", "size"], dtype=object).assign(at=NOON)
    frame.to_pickle(folder / "rows.pickle")
    manifest = run("ingest", run_id=run_id)
    assert manifest.status is Status.OK, manifest.failure


def reasons() -> dict[int, str]:
    """Return why rows are in quarantine, by their position."""
    rows = get_lake().read("small", "things_quarantine").to_pylist()
    return {row["row"]: row["reason"] for row in rows}
