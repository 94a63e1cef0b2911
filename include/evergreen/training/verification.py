"""What a person verifies: a registered version, and the files with which a stranger can do the same elsewhere."""

from __future__ import annotations

import shutil
from pathlib import Path

from evergreen.contract import ConfigurationError, DataError
from evergreen.training.golden import found_wrong, read_golden
from evergreen.training.loading import FILES
from evergreen.training.registry import Version, by_alias, named_version
from evergreen.training.signatures import (
    OPENSSF_FILE,
    fetch,
    stated_of_version,
    verified_files,
    verify_openssf,
    version_file,
)
from evergreen.trust.keys import UnsignedError
from evergreen.trust.statement import Bound


def verified_version(name: str, keep: Path | None = None, *, answers: bool = True) -> tuple[Bound, int]:
    """Verify a version as a step does before it loads it, and its signature in the format of the OpenSSF too.

    Then a fresh process loads it, which runs its ``network.py``, and must answer its golden requests as it did in
    training. Returns what the version is bound to, and how many requests were answered: none where there are none.

    Parameters
    ----------
    name
        ``MODEL@VERSION``; an alias may stand for the number.
    keep
        A folder to make, for the files (``model/``) and their two signatures.
    answers
        Whether to load it; if not, nothing of it is run.

    Raises
    ------
    ConfigurationError
        If there is no such version, or the folder is there already.
    UntrustedError
        If it is not, in every file and tag, what was signed.
    DataError
        If it is, and does not load or answer as it did.
    """
    version = _named(name)
    if keep is not None and keep.exists():
        raise ConfigurationError(f"--keep={keep}: it is there already.", "Name a folder that is not.")
    statement = stated_of_version(version)
    with verified_files(statement, version.uri) as files:
        signatures = _verified_signatures(files, version)
        if keep is not None:
            shutil.copytree(files, keep / "model")
            for path in (path for path in signatures.rglob("*") if path.is_file()):
                shutil.copyfile(path, keep / path.name)
        return statement.bound, _answered(files / FILES, version) if answers else 0


def _named(name: str) -> Version:
    model, _, number = name.partition("@")
    if not number:
        raise ConfigurationError(f"{name!r} names no version.", f"Write {model}@VERSION, or {model}@champion.")
    version = named_version(model, number) if number.isdecimal() else by_alias(model, number)
    if version is None:
        raise ConfigurationError(f"{model} has no version {number!r}.", "Name its number, or an alias that it has.")
    return version


def _verified_signatures(files: Path, version: Version) -> Path:
    """Return the folder of a version's two signatures, once that in the format of the OpenSSF is verified."""
    place = files.parent / "signatures"
    place.mkdir()
    signature = fetch(version.run_id, OPENSSF_FILE, place)
    if signature is None:
        raise UnsignedError(f"{version.uri}: {OPENSSF_FILE} is missing beside it.", "Train the model again.")
    verify_openssf(files, signature, version.uri)
    fetch(version.run_id, version_file(version), place)
    return place


def _answered(files: Path, version: Version) -> int:
    """Return how many golden requests a fresh process has answered as training did."""
    if problem := found_wrong(files):
        raise DataError(
            f"{version.uri} is what was signed, but {problem}.",
            f"If it is champion: evergreen rollback {version.model}. What its network needs must be in its files.",
        )
    golden = read_golden(files)
    return golden.rows if golden else 0
