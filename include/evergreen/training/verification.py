"""What a person verifies: a registered version, and the files with which a stranger can do the same elsewhere."""

from __future__ import annotations

import shutil
from pathlib import Path

from evergreen.contract import ConfigurationError
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


def verified_version(name: str, keep: Path | None = None) -> Bound:
    """Verify a version as a step does before it loads it, and its signature in the format of the OpenSSF too.

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
    return statement.bound
