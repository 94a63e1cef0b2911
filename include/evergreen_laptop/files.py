"""Folders and private files of the state folder; a full disk or a closed folder ends in one clear sentence."""

from __future__ import annotations

import configparser
import errno
import io
import os
import stat
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path

from evergreen.contract import ConfigurationError
from evergreen.store.base import FULL

FREE_BYTES = 512 << 20
"""What a start needs: a new PostgreSQL cluster, its first log, and room to run."""


@contextmanager
def clear_disk_errors(path: Path) -> Iterator[None]:
    """Turn what the file system refuses into an error that names the path and what to do.

    Raises
    ------
    ConfigurationError
        If the place cannot be written, or the disk is full.
    """
    try:
        yield
    except OSError as error:
        where = error.filename or path
        if error.errno in FULL:
            raise disk_full(where) from error
        if error.errno in {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EEXIST}:
            raise ConfigurationError(
                f"{where}: {(error.strerror or 'cannot be written').lower()}.",
                "Make the folder writable, or set EVERGREEN_STATE_DIR to one that is.",
            ) from error
        raise


def disk_full(where: object) -> ConfigurationError:
    """Return the error for a disk without room: no retry makes any, a person has to."""
    return ConfigurationError(f"{where}: the disk is full.", "Free some space, then run the command again.")


STATE_FOLDER = 0o710 if os.geteuid() == 0 else 0o700
"""Mode of the state folder. Root's PostgreSQL runs as another account, which passes as a member of root's group."""


def make_folder(path: Path, mode: int = 0o700) -> Path:
    """Create a folder (and its parents), or set the mode of an existing one; returns it."""
    with clear_disk_errors(path):
        path.mkdir(parents=True, exist_ok=True)
        if path.stat().st_mode & 0o777 != mode:
            path.chmod(mode)
        if not os.access(path, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
    return path


def keep_to_oneself(state_dir: Path) -> None:
    """Make the state folder, and take from other users what an earlier version or another umask let them read.

    From here on this process and all it starts create files that nobody else can read.
    """
    os.umask(0o077)
    with clear_disk_errors(state_dir):
        make_folder(state_dir, STATE_FOLDER)
        top = [path for path in state_dir.iterdir() if path.name != "postgres" and not path.is_symlink()]
        if not any(path.stat().st_mode & 0o077 for path in top):
            return
        below = (Path(folder, name) for path in top for folder, *names in os.walk(path) for name in chain(*names))
        for path in chain(top, below):
            with suppress(FileNotFoundError):  # it went away meanwhile
                mode = path.lstat().st_mode
                if mode & 0o077 and not stat.S_ISLNK(mode):
                    path.chmod(mode & 0o7700)


def check_free_space(path: Path) -> None:
    """Refuse to start on a disk with less than `FREE_BYTES` left.

    Raises
    ------
    ConfigurationError
        If there is less.
    """
    disk = os.statvfs(path)
    free_bytes = disk.f_bavail * disk.f_frsize
    if free_bytes < FREE_BYTES:
        raise ConfigurationError(
            f"{path}: the disk is full ({free_bytes >> 20} MiB free, {FREE_BYTES >> 20} MiB needed to start).",
            "Free some space, then run the command again.",
        )


def identity_of(folder: Path) -> tuple[int, int] | None:
    """Return what tells a folder from another one of its name, or None if there is none.

    Raises
    ------
    OSError
        If its disk does not say: that of a network may be away for a moment.
    """
    try:
        status = folder.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return status.st_dev, status.st_ino


def write_private(path: Path, text: str) -> None:
    """Write a file only its owner can read; it is seen whole or not at all."""
    with clear_disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
            temporary = Path(folder) / path.name
            temporary.touch(mode=0o600)
            temporary.write_text(text)
            temporary.replace(path)


def write_env_file(path: Path, values: Mapping[str, str]) -> None:
    """Write ``NAME=value`` lines, as ``kubectl create configmap --from-env-file`` reads them.

    Raises
    ------
    ConfigurationError
        If a value has a line break: the format has no way to say that.
    """
    for name, value in values.items():
        if "\n" in value or "\r" in value:
            raise ConfigurationError(f"{name}: the value has a line break.", "Write it in one line.")
    write_private(path, "".join(f"{name}={value}\n" for name, value in sorted(values.items())))


def write_config_file(path: Path, sections: Mapping[str, Mapping[str, object]]) -> None:
    """Write what Airflow and MLflow read with `configparser`, which interpolates: a percent sign is written twice."""
    parser = configparser.RawConfigParser()
    for section, options in sections.items():
        parser[section] = {name: str(value).replace("%", "%%") for name, value in options.items()}
    text = io.StringIO()
    parser.write(text)
    write_private(path, text.getvalue())


def keep_previous(path: Path) -> None:
    """Start a log afresh and keep the one of the last start."""
    if path.exists():
        path.replace(path.with_name(f"{path.name}.1"))
