"""What a person verifies: a registered version, and the files with which a stranger can do the same elsewhere."""

from __future__ import annotations

import shutil
from pathlib import Path

from evergreen.contract import ConfigurationError, DataError
from evergreen.training.golden import found_wrong, read_golden
from evergreen.training.loading import FILES
from evergreen.training.registry import by_alias, named_version
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


def verified_version(name: str, keep: Path | None = None) -> tuple[Bound, int]:
    """Verify a version as a step does before it loads it, and its signature in the format of the OpenSSF too.

    Then a fresh process loads it, and must answer its golden requests as it did in training. Returns what the version
    is bound to, and how many requests there were: none of a version of before there were any.

    Parameters
    ----------
    name
        ``MODEL@VERSION``; an alias may stand for the number.
    keep
        A folder to make, for the files (``model/``) and their two signatures.

    Raises
    ------
    ConfigurationError
        If there is no such version, or the folder is there already.
    UntrustedError
        If it is not, in every file and tag, what was signed.
    DataError
        If it is, and does not load or answer as it did.
    """
    model, _, number = name.partition("@")
    version = named_version(model, number) if number.isdecimal() or not number else by_alias(model, number)
    if version is None:
        raise ConfigurationError(f"{model} has no version {number!r}.", "Name its number, or an alias that it has.")
    if keep is not None and keep.exists():
        raise ConfigurationError(f"--keep={keep}: it is there already.", "Name a folder that is not.")
    statement = stated_of_version(version)
    with verified_files(statement, version.uri) as files:
        place = files.parent / "signatures"
        place.mkdir()
        signature = fetch(version.run_id, OPENSSF_FILE, place)
        if signature is None:
            raise UnsignedError(f"{version.uri}: {OPENSSF_FILE} is missing beside it.", "Train the model again.")
        verify_openssf(files, signature, version.uri)
        if keep is not None:
            fetch(version.run_id, version_file(version), place)
            shutil.copytree(files, keep / "model")
            for path in (path for path in place.rglob("*") if path.is_file()):
                shutil.copyfile(path, keep / path.name)
        if problem := found_wrong(files / FILES):
            raise DataError(
                f"{version.uri} is what was signed, but {problem}.",
                f"If it is champion: evergreen rollback {model}. What its network needs must be in its files.",
            )
        golden = read_golden(files / FILES)
    return statement.bound, golden.rows if golden else 0
