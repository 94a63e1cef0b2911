"""What names the code in manifests and registered versions."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from evergreen import version
from evergreen.settings import Settings, get_settings
from evergreen.version import code_version


def test_the_code_version_is_the_image_s_or_the_commit_s(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    code_version.cache_clear()
    assert code_version()
    monkeypatch.setenv("EVERGREEN_CODE_VERSION", "1.2.3")
    get_settings.cache_clear()
    code_version.cache_clear()
    assert code_version() == "1.2.3"
    code_version.cache_clear()


def test_the_code_version_of_a_changed_checkout_says_what_was_changed(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(version, "PROJECT_ROOT", tmp_path)

    def current() -> str:
        code_version.cache_clear()
        return code_version()

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
    code_version.cache_clear()
