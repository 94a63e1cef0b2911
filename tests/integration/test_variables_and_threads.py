"""No variable is added to a training's processes once they have threads: a reader of another thread would crash."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from evergreen.settings import PROJECT_ROOT

pytestmark = [pytest.mark.integration, pytest.mark.slow]

# every Python process below this one imports it first; the C library's own table is compared at the end of the training
RECORDER = """
import os, sys

def record(event, arguments):
    if event in ("os.putenv", "os.unsetenv"):
        name = os.fsdecode(arguments[0])
        known = name in os.environ
        threads = len(os.listdir("/proc/self/task"))
        if threads > 1 and known is (event == "os.unsetenv"):
            with open({file!r}, "a") as file:
                print(event, name, threads, file=file)

sys.addaudithook(record)
"""
NETWORK = """

import ctypes as _ctypes, os as _os

_table = _ctypes.POINTER(_ctypes.c_char_p).in_dll(_ctypes.CDLL(None), "environ")
_names, _position = set(), 0
while _table[_position]:
    _names.add(_os.fsdecode(_table[_position].partition(b"=")[0]))
    _position += 1
with open({file!r}, "a") as _file:
    for _name in sorted(_names - set(_os.environ)):
        print("native", _name, file=_file)
"""
TRAINING = """
import sys
from pathlib import Path

from evergreen.environment import complete

complete()  # as the command run-step does
from lifecycle_kit import training_rows, write_model
from evergreen.catalog import load_model
from evergreen.training.ray_training import train

spec = load_model(write_model(Path(sys.argv[1]) / "models", "binary", workers=1, epochs=1))
network = spec.folder / "network.py"
network.write_text(network.read_text() + Path(sys.argv[1], "network-end").read_text())
train(spec, training_rows("binary"), "checkpoints", "run")
import os
os.environ["EVERGREEN_TEST_LATE"] = "1"  # the recorder works
"""


@pytest.mark.skipif(sys.platform != "linux", reason="counts threads in /proc")
def test_nothing_is_added_once_there_are_threads(tmp_path: Path) -> None:
    record = tmp_path / "record"
    (tmp_path / "sitecustomize.py").write_text(RECORDER.format(file=str(record)))
    (tmp_path / "network-end").write_text(NETWORK.format(file=str(record)))
    path = [str(tmp_path), str(PROJECT_ROOT / "tests"), str(PROJECT_ROOT / "include")]
    own = {"EVERGREEN_STATE_DIR": str(tmp_path / "state"), "EVERGREEN_MODELS_DIR": str(tmp_path / "models")}
    done = subprocess.run(
        [sys.executable, "-c", TRAINING, str(tmp_path)],
        env={**os.environ, **own, "PYTHONPATH": os.pathsep.join(path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = record.read_text().splitlines()
    assert [line for line in found if "EVERGREEN_TEST_LATE" in line], found
    assert [line for line in found if "EVERGREEN_TEST_LATE" not in line] == []
