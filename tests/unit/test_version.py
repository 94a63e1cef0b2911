"""What names the code in manifests and registered versions."""

from __future__ import annotations

import pytest

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
