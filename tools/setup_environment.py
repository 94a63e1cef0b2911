"""Creates .venv from requirements.lock: ``make setup``. Standard library only.

A stamp keyed to everything that went in makes a second run do nothing. It is removed first and written last, so
an environment without one is unfinished, in whatever way its making was interrupted: it is made anew.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / "evergreen-setup.json"
LOCK = ROOT / "requirements.lock"
OLDEST, NEWEST = (3, 11), (3, 13)
FREE_BYTES = 6 << 30
"""What a fresh environment takes: 4 GB with a CPU build of torch, and the package manager's copies."""


class SetupError(Exception):
    """What went wrong and what to do about it, in one sentence."""


def main() -> int:
    """Bring .venv up to date; returns the exit code."""
    parser = argparse.ArgumentParser(description="Create .venv from requirements.lock.")
    parser.add_argument("--torch-index", default="", help="package index torch is taken from")
    arguments = parser.parse_args()
    try:
        check_python()
        set_up(arguments.torch_index)
    except SetupError as error:
        sys.stderr.write(f"error: {error}\n")
        return 78
    except OSError as error:
        sys.stderr.write(f"error: {error.filename or VENV}: {error.strerror}.\n")
        return 78
    except KeyboardInterrupt:
        sys.stderr.write("interrupted: run the same command again to finish.\n")
        return 130
    return 0


def check_python() -> None:
    """Refuse a Python the locked packages are not made for."""
    if not OLDEST <= sys.version_info[:2] <= NEWEST:
        raise SetupError(
            "Evergreen needs Python 3.11, 3.12 or 3.13, but {} is {}.{}: name another, make setup PYTHON=...".format(
                sys.executable, *sys.version_info[:2]
            )
        )


def set_up(torch_index: str) -> None:
    """Create or repair the environment, unless the stamp says that it is as it should be."""
    inputs = describe_inputs(torch_index)
    if read_stamp() == inputs:
        return
    if not os.access(ROOT, os.W_OK):
        raise SetupError(f"{ROOT} is not writable: make it so, or work in a copy.")
    folder = os.open(ROOT, os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)  # two at once: the second finds the work done
    if read_stamp() != inputs:
        build(inputs, torch_index)


def describe_inputs(torch_index: str) -> dict[str, str]:
    """Return everything the environment is made from."""
    digest = hashlib.sha256()
    for path in (LOCK, ROOT / "pyproject.toml", Path(__file__)):
        digest.update(path.read_bytes())
    return {
        "inputs": digest.hexdigest(),
        "torch": torch_requirement(),
        # an index in the user's own pip configuration is not seen here: `make clean` chooses again
        "torch_index": torch_index,
        "root": str(ROOT),
    }


def read_stamp() -> dict[str, str] | None:
    """Return what the environment was made from; None if it is unfinished or its Python is gone."""
    try:
        return json.loads(STAMP.read_text()) if os.access(PYTHON, os.X_OK) else None
    except (OSError, ValueError):
        return None


def torch_requirement() -> str:
    """Return the pinned torch, e.g. ``torch==2.13.0``: the one requirement outside the lock."""
    return re.search(r"^torch==\S+", (ROOT / "docker" / "step" / "requirements.txt").read_text(), re.MULTILINE).group()


def build(inputs: dict[str, str], torch_index: str) -> None:
    """Install everything, then leave the stamp."""
    started = time.monotonic()
    check_free_space()
    if not usable_venv():
        create_venv()
    STAMP.unlink(missing_ok=True)
    uv = VENV / "bin" / "uv"
    with tempfile.TemporaryDirectory() as folder:
        pinned = Path(folder) / "uv.txt"
        pinned.write_text(locked("uv"))
        run("the package manager", [PYTHON, "-m", "pip", "install", "--quiet", "--require-hashes", "-r", pinned])
    # every step is a process of its own: without byte code each would compile what it imports again
    install = [uv, "pip", "install", "--compile-bytecode", "--python", PYTHON]
    run("the locked packages", [*install, "--require-hashes", "-r", LOCK])
    index = ["--index-url", torch_index] if torch_index else []
    run(inputs["torch"], [PYTHON, "-m", "pip", "install", "--progress-bar=on", *index, inputs["torch"]])
    project = [uv, "pip", "install", "--python", PYTHON, "--no-deps", "--no-build-isolation", "-e", ROOT]
    run("the project itself", project)
    temporary = STAMP.with_suffix(".new")
    temporary.write_text(json.dumps(inputs))
    temporary.replace(STAMP)
    say(f"ready after {time.monotonic() - started:.0f} s: .venv/")


def usable_venv() -> bool:
    """Return whether .venv was finished once, and has the right Python."""
    if read_stamp() is None:
        return False
    wanted = f"import sys, pip; sys.exit(sys.version_info[:2] != {tuple(sys.version_info[:2])})"
    try:
        return subprocess.run([PYTHON, "-c", wanted], stderr=subprocess.DEVNULL, check=False).returncode == 0
    except OSError:
        return False


def create_venv() -> None:
    """Make an empty .venv."""
    if VENV.exists():
        say("removing an unfinished .venv, or one of another Python")
        shutil.rmtree(VENV)
    say("creating .venv with Python {}.{}".format(*sys.version_info[:2]))
    made = subprocess.run([sys.executable, "-m", "venv", VENV], capture_output=True, text=True, check=False)
    if made.returncode:
        if "ensurepip" in made.stdout + made.stderr:
            raise SetupError(
                f"{sys.executable} cannot create virtual environments: install the package with its `venv` module, "
                "python3-venv on Debian and Ubuntu."
            )
        raise SetupError(f"cannot create {VENV}: {(made.stderr or made.stdout).strip()}")


def locked(name: str) -> str:
    """Return one package's entry of the lock, with its hashes."""
    lines = LOCK.read_text().splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith(name + "=="))
    end = next(number for number in range(start, len(lines)) if not lines[number].endswith("\\"))
    return "\n".join(lines[start : end + 1]) + "\n"


def check_free_space() -> None:
    """Refuse to begin what the disk cannot hold."""
    free = shutil.disk_usage(ROOT).free
    if free < FREE_BYTES and not VENV.exists():
        raise SetupError(
            f"{ROOT} has {free / 1e9:.1f} GB free and a fresh environment needs {FREE_BYTES / 1e9:.0f}: "
            "free some space, then run this again."
        )


def run(what: str, command: list[str | Path]) -> None:
    """Run one step, with its own progress shown."""
    say("installing " + what)
    environment = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PYTHONNOUSERSITE": "1"}
    code = subprocess.run(command, env=environment, check=False).returncode
    if code:
        free = shutil.disk_usage(ROOT).free
        reason = "the disk is full" if free < 100 << 20 else "see above"
        raise SetupError(f"installing {what} failed ({reason}); run the same command again to continue.")


def say(message: str) -> None:
    """Show progress."""
    sys.stdout.write(f"==> {message}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
