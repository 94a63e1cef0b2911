"""The images that these tests run."""

from __future__ import annotations

import pytest
from built_images import Images, built


@pytest.fixture(scope="session")
def images() -> Images:
    """The images that `make images` has built on this machine; fails, in one sentence, where there are none."""
    return built()
