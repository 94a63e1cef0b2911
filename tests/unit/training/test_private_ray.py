"""What a Ray that does not start is taken for."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from evergreen.contract import TemporaryError
from evergreen.training.private_ray import private_ray


@pytest.mark.parametrize("error", [Exception("The current node timed out during startup."), OSError("no space left")])
def test_a_ray_that_does_not_start_is_tried_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: Exception
) -> None:
    def init(*_: object, **__: object) -> None:
        raise error

    # not Ray itself: imported here, without the settings that it reads then, no later test could start one
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(init=init, shutdown=lambda: None))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(TemporaryError, match=str(error)), private_ray(1):
        pass
    assert list(tmp_path.iterdir()) == []
