"""The lake and the artifact store on a real S3 that is slow, or busy with somebody else."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import pyarrow as pa
import pytest

from certificate_kit import self_signed
from evergreen.contract import ConfigurationError, TemporaryError, Window
from evergreen.data.lake import Lake, get_lake
from evergreen.settings import Settings
from evergreen.store import S3Store, arrow_options, get_store
from isolation import forget_settings
from object_store_kit import BUCKET, ObjectStore, object_store
from s3_proxy import Asked, Proxy, s3_proxy

pytestmark = pytest.mark.integration

DAY = Window(start=date(2013, 3, 1), end=date(2013, 3, 1))
ROWS = pa.table({"ds": ["2013-03-01"] * 3, "value": [1, 2, 3]})
ARROW_S_OWN_PATIENCE = 3.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    """SeaweedFS with one account."""
    with object_store(tmp_path_factory.mktemp("seaweedfs")) as started:
        yield started


@pytest.fixture
def proxy(server: ObjectStore, lake_settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """A proxy before it, which is what lake and store are told of."""
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, os.devnull)
    with s3_proxy(server.endpoint, lambda asked: None) as found:
        told = {
            "EVERGREEN_S3_ENDPOINT": found.endpoint,
            "EVERGREEN_LAKE_ROOT": f"s3://{BUCKET}/lake",
            "EVERGREEN_ARTIFACT_ROOT": f"s3://{BUCKET}/artifacts",
        }
        for name, value in {**server.environment, **told}.items():
            monkeypatch.setenv(name, value)
        forget_settings()
        yield found


@pytest.fixture
def lake(proxy: Proxy) -> Lake:
    """A lake there, with one table."""
    lake = get_lake()
    lake.write("m", "t", ROWS, DAY)
    return lake


def _set(monkeypatch: pytest.MonkeyPatch, **values: str) -> None:
    for name, value in values.items():
        monkeypatch.setenv(f"EVERGREEN_{name.upper()}", value)
    forget_settings()


def _parquet(asked: Asked) -> bool:
    return asked.method == "GET" and asked.path.endswith(".parquet")


def test_a_read_outlives_a_silence_that_arrow_itself_would_not(proxy: Proxy, lake: Lake) -> None:
    def slow(asked: Asked) -> None:
        if _parquet(asked):
            time.sleep(ARROW_S_OWN_PATIENCE + 1.5)

    proxy.meddle = slow
    proxy.asked.clear()
    assert lake.read("m", "t")["value"].to_pylist() == [1, 2, 3]
    paths = [asked.path for asked in proxy.asked if _parquet(asked)]
    assert paths, proxy.asked  # it was held up, and by no more requests than are needed
    assert len(paths) <= 3


def test_a_silence_longer_than_the_setting_is_tried_again_and_temporary(
    proxy: Proxy, lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    _set(monkeypatch, s3_read_seconds="1", s3_attempts="2")
    impatient = get_lake()
    held: list[Asked] = []

    def silent(asked: Asked) -> None:
        if _parquet(asked):
            held.append(asked)
            time.sleep(4)

    proxy.meddle = silent
    with pytest.raises(TemporaryError, match=r"the table m\.t"):
        impatient.read("m", "t")
    assert len(held) == 2


@pytest.mark.parametrize("attempts", [2, 3])
def test_each_client_asks_as_often_as_the_setting_says(
    proxy: Proxy, lake: Lake, monkeypatch: pytest.MonkeyPatch, attempts: int
) -> None:
    from pyarrow.fs import S3FileSystem

    _set(monkeypatch, s3_attempts=str(attempts))
    table, store, files = get_lake(), get_store(), S3FileSystem(**arrow_options())
    proxy.meddle = lambda asked: (503, "SlowDown")
    for use in (
        lambda: table.read("m", "t"),
        lambda: store.read("k"),
        lambda: files.open_input_file(f"{BUCKET}/k"),
    ):
        proxy.asked.clear()
        with pytest.raises((TemporaryError, OSError)):
            use()
        assert len(proxy.asked) == attempts


def test_a_bucket_without_room_waits_for_a_person(proxy: Proxy, lake: Lake) -> None:
    proxy.meddle = lambda asked: (507, "XMinioStorageFull") if asked.method in {"PUT", "POST"} else None
    day = Window(start=date(2013, 3, 2), end=date(2013, 3, 2))
    with pytest.raises(ConfigurationError, match="make room"):
        lake.write("m", "t", ROWS.set_column(0, "ds", pa.array(["2013-03-02"] * 3)), day)
    with pytest.raises(ConfigurationError, match="XMinioStorageFull"):
        get_store().write("k", b"x")


@pytest.mark.parametrize("code", ["ConditionalRequestConflict", "OperationAborted"])
def test_a_conflict_is_no_answer_and_is_asked_again(proxy: Proxy, code: str) -> None:
    store = get_store()
    assert isinstance(store, S3Store)
    conflicts = iter([(409, code)] * 3)
    proxy.meddle = lambda asked: next(conflicts, None) if asked.conditional else None
    assert store.create(f"created/{code}", b"old")
    assert [asked.conditional for asked in proxy.asked].count(True) == 4
    conflicts = iter([(409, code)] * 2)
    assert store.replace(f"created/{code}", b"old", b"new")
    assert store.read(f"created/{code}") == b"new"
    conflicts = iter([(409, code)])
    assert not store.create(f"created/{code}", b"late")  # asked again, the server says that it is there: 412


def test_a_condition_that_does_not_hold_is_asked_once(proxy: Proxy) -> None:
    store = get_store()
    store.write("there", b"x")
    proxy.asked.clear()
    assert not store.create("there", b"y")
    assert len(proxy.asked) == 1


def test_conflicts_without_an_end_are_temporary(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evergreen.store.s3._CONFLICT_SECONDS", 0.5)
    proxy.meddle = lambda asked: (409, "ConditionalRequestConflict")
    with pytest.raises(TemporaryError, match="ConditionalRequestConflict"):
        get_store().create("never", b"x")
    assert len(proxy.asked) > 1


_USE = """
from datetime import date
import pyarrow as pa
from evergreen.contract import StepError, Window
from evergreen.data.lake import get_lake
from evergreen.store import get_store
from evergreen.training.registry import by_alias
day = Window(start=date(2013, 3, 1), end=date(2013, 3, 1))
for use in (
    lambda: get_store().write("k", b"x"),
    lambda: get_lake().write("tls", "t", pa.table({"ds": ["2013-03-01"], "value": [1]}), day),
    lambda: by_alias("m", "champion"),
):
    try:
        use()
        print("ok")
    except StepError as error:
        print(error.failure_class, error.hint)
"""


@pytest.mark.slow
@pytest.mark.parametrize("trusted", [True, False])
def test_a_private_authority_is_trusted_where_the_chart_names_it_and_refused_at_once_elsewhere(
    proxy: Proxy, server: ObjectStore, tmp_path: Path, trusted: bool
) -> None:
    both, authority = self_signed(tmp_path)
    told = [name for name, value in _chart_s().items() if value.endswith("/ca.crt")]
    environment = dict(os.environ) | ({name: str(authority) for name in told} if trusted else {})
    # an S3's answers are no MLflow's: what matters is whether a client comes so far
    with s3_proxy(server.endpoint, lambda asked: None, both) as encrypted:
        environment["EVERGREEN_S3_ENDPOINT"] = environment["EVERGREEN_MLFLOW_TRACKING_URI"] = encrypted.endpoint
        done = subprocess.run(
            [sys.executable, "-c", _USE], env=environment, capture_output=True, text=True, check=False
        )
    store, lake, mlflow = done.stdout.splitlines()
    if trusted:
        assert (store, lake) == ("ok", "ok")
        assert "REQUESTS_CA_BUNDLE" not in mlflow
    else:
        for line, variable in ((store, "AWS_CA_BUNDLE"), (lake, "SSL_CERT_FILE"), (mlflow, "REQUESTS_CA_BUNDLE")):
            assert line.startswith("configuration")
            assert variable in line


def _chart_s() -> dict[str, str]:
    """Return the settings that the chart gives the steps, with a `caBundle`."""
    from chart_rendering import objects, pick

    return dict(pick(objects("production"), "ConfigMap", "evergreen-settings")["data"])
