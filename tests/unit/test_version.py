"""What names the code in manifests and registered versions."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from evergreen import __version__, version
from evergreen.settings import Settings, get_settings
from evergreen.version import code_version


@pytest.fixture
def current(settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[[], str]]:
    """The version of the code in the test's folder, determined anew at each call."""
    monkeypatch.setattr(version, "PROJECT_ROOT", tmp_path)

    def determine() -> str:
        code_version.cache_clear()
        return code_version()

    yield determine
    code_version.cache_clear()


def test_the_code_version_is_the_image_s_or_the_commit_s(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    code_version.cache_clear()
    assert code_version()
    monkeypatch.setenv("EVERGREEN_CODE_VERSION", "1.2.3")
    get_settings.cache_clear()
    code_version.cache_clear()
    assert code_version() == "1.2.3"
    code_version.cache_clear()


def test_the_code_version_of_a_changed_checkout_says_what_was_changed(
    current: Callable[[], str], tmp_path: Path
) -> None:
    git = ("git", "-C", str(tmp_path), "-c", "user.name=t", "-c", "user.email=t@example.com")
    for command in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "one"]):
        subprocess.run([*git, *command], check=True)
    clean = current()
    (tmp_path / "step.py").write_text("one = 1\n")
    subprocess.run([*git, "add", "step.py"], check=True)
    one = current()
    (tmp_path / "step.py").write_text("one = 2\n")
    two = current()
    (tmp_path / "step.py").write_text("one = 1\n")
    assert current() == one
    assert len({clean, one, two}) == 3
    assert all(changed.startswith(f"{clean}+dirty.") for changed in (one, two))

    # a file that nobody has told git of yet is code too, where code is; and so is a lock of libraries that is
    subprocess.run([*git, "rm", "-q", "--cached", "step.py"], check=True)
    assert current() == clean
    (tmp_path / "include").mkdir()
    (tmp_path / "include/new.py").write_text("one = 1\n")
    new = current()
    (tmp_path / "include/new.py").write_text("one = 2\n")
    assert len({clean, new, current()}) == 3
    (tmp_path / "include/new.py").unlink()
    (tmp_path / "requirements.lock").write_text("torch==2.12.0\n")
    for command in (["add", "requirements.lock"], ["commit", "-q", "-m", "two"]):
        subprocess.run([*git, *command], check=True)
    locked = current()
    (tmp_path / "requirements.lock").write_text("torch==2.13.0\n")
    assert current().startswith(f"{locked}+dirty.")


def test_the_code_version_without_git_is_of_the_code_itself(current: Callable[[], str], tmp_path: Path) -> None:
    network = tmp_path / "include/models/small/network.py"
    network.parent.mkdir(parents=True)
    network.write_text("layers = 1\n")
    one = current()
    assert one.startswith(f"{__version__}+code.")
    (network.parent / "__pycache__").mkdir()
    (network.parent / "__pycache__/network.pyc").write_bytes(b"compiled")
    (tmp_path / "notes.txt").write_text("mine\n")
    assert current() == one
    network.write_text("layers = 2\n")
    assert current() != one
