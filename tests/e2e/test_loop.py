"""Two weeks through the real scheduler, checked against the CSV files with pandas alone."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from datetime import date, timedelta
from typing import Any

import pyarrow.parquet as pq
import pytest

from evergreen.contract import Manifest, Status
from evergreen.data.lake import get_lake
from evergreen.serving.tokens import read_tokens
from evergreen.settings import get_settings
from evergreen.store import get_store
from evergreen_airflow.replay.summary import Summary
from evergreen_laptop.status import State, read_status
from flights_kit import examples_of, flights_of_the_year, labels_of
from installation import TWO_WEEKS, Installation
from isolation import inside

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1500)]

MODEL = "flight_delay"
FIRST, LAST = date(2013, 1, 1), date(2013, 2, 11)


def manifests() -> list[Manifest]:
    """Every manifest the loop left."""
    store = get_store()
    keys = [key for key in store.keys("runs/") if key.endswith("/result.json")]
    return [Manifest.model_validate_json(store.read(key) or b"") for key in keys]


def summary(installation: Installation) -> Summary:
    return Summary.model_validate_json((installation.state / "loop" / "summary.json").read_text())


def registry() -> Any:
    from mlflow import MlflowClient

    settings = get_settings()
    return MlflowClient(settings.mlflow_tracking_uri)


@pytest.fixture(name="inside")
def seen_from_inside(installation: Installation) -> Iterator[Installation]:
    """This process sees the installation as its steps do."""
    with inside(installation.environment):
        yield installation


def check_tables() -> None:
    """Every row of the package's files is published or in quarantine on its own day; a label is where it came."""
    lake = get_lake()
    year = flights_of_the_year()
    days = {"flights": year[year.ds <= str(LAST)].ds, "arrivals": labels_of(str(FIRST), str(LAST)).known}
    for source, expected in days.items():
        found = Counter(dict(lake.partitions(MODEL, source)))
        found.update(dict(lake.partitions(MODEL, f"{source}_quarantine")))
        assert found == Counter(expected), source

    examples = lake.read(MODEL, "examples", columns=["ds", "late"]).to_pandas()
    expected = examples_of(str(FIRST), str(LAST))
    assert examples.late.isna().sum() == expected.late.isna().sum()
    assert examples.groupby("ds").late.sum().to_dict() == expected.groupby("ds").late.sum().to_dict()


def check_online_store() -> None:
    from evergreen.features.feast_repo import get_feature_store

    week = labels_of(str(LAST - timedelta(days=6)), str(LAST))
    expected = (week.arr_delay > 15).groupby(week.carrier).mean()
    found = get_feature_store().get_online_features(
        features=[f"{MODEL}_carrier_history:carrier_late_rate"],
        entity_rows=[{"carrier": carrier} for carrier in expected.index],
    )
    online = found.to_df().set_index("carrier").carrier_late_rate
    assert online.to_dict() == pytest.approx(expected.to_dict())


def check_decisions(found: Summary) -> None:
    """Every decision follows from the numbers beside it, and from every check of its gate."""
    gates = {manifest.run.run_id: manifest for manifest in manifests() if manifest.step == "gate"}
    assert [row.period for row in found.rows] == ["history", "2013-01-29--2013-02-04", "2013-02-05--2013-02-11"]
    assert found.rows[0].decision == "first_champion"
    for row in found.rows[1:]:
        if row.challenger is None:
            assert row.decision in {"no_proposal", "held_back"}
            continue
        assert row.verdict == "drift"
        assert row.improvement_low is not None
        verdicts = {check["verdict"] for check in gates[str(row.runs.train)].facts["checks"]}
        assert row.decision in ({"not_justified"} if "failed" in verdicts else {"promote"}), row
        assert row.why


def check_registry(found: Summary) -> None:
    """One version per promotion, the newest of them the champion; a run for each training."""
    client = registry()
    promoted = [row for row in found.rows if row.decision in {"first_champion", "promote"}]
    versions = client.search_model_versions(f"name='{MODEL}'")
    assert len(versions) == len(promoted)
    champion = client.get_model_version_by_alias(MODEL, "champion")
    assert int(champion.version) == max(int(version.version) for version in versions)
    gates = [manifest for manifest in manifests() if manifest.step == "gate"]
    trained = {manifest.facts["run_id"] for manifest in manifests() if manifest.step == "train"}
    assert champion.tags.get("evergreen.refit_of", champion.run_id) in trained
    assert len(gates) == len(trained) == sum(row.challenger is not None for row in found.rows)


def check_manifests() -> None:
    left = manifests()
    assert {manifest.status for manifest in left} <= {Status.OK, Status.REFUSED, Status.SKIPPED}
    assert len({manifest.config_digest for manifest in left}) == 1
    assert len({manifest.code_version for manifest in left}) == 1
    for manifest in left:
        if manifest.step in {"ingest", "publish", "build_features", "assemble"} and manifest.status is Status.OK:
            assert manifest.outputs, manifest.run
            assert all(output.version for output in manifest.outputs)
    replayed = {manifest.window.end for manifest in left if manifest.step == "publish" and manifest.status is Status.OK}
    assert max(replayed) == LAST


def check_traffic(found: Summary) -> None:
    """The last week was asked of the server: every request answered, by the champion, and all of it in the log."""
    *earlier, last = found.rows
    assert not any(row.traffic for row in earlier)
    traffic = last.traffic
    assert traffic is not None
    answered = traffic.statuses["200"]
    assert answered == traffic.variants["champion"] > 1000, traffic
    assert traffic.statuses.keys() <= {"200", "503"}, traffic  # a busy machine makes it say that it has no room
    assert traffic.p99_ms is not None
    assert traffic.p50_ms <= traffic.p99_ms
    assert traffic.decision == "no rollout is under way"
    deadline = time.monotonic() + 120
    while logged("served") < answered or logged("feedback") < 1000:  # of flights that did not fly there is no outcome
        assert time.monotonic() < deadline, (logged("served"), logged("feedback"))
        time.sleep(1)
    assert not [token for token in read_tokens() if token.client == "replay" and token.revoked is None]


def logged(folder: str) -> int:
    """Return how many records of a kind the artifact store has."""
    store = get_store()
    files = [store.read(key) or b"" for key in store.keys(f"{folder}/{MODEL}/")]
    return sum(pq.read_metadata(io.BytesIO(file)).num_rows for file in files)


def test_two_weeks_through_the_scheduler(inside: Installation) -> None:
    done = inside.run(*TWO_WEEKS, timeout=1200)
    found = summary(inside)
    check_tables()
    check_online_store()
    check_decisions(found)
    check_registry(found)
    check_manifests()
    check_traffic(found)
    assert sum(row.rows_in for row in found.rows) > (flights_of_the_year().ds <= str(LAST)).sum()
    for expected in ("first champion", "Airflow", "MLflow", "no rollout is under way", "summary.json"):
        assert expected in done.stdout

    before = {manifest.run.key: manifest for manifest in manifests()}
    again = inside.run(*TWO_WEEKS, timeout=600)
    assert {manifest.run.key: manifest for manifest in manifests()} == before, "a second loop changed something"
    assert summary(inside) == found
    assert "first champion" in again.stdout
    assert json.loads((inside.state / "loop" / "summary.json").read_text())["model"] == MODEL


def kill(installation: Installation, service: str) -> None:
    """Kill a service the hard way, as soon as it runs."""
    deadline = time.monotonic() + 120
    while True:
        found = {one.name: one for one in getattr(read_status(get_settings()), "services", ())}
        if service in found and found[service].pid and found[service].state is State.HEALTHY:
            os.kill(found[service].pid or 0, signal.SIGKILL)
            return
        assert time.monotonic() < deadline, f"{service} never came back: {found.get(service)}"
        time.sleep(0.1)


def wait_for_manifest(loop: subprocess.Popen[str], dag: str, step: str, count: int) -> None:
    """Wait until ``count`` runs of a DAG have ended a step; the loop must be alive meanwhile."""
    deadline = time.monotonic() + 600
    while sum(one.step == step and one.run.dag_id == f"{MODEL}.{dag}" for one in manifests()) < count:
        assert loop.poll() is None, f"the loop ended early:\n{loop.communicate()[0]}"
        assert time.monotonic() < deadline, f"{dag}: {step} never ended"
        time.sleep(0.2)


def test_services_killed_in_the_middle_change_nothing(inside: Installation) -> None:
    """Each is killed while something else depends on it: the table is the same as with nobody killed."""
    loop = inside.start(*TWO_WEEKS)
    try:
        for service, dag, step, count in (
            ("scheduler", "backfill", "ingest", 1),
            ("mlflow", "train", "assemble", 1),
            ("postgres", "backfill", "validate", 2),
            ("api-server", "ingest", "ingest", 1),
            ("triggerer", "features", "build_features", 1),
        ):
            wait_for_manifest(loop, dag, step, count)
            kill(inside, service)
        printed = loop.communicate(timeout=1200)[0]
    finally:
        loop.kill()
    assert loop.returncode == 0, printed
    found = summary(inside)
    check_tables()
    check_online_store()
    check_decisions(found)
    check_registry(found)
    check_manifests()
    restarts = {one.name: one.restarts for one in getattr(read_status(get_settings()), "services", ())}
    assert all(restarts[name] >= 1 for name in ("scheduler", "mlflow", "postgres", "api-server", "triggerer"))
