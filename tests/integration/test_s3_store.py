"""The S3 artifact store against a real server that checks signatures: SeaweedFS."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path
from uuid import uuid4

import pytest

from claims_kit import assert_one_a_cool_down, race
from decision_log_kit import assert_none_is_lost
from evergreen.contract import (
    ConfigurationError,
    Manifest,
    RunIdentity,
    TemporaryError,
)
from evergreen.data.source_types import parquet
from evergreen.settings import Settings, get_settings
from evergreen.store import S3Store, get_store, read_manifest, s3_client
from installation import free_ports
from manifest_kit import (
    assert_an_older_attempt_that_ends_later_does_not_count,
    assert_of_two_processes_the_newer_attempt_counts,
    assert_the_newest_of_many_attempts_counts,
)
from object_store_kit import BUCKET, ObjectStore, object_store
from store_kit import assert_one_creates, assert_one_replaces

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    """SeaweedFS with one account."""
    with object_store(tmp_path_factory.mktemp("seaweedfs")) as started:
        yield started


@pytest.fixture
def store(server: ObjectStore, audit_settings: Settings, monkeypatch: pytest.MonkeyPatch) -> S3Store:
    """The configured store, with a prefix of its own for every test."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, os.devnull)  # somebody's own are in their home
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("EVERGREEN_ARTIFACT_ROOT", f"s3://{BUCKET}/{uuid4().hex}/")
    get_settings.cache_clear()
    found = get_store()
    assert isinstance(found, S3Store)
    return found


def test_what_is_removed_is_gone_and_may_be_removed_again(store: S3Store) -> None:
    store.write("a/b", b"one")
    store.write("a/c", b"two")
    for _ in range(2):
        store.remove("a/b")
        assert list(store.keys("")) == ["a/c"]
    assert store.read("a/b") is None
    with pytest.raises(ConfigurationError):
        store.remove("../a/c")


def test_what_is_written_is_read_and_listed(store: S3Store) -> None:
    assert store.read("a/b.json") is None
    assert list(store.keys("")) == []
    address = store.write("a/b.json", b"one")
    assert address == store.uri("a/b.json")
    assert address == f"s3://{BUCKET}/{store.prefix}/a/b.json"
    store.write("a/b.json", b"two")
    store.write("a/.hidden", b"h")
    store.write("ab/c", b"c")
    store.write("empty", b"")
    assert (store.read("a/b.json"), store.read("empty")) == (b"two", b"")
    assert list(store.keys("")) == ["a/.hidden", "a/b.json", "ab/c", "empty"]
    assert list(store.keys("a")) == ["a/.hidden", "a/b.json", "ab/c"]
    assert list(store.keys("a/")) == ["a/.hidden", "a/b.json"]
    assert list(store.keys("z/")) == []


def test_more_keys_than_one_page_are_all_listed_in_order(store: S3Store) -> None:
    names = [f"many/{number:04d}" for number in range(1010)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: store.write(name, b"x"), names))
    assert list(store.keys("many/")) == names


@pytest.mark.parametrize("run_id", ["scheduled__2013-03-01T06:00:00+00:00", "a b/ä?#%&=~", ".."])
def test_a_run_s_key_survives_the_way_through_http(store: S3Store, run_id: str) -> None:
    key = f"{RunIdentity(dag_id='demo.ingest', run_id=run_id, task_id='ingest').key}/result.json"
    store.write(key, b"x")
    assert store.read(key) == b"x"
    assert list(store.keys("runs/")) == [key]


def test_concurrent_writers_leave_one_of_their_values_whole(store: S3Store) -> None:
    values = [bytes([letter]) * 50_000 for letter in range(65, 73)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda value: store.write("k", value), values))
    assert store.read("k") in values


def test_of_many_that_create_a_key_one_does(store: S3Store) -> None:
    assert_one_creates(store, "k")


def test_of_many_that_replace_a_version_one_does(store: S3Store) -> None:
    assert_one_replaces(store)


def test_the_mark_of_a_folder_is_no_artifact(store: S3Store) -> None:
    # Ray and S3 consoles write such empty objects
    for name in ("", "claims/", "claims/demo/"):
        store._client.put_object(Bucket=BUCKET, Key=f"{store.prefix}/{name}", Body=b"")
    store.write("claims/demo/1.json", b"{}")
    assert list(store.keys("")) == list(store.keys("claims/demo/")) == ["claims/demo/1.json"]


def test_an_older_attempt_that_ends_later_does_not_count(store: S3Store) -> None:
    assert_an_older_attempt_that_ends_later_does_not_count(store)


def test_the_newest_of_many_attempts_at_once_counts(store: S3Store) -> None:
    assert_the_newest_of_many_attempts_counts(store)


def test_of_two_processes_of_a_task_the_newer_attempt_counts(store: S3Store, tmp_path: Path) -> None:
    assert_of_two_processes_the_newer_attempt_counts(store, tmp_path)


def test_guards_in_many_processes_are_kept_apart(store: S3Store) -> None:
    assert_one_a_cool_down(race({}, days=24), days=24)


def test_many_processes_that_add_to_the_decision_log_at_once_lose_nothing(store: S3Store) -> None:
    assert_none_is_lost(store, 10)  # twenty take half a minute on two busy cores


@pytest.mark.parametrize("key", ["../x", "a/../../x", "/etc/passwd", "a//b", "", "a/", "a\x00b", "a\nb"])
def test_no_key_leaves_the_prefix(store: S3Store, key: str) -> None:
    for use in (store.read, store.uri, lambda name: store.write(name, b"x")):
        with pytest.raises(ConfigurationError, match="cannot be an artifact key"):
            use(key)


def test_a_manifest_that_is_none_is_named(store: S3Store) -> None:
    run = RunIdentity(dag_id="demo.ingest", run_id="one", task_id="ingest")
    assert read_manifest(store, run) is None
    store.write(f"{run.key}/result.json", b"{")
    with pytest.raises(ConfigurationError, match=r"s3://.*/runs/demo.ingest/one/ingest/result.json: not a valid"):
        read_manifest(store, run)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("AWS_SECRET_ACCESS_KEY", "wrong"),
        ("AWS_ACCESS_KEY_ID", "unknown"),
        ("EVERGREEN_ARTIFACT_ROOT", "s3://no-such-bucket/x"),
        ("EVERGREEN_ARTIFACT_ROOT", "s3://Not_A-Bucket!/x"),
        ("EVERGREEN_S3_ENDPOINT", "seaweedfs:8333"),
    ],
)
def test_what_the_server_refuses_is_configuration(
    store: S3Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    store.write("k", b"x")
    monkeypatch.setenv(variable, value)
    get_settings.cache_clear()
    for use in (
        lambda wrong: wrong.read("k"),
        lambda wrong: wrong.write("k", b"changed"),
        lambda wrong: list(wrong.keys("")),
    ):
        with pytest.raises(ConfigurationError, match="AWS_"):
            use(get_store())
    assert store.read("k") == b"x"


def test_a_missing_secret_is_configuration(store: S3Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(ConfigurationError, match="Unable to locate credentials"):
        get_store().read("k")


def test_a_server_that_does_not_answer_is_temporary(
    store: S3Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVERGREEN_S3_ENDPOINT", f"http://127.0.0.1:{free_ports(1)[0]}")
    get_settings.cache_clear()
    for use in (
        lambda silent: silent.read("k"),
        lambda silent: silent.write("k", b"x"),
        lambda silent: list(silent.keys("")),
    ):
        began = time.monotonic()
        with pytest.raises(TemporaryError, match="Is the S3 server up"):
            use(get_store())
        assert time.monotonic() - began < 60


def test_a_step_keeps_its_manifest_in_s3(store: S3Store, tmp_path: Path) -> None:
    """A real step process, whose only way to the server are the settings and the AWS variables."""
    arguments = ["run-step", "ingest", "--model=flight_delay", "--partition=2014-01-03"]
    done = subprocess.run(
        [sys.executable, "-m", "evergreen", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=dict(os.environ),
    )
    assert done.returncode == 0, done.stderr
    printed = Manifest.model_validate_json(done.stdout)
    assert printed.status == "skipped"
    assert read_manifest(store, printed.run) == printed


def test_the_client_asks_for_no_bucket_in_the_host_name(store: S3Store) -> None:
    address = s3_client().generate_presigned_url("get_object", Params={"Bucket": BUCKET, "Key": "k"})
    assert address.startswith(f"{get_settings().s3_endpoint}/{BUCKET}/k?")


def test_a_source_of_parquet_files_reads_its_day_from_the_bucket(store: S3Store) -> None:
    import pandas as pd

    day, frame = date(2024, 1, 1), pd.DataFrame({"amount": [39.9, 12.5]})
    store.write(f"orders/{day}.parquet", frame.to_parquet())
    options = parquet.Options(path=store.uri("orders/day").replace("day", "{partition}.parquet"))
    rows = parquet.read(day, options)
    assert rows is not None
    assert rows["amount"].tolist() == [39.9, 12.5]
    assert parquet.read(date(2024, 1, 2), options) is None
    with pytest.raises(ConfigurationError, match=r"S3 answered (NoSuchBucket|AccessDenied)"):
        parquet.read(day, parquet.Options(path="s3://no-such-bucket/{partition}.parquet"))
