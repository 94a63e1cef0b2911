"""docs/models.md, followed to the letter: a model made from the scaffold runs on a CSV source."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import pandas as pd
import pytest
from sqlalchemy import NullPool, create_engine, inspect

from documented import run_cli
from evergreen.catalog import load_model
from evergreen.contract import Manifest
from evergreen.data.lake import get_lake
from evergreen.features.feast_repo import get_feature_store
from evergreen.settings import PROJECT_ROOT, Settings, get_settings

pytestmark = pytest.mark.integration

PAGE = (PROJECT_ROOT / "docs/models.md").read_text(encoding="utf-8")
GUIDE = PAGE[PAGE.index("## Add a model in ten minutes") : PAGE.index("## What you write")]
REMOVAL = PAGE[PAGE.index("## Rename or remove a model") : PAGE.index("## Every field of model.yaml")]


def _blocks(language: str, text: str = GUIDE) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.M | re.S)


@pytest.fixture
def project(lake_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    """A project without models, on real services."""
    monkeypatch.setenv("EVERGREEN_MODELS_DIR", str(tmp_path / "models"))
    monkeypatch.setenv("EVERGREEN_FEATURE_REPO", str(tmp_path / "feature_repo"))
    (tmp_path / "feature_repo").mkdir()
    shutil.copy(PROJECT_ROOT / "feature_repo/feature_store.yaml", tmp_path / "feature_repo")
    get_settings.cache_clear()
    get_feature_store.cache_clear()
    yield get_settings()
    get_feature_store.cache_clear()


def test_the_guide_works_to_the_letter(
    project: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    create, steps, check = (block.splitlines() for block in _blocks("console"))
    for command in create:
        printed = run_cli(shlex.split(command), monkeypatch, capsys)
    assert "returns: ok" in printed

    orders = tmp_path / "orders"
    orders.mkdir()
    (orders / "2024-01-01.csv").write_text(_blocks("csv")[0])
    source = project.models_dir / "returns/source.py"
    text = source.read_text()
    reader = _blocks("python")[0].replace("/data/orders", str(orders))
    source.write_text(text[: text.index("def read_events")] + reader)

    manifests = {}
    for command in steps:
        printed = run_cli(shlex.split(command), monkeypatch, capsys)
        manifest = Manifest.model_validate_json(printed.strip().splitlines()[-1])
        manifests[manifest.step] = manifest
    assert {step: manifest.status for step, manifest in manifests.items()} == dict.fromkeys(
        ("ingest", "validate", "publish", "build_features", "materialize"), "ok"
    )
    assert "returns: ok" in run_cli(shlex.split(check[0]), monkeypatch, capsys)
    _check_tables()
    _remove(project, monkeypatch, capsys)


def _check_tables() -> None:
    """Compare with the two orders of the guide."""
    lake = get_lake()
    examples = lake.read("returns", "examples").to_pandas().sort_values("entity_id")
    assert examples[["entity_id", "amount", "category", "weekday", "outcome"]].values.tolist() == [
        ["c03", 12.5, "books", "Monday", 0],
        ["c17", 39.9, "shoes", "Monday", 1],
    ]
    history = lake.read("returns", "history").to_pandas().sort_values("entity_id")
    assert history[["entity_id", "amount_mean", "event_count"]].values.tolist() == [["c03", 12.5, 1], ["c17", 39.9, 1]]
    assert set(history["event_timestamp"]) == {pd.Timestamp("2024-01-02T06:00:00Z")}
    online = get_feature_store().get_online_features(
        features=["returns_history:amount_mean", "returns_history:event_count"],
        entity_rows=[{"entity_id": "c17"}, {"entity_id": "nobody"}],
    )
    assert online.to_dict()["amount_mean"] == [39.9, None]
    spec = load_model("returns")
    assert (spec.owner, spec.team, spec.schedule.start) == ("anna", "webshop", date(2024, 1, 1))


def _remove(project: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Remove the model as the page says; what stays is what the page says."""
    shutil.rmtree(project.models_dir / "returns")
    (project.feature_repo / "returns.py").unlink()
    monkeypatch.chdir(project.state_dir)  # Feast's command line goes elsewhere
    apply, history = _blocks("console", REMOVAL)[0].splitlines()
    assert "Removing infrastructure for returns_history" in run_cli(shlex.split(apply), monkeypatch, capsys)
    engine = create_engine(project.database("online"), poolclass=NullPool)
    assert not [table for table in inspect(engine).get_table_names() if "returns" in table]
    assert "No decisions yet" in run_cli(shlex.split(history), monkeypatch, capsys)
    assert len(get_lake().catalog.list_tables("returns")) == 5
    exec(_blocks("python", REMOVAL)[0])
    assert ("returns",) not in get_lake().catalog.list_namespaces()
    assert not [path for path in Path(project.lake_root).rglob("*") if path.is_file()]
