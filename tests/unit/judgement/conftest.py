"""What is judged is decided on record: settings of these tests have an audit log."""

from __future__ import annotations

import pytest

from evergreen.settings import Settings


@pytest.fixture
def settings(audit_settings: Settings) -> Settings:
    """Settings of this test's own folder, with an empty audit log."""
    return audit_settings
