"""Folders and private files."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from evergreen.contract import ConfigurationError
from evergreen_laptop import files


def test_a_private_file_is_readable_by_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "new" / "secret"
    previous = os.umask(0)
    try:
        files.write_private(path, "one")
        files.write_private(path, "two")
    finally:
        os.umask(previous)
    assert path.read_text() == "two"
    assert path.stat().st_mode & 0o777 == 0o600
    assert [entry.name for entry in path.parent.iterdir()] == ["secret"]


def test_what_others_could_read_is_closed_and_stays_so(tmp_path: Path) -> None:
    state, logs = tmp_path / "state", tmp_path / "state" / "logs" / "tasks"
    outside = tmp_path / "outside"
    previous = os.umask(0)
    try:
        for folder in (logs, outside):
            folder.mkdir(parents=True)
            (folder / "one.log").touch()
        (logs / "program").touch(mode=0o755)
        (logs / "link").symlink_to(outside / "one.log")
        (logs / "folder").symlink_to(outside)
        (state / "folder").symlink_to(outside)
        files.keep_to_oneself(state)
        (logs / "new").mkdir()
        (logs / "new" / "two.log").touch()
    finally:
        os.umask(previous)
    assert state.stat().st_mode & 0o767 == 0o700
    modes = {path.name: path.stat().st_mode & 0o777 for path in state.rglob("*") if not path.is_symlink()}
    assert modes.pop("program") == 0o700
    assert {modes.pop(name) for name in ("logs", "tasks", "new")} == {0o700}
    assert set(modes.values()) == {0o600}
    assert (outside / "one.log").stat().st_mode & 0o777 == 0o666  # a link leads to what is not ours
    assert outside.stat().st_mode & 0o777 == 0o777


def test_a_folder_that_cannot_be_made_names_itself_and_the_setting(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match=r"file/state: not a directory\. .*EVERGREEN_STATE_DIR"):
        files.make_folder(tmp_path / "file" / "state")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_closed_folder_is_a_clear_error(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(ConfigurationError, match="permission denied"):
        files.make_folder(tmp_path / "state")


def test_too_little_space_waits_for_a_person_and_says_how_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files.check_free_space(tmp_path)
    monkeypatch.setattr(files, "FREE_BYTES", 1 << 60)
    with pytest.raises(ConfigurationError, match=r"the disk is full .* Free some space"):
        files.check_free_space(tmp_path)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's /dev/full")
def test_a_disk_that_fills_up_waits_for_a_person() -> None:
    with (
        pytest.raises(ConfigurationError, match="disk is full"),
        files.clear_disk_errors(Path("/dev/full")),
        Path("/dev/full").open("wb", buffering=0) as full,
    ):
        full.write(b"x")


_FILL = """
import sys
from pathlib import Path
from evergreen.contract import ConfigurationError
from evergreen_laptop.files import write_private

secret = Path(sys.argv[1]) / "secret"
write_private(secret, "old")
try:
    write_private(secret, "new" * 1_000_000)
except ConfigurationError as error:
    print(error)
print(secret.read_text(), [path.name for path in secret.parent.iterdir()])
"""


def test_a_file_system_without_room_keeps_what_was_there(tmp_path: Path) -> None:
    """On a real one, of 1 MiB."""
    own = ["unshare", "--mount", "--user", "--map-root-user"]
    mounted = f"mount -t tmpfs -o size=1m tmpfs {tmp_path}"
    if not shutil.which("unshare") or subprocess.run([*own, "sh", "-c", mounted], capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    fill = [*own, "sh", "-c", f'{mounted} && exec "$@"', "sh", sys.executable, "-c", _FILL, str(tmp_path)]
    done = subprocess.run(fill, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "old ['secret']"
    assert "the disk is full. Free some space, then run the command again." in done.stdout


def test_env_file_is_sorted_lines(tmp_path: Path) -> None:
    files.write_env_file(tmp_path / "x.env", {"B": "2 = two", "A": "1"})
    assert (tmp_path / "x.env").read_text() == "A=1\nB=2 = two\n"


def test_env_file_refuses_a_line_break(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="A: the value has a line break"):
        files.write_env_file(tmp_path / "x.env", {"A": "1\nB=2"})
    assert not (tmp_path / "x.env").exists()


def test_the_log_of_the_last_start_is_kept(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    for text in ("first", "second"):
        files.keep_previous(log)
        log.write_text(text)
    files.keep_previous(log)
    assert not log.exists()
    assert (tmp_path / "x.log.1").read_text() == "second"


def test_a_disk_that_does_not_answer_is_no_folder_that_was_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = files.identity_of(tmp_path)
    assert known == files.identity_of(tmp_path)
    (tmp_path / "file").touch()
    assert files.identity_of(tmp_path / "gone") is files.identity_of(tmp_path / "file" / "below") is None

    def stale(_: Path) -> os.stat_result:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    monkeypatch.setattr(Path, "stat", stale)
    with pytest.raises(OSError, match="Stale file handle"):
        files.identity_of(tmp_path)
