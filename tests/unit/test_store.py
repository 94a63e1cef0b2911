"""The local artifact store: whole writes only, nothing outside its root, disk errors with a class."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evergreen.contract import ConfigurationError, TemporaryError
from evergreen.settings import Settings
from evergreen.store import LocalStore, get_store, read_manifest, write_manifest
from manifest_kit import (
    RUN,
    a_manifest,
    assert_an_older_attempt_that_ends_later_does_not_count,
    assert_of_two_processes_the_newer_attempt_counts,
    assert_the_newest_of_many_attempts_counts,
    attempt,
)
from store_kit import assert_one_creates, assert_one_replaces


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "artifacts")


def test_what_is_removed_is_gone_and_may_be_removed_again(store: LocalStore) -> None:
    store.write("a/b", b"one")
    store.write("a/c", b"two")
    for _ in range(2):
        store.remove("a/b")
        assert list(store.keys("")) == ["a/c"]
    assert store.read("a/b") is None
    with pytest.raises(ConfigurationError):
        store.remove("../a/c")


def test_what_is_written_is_read_and_listed(store: LocalStore) -> None:
    assert store.read("a/b.json") is None
    assert list(store.keys("")) == []
    address = store.write("a/b.json", b"one")
    assert Path(address).read_bytes() == b"one"
    assert address == store.uri("a/b.json")
    store.write("a/b.json", b"two")
    store.write("a/.hidden", b"h")
    store.write("ab/c", b"c")
    assert store.read("a/b.json") == b"two"
    assert list(store.keys("")) == ["a/.hidden", "a/b.json", "ab/c"]
    assert list(store.keys("a")) == ["a/.hidden", "a/b.json", "ab/c"]
    assert list(store.keys("a/")) == ["a/.hidden", "a/b.json"]
    assert list(store.keys("a/b")) == ["a/b.json"]
    assert list(store.keys("z/")) == []


@pytest.mark.parametrize("key", ["a", "a/b.json/c"])
def test_a_folder_and_what_is_below_a_file_are_no_artifacts(store: LocalStore, key: str) -> None:
    store.write("a/b.json", b"one")
    assert store.read(key) is None
    with pytest.raises(ConfigurationError):
        store.write(key, b"x")
    assert store.read("a/b.json") == b"one"


ESCAPES = ["../x", "a/../../x", "/etc/passwd", "a//b", "", ".", "a/..", "a/", "a\x00b", "a\nb", ".partial/x"]


@pytest.mark.parametrize("key", ESCAPES)
def test_no_key_leaves_the_root(store: LocalStore, key: str) -> None:
    with pytest.raises(ConfigurationError):
        store.write(key, b"x")
    with pytest.raises(ConfigurationError):
        store.read(key)
    assert not store.root.exists()


@given(st.text(max_size=20))
def test_any_text_is_a_key_inside_the_root_or_refused(key: str) -> None:
    root = Path("/nowhere/artifacts")
    try:
        address = LocalStore(root).uri(key)
    except ConfigurationError:
        return
    assert root in Path(os.path.normpath(address)).parents


def test_a_link_does_not_lead_out_of_the_root(store: LocalStore, tmp_path: Path) -> None:
    store.write("a/x", b"x")
    (tmp_path / "secret").write_bytes(b"s")
    (store.root / "link").symlink_to(tmp_path)
    with pytest.raises(ConfigurationError, match="points outside"):
        store.read("link/secret")


_KILLED_WRITE = """
import os, signal, sys
from pathlib import Path
from evergreen.store import LocalStore

def die_half_way(file):
    os.ftruncate(file, 1)
    os.kill(os.getpid(), signal.SIGKILL)

os.fsync = die_half_way
LocalStore(Path(sys.argv[1])).write("runs/a/result.json", b"new")
"""


@pytest.mark.parametrize("before", [None, b"old"])
def test_a_write_that_is_killed_half_way_leaves_what_was_there(store: LocalStore, before: bytes | None) -> None:
    if before is not None:
        store.write("runs/a/result.json", before)
    done = subprocess.run([sys.executable, "-c", _KILLED_WRITE, str(store.root)])
    assert done.returncode == -signal.SIGKILL
    assert store.read("runs/a/result.json") == before
    assert list(store.keys("")) == ([] if before is None else ["runs/a/result.json"])
    store.write("runs/a/result.json", b"new")
    assert store.read("runs/a/result.json") == b"new"


def test_concurrent_writers_leave_one_of_their_values_whole(store: LocalStore) -> None:
    values = [bytes([letter]) * 100_000 for letter in range(65, 73)]
    with ThreadPoolExecutor(8) as pool:
        writes = [pool.submit(store.write, "k", value) for value in values for _ in range(5)]
        reads = [pool.submit(store.read, "k") for _ in range(100)]
        assert all(write.result() for write in writes)
        assert {read.result() for read in reads} <= {None, *values}
    assert store.read("k") in values
    assert list(store.keys("")) == ["k"]
    assert list((store.root / ".partial").iterdir()) == []


def test_of_many_that_create_a_key_one_does_and_its_content_stays_whole(store: LocalStore) -> None:
    assert_one_creates(store, "a/k")
    assert store.create("a/other", b"")
    assert list(store.keys("")) == ["a/k", "a/other"]
    with pytest.raises(ConfigurationError):
        store.create("a/k/below", b"x")


def test_of_many_that_replace_a_version_one_does(store: LocalStore) -> None:
    assert_one_replaces(store)


def test_a_full_disk_waits_for_a_person_and_leaves_nothing(store: LocalStore) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    code = (
        "import sys; from pathlib import Path; from evergreen import store; from evergreen.contract import *\n"
        "local = store.LocalStore(Path(sys.argv[1]))\n"
        "store.Path.open = lambda self, mode='r', **_: open('/dev/full', 'wb')\n"
        "try:\n    local.write('k', b'x')\nexcept ConfigurationError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(store.root)], capture_output=True, text=True, check=True)
    assert "k: the disk is full. Free space, then clear the task." in done.stdout
    assert list(store.keys("")) == []


def test_a_file_size_limit_is_temporary_and_leaves_nothing(store: LocalStore) -> None:
    """The kernel itself refuses the write half way."""
    code = (
        "import resource, signal, sys; from pathlib import Path; from evergreen.store import LocalStore\n"
        "from evergreen.contract import TemporaryError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))\n"
        "try:\n    LocalStore(Path(sys.argv[1])).write('k', b'x' * 5000)\nexcept TemporaryError: print('temporary')\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(store.root)], capture_output=True, text=True, check=True)
    assert done.stdout == "temporary\n"
    assert list(store.keys("")) == []
    assert list((store.root / ".partial").iterdir()) == []


def test_a_root_that_cannot_be_is_configuration(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ConfigurationError, match=r"Check EVERGREEN_ARTIFACT_ROOT and the rights on it"):
        LocalStore(tmp_path / "file" / "artifacts").write("k", b"x")


def test_a_folder_without_rights_is_configuration(tmp_path: Path) -> None:
    """As another user, because root may write anywhere."""
    root = tmp_path / "artifacts"
    root.mkdir(mode=0o555)
    code = (
        "import os, sys; from pathlib import Path; from evergreen.store import LocalStore\n"
        "from evergreen.contract import ConfigurationError\n"
        "os.getuid() == 0 and os.setuid(65534)\n"
        "try:\n    LocalStore(Path(sys.argv[1])).write('k', b'x')\nexcept ConfigurationError as e: print(e.message)\n"
    )
    for parent in tmp_path.parents:
        if parent.stat().st_uid == 0 and parent.name.startswith("pytest-of"):
            parent.chmod(0o755)
    for parent in (tmp_path, tmp_path.parent):
        parent.chmod(0o755)
    done = subprocess.run([sys.executable, "-c", code, str(root)], capture_output=True, text=True, check=True)
    assert "Permission denied" in done.stdout


def test_a_manifest_is_read_back_as_it_was(store: LocalStore) -> None:
    assert read_manifest(store, RUN) is None
    manifest = a_manifest()
    address = write_manifest(store, manifest)
    assert address.endswith("runs/demo.ingest/one/ingest/result.json")
    assert read_manifest(store, RUN) == manifest


def test_an_older_attempt_that_ends_later_does_not_count(store: LocalStore) -> None:
    assert_an_older_attempt_that_ends_later_does_not_count(store)


def test_the_newest_of_many_attempts_at_once_counts(store: LocalStore) -> None:
    assert_the_newest_of_many_attempts_counts(store)


def test_of_two_processes_of_a_task_the_newer_attempt_counts(tmp_path: Path) -> None:
    environment = {"EVERGREEN_STATE_DIR": str(tmp_path / "state")}
    store = LocalStore(tmp_path / "state/artifacts")
    assert_of_two_processes_the_newer_attempt_counts(store, tmp_path, environment)


UNORDERED = ["1", "2", "1-a", "", "a-b", "2-0b9a9f0e-93a6-4b5a-a2a7-0f0d8a0f5a11"]


@pytest.mark.parametrize(
    ("there", "late"),
    [
        (attempt(1), attempt(2, after=1)),
        (attempt(3), attempt(1, after=1)),  # the run was deleted, and created anew under the same name
        (attempt(1), attempt(2)),
        *[(attempt(2, after=1), name) for name in UNORDERED],
        *[(name, attempt(1)) for name in UNORDERED],
        ("2", "1"),
        (SAME := attempt(1), SAME),
    ],
)
def test_what_is_not_known_to_be_older_is_written(store: LocalStore, there: str, late: str) -> None:
    write_manifest(store, a_manifest(attempt=there))
    manifest = a_manifest(attempt=late)
    write_manifest(store, manifest)
    assert read_manifest(store, RUN) == manifest


@pytest.mark.parametrize(
    ("there", "late"), [(attempt(1, after=1), attempt(3)), (attempt(2), attempt(1)), (attempt(10), attempt(9))]
)
def test_what_is_known_to_be_older_is_not(store: LocalStore, there: str, late: str) -> None:
    written = a_manifest(attempt=there)
    write_manifest(store, written)
    with pytest.raises(TemporaryError, match=r"ingest/result.json: another process took this step over") as raised:
        write_manifest(store, a_manifest(attempt=late))
    assert "result of this one is dropped" in raised.value.hint
    assert read_manifest(store, RUN) == written


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"step": "ingest"}', b'{"attempt": {}}', b"\xff"])
def test_a_file_that_is_no_manifest_gives_way(store: LocalStore, content: bytes) -> None:
    store.write(f"{RUN.key}/result.json", content)
    write_manifest(store, a_manifest(attempt=attempt(1)))
    assert read_manifest(store, RUN) is not None


def test_a_newer_attempt_of_a_newer_version_counts(store: LocalStore) -> None:
    fields = {**json.loads(a_manifest(attempt=attempt(2, after=1)).model_dump_json()), "schema_version": 99}
    content = json.dumps(fields).encode()
    store.write(f"{RUN.key}/result.json", content)
    with pytest.raises(TemporaryError, match="took this step over"):
        write_manifest(store, a_manifest(attempt=attempt(1)))
    assert store.read(f"{RUN.key}/result.json") == content


class Unlucky(LocalStore):
    """A store in which something happens in the moment of a manifest's write."""

    meanwhile: Callable[[], object] | None = None

    def create(self, key: str, content: bytes) -> bool:
        return super().create(key, content) and self._quiet()

    def replace(self, key: str, old: bytes, new: bytes) -> bool:
        return self._quiet() and super().replace(key, old, new)

    def _quiet(self) -> bool:
        happens, self.meanwhile = self.meanwhile, None
        return happens is None or bool(happens())


def test_who_loses_the_race_for_a_manifest_looks_again_who_is_newer(tmp_path: Path) -> None:
    store = Unlucky(tmp_path)
    first, second, third = (a_manifest(attempt=attempt(number, after=number)) for number in (1, 2, 3))
    write_manifest(store, first)
    store.meanwhile = lambda: write_manifest(LocalStore(tmp_path), third) and False
    with pytest.raises(TemporaryError, match="took this step over"):
        write_manifest(store, second)
    assert read_manifest(store, RUN) == third


def test_a_manifest_whose_answer_was_lost_is_stored_and_one_deleted_meanwhile_is_stored_again(tmp_path: Path) -> None:
    store, manifest = Unlucky(tmp_path), a_manifest(attempt=attempt(1))
    store.meanwhile = lambda: False
    write_manifest(store, manifest)
    assert read_manifest(store, RUN) == manifest
    (tmp_path / RUN.key / "result.json").unlink()
    store.meanwhile = lambda: (tmp_path / RUN.key / "result.json").unlink()
    write_manifest(store, manifest)
    assert read_manifest(store, RUN) == manifest


@pytest.mark.parametrize("content", [b"", b"{}", b"not json", b'{"step": "ingest"}', b"\xff"])
def test_a_file_that_is_no_manifest_is_named(store: LocalStore, content: bytes) -> None:
    store.write(f"{RUN.key}/result.json", content)
    with pytest.raises(ConfigurationError, match=r"ingest/result.json: not a valid manifest"):
        read_manifest(store, RUN)


def test_a_manifest_copied_from_another_task_is_refused(store: LocalStore) -> None:
    other = a_manifest(RUN.sibling("publish"))
    store.write(f"{RUN.key}/result.json", other.model_dump_json().encode())
    with pytest.raises(ConfigurationError, match=r"it belongs to runs/demo.ingest/one/publish"):
        read_manifest(store, RUN)


def test_the_configured_store_is_the_default(settings: Settings, tmp_path: Path) -> None:
    store = get_store()
    assert isinstance(store, LocalStore)
    assert store.root == settings.state_dir / "artifacts"
    assert get_store(str(tmp_path)).uri("x") == str(tmp_path / "x")


def test_an_s3_root_needs_a_bucket(settings: Settings) -> None:
    with pytest.raises(ConfigurationError, match="names no bucket"):
        get_store("s3://")
