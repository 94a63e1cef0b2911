"""An installation with a scaled-down model."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from installation import Installation, installed
from small_model import scaled_models


@pytest.fixture
def installation() -> Iterator[Installation]:
    """Services that are up, with nothing in them; stopped afterwards."""
    with installed(scaled_models) as made:
        yield made
