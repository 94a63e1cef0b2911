"""README.md and docs/troubleshooting.md, typed in by somebody new: every command does what its comment says."""

from __future__ import annotations

import io
import json
import shutil
from datetime import UTC, date, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from documented import page_commands, run_cli
from evergreen.contract import Manifest
from evergreen.features.feast_repo import get_feature_store
from evergreen.serving.log_files import NO_EXPERIMENT, log_key
from evergreen.settings import PROJECT_ROOT, Settings, get_settings
from evergreen.store import get_store

pytestmark = pytest.mark.integration


@pytest.fixture
def checkout(lake_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The models and Feast files of the project, to be added to; real services."""
    for name, folder in (("MODELS_DIR", "include/models"), ("FEATURE_REPO", "feature_repo")):
        shutil.copytree(PROJECT_ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
        monkeypatch.setenv(f"EVERGREEN_{name}", str(tmp_path / folder))
    get_settings.cache_clear()
    get_feature_store.cache_clear()
    return get_settings()


def test_the_readme_works_as_it_stands(
    checkout: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = [words for words in page_commands(PROJECT_ROOT / "README.md") if words[0] == "evergreen"]
    printed = {" ".join(words[1:3]): run_cli(words, monkeypatch, capsys) for words in shown}
    assert printed["models list"].startswith("flight_delay\tbinary\tflight-operations")
    assert "created " in printed["models new"]
    assert set(printed["models validate"].split("\n")) >= {"churn: ok", "flight_delay: ok"}
    assert "nothing is published yet" in " ".join(printed["partitions flight_delay"].split())
    assert "No decisions yet" in printed["history flight_delay"]
    manifest = Manifest.model_validate_json(printed["run-step ingest"])
    assert manifest.output("raw_flights").rows == 958
    assert len(printed) == len(shown)


def test_a_token_is_made_as_the_page_says(
    checkout: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = page_commands(PROJECT_ROOT / "docs/serving.md")
    printed = [run_cli(words, monkeypatch, capsys) for words in shown]
    assert [words[1:3] for words in shown] == [["tokens", "create"]]
    assert printed[0].startswith("evg_")


def test_a_failed_step_is_run_alone_as_the_page_says(
    checkout: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = "scheduled__2013-03-02T06:00:00+00:00"
    where = ["--partition=2013-03-01", "--dag-id=flight_delay.ingest", f"--run-id={run}"]
    run_cli(["evergreen", "run-step", "ingest", "--model=flight_delay", *where], monkeypatch, capsys)
    (shown,) = page_commands(PROJECT_ROOT / "docs/troubleshooting.md", {"run id": run})
    manifest = json.loads(run_cli(shown, monkeypatch, capsys))
    assert (manifest["step"], manifest["status"], manifest["run"]["run_id"]) == ("validate", "ok", run)
    assert manifest["inputs"][0]["name"] == "raw_flights"


def test_the_log_of_a_server_is_ingested_as_the_page_says(
    checkout: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    at = pa.array([datetime(2013, 3, 1, 12, tzinfo=UTC)], pa.timestamp("us", tz="UTC"))
    row = {"prediction_id": ["p"], "variant": ["champion"], "version": ["1"], "status": ["ok"], "event_timestamp": at}
    content = io.BytesIO()
    pq.write_table(pa.table(row), content)
    get_store().write(log_key("flight_delay", NO_EXPERIMENT, date(2013, 3, 1), "a"), content.getvalue())
    (shown,) = page_commands(PROJECT_ROOT / "docs/serving-batch.md")
    manifest = json.loads(run_cli(shown, monkeypatch, capsys))
    assert (manifest["status"], manifest["facts"]["served"]["by_variant"]) == ("ok", {"champion": 1})
