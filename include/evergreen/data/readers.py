"""Calls a source's reader: what it changes is put back, and what it raises gets a class.

Silence is temporary, a broken file is data, all else is the reader.
"""

from __future__ import annotations

import csv
import errno
import gzip
import lzma
import os
import pickle
import re
import struct
import sys
import tarfile
import traceback
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import BadStatusLine, IncompleteRead
from pathlib import Path
from urllib.error import HTTPError
from xml.etree.ElementTree import ParseError

from evergreen.catalog import line_in
from evergreen.contract import ConfigurationError, DataError, StepError, TemporaryError, described
from evergreen.store.base import FULL, UNTRUSTED

# BadGzipFile is an OSError; encodings, numbers, dates, JSON, Arrow and pandas' parser raise ValueErrors
_BROKEN = (
    *(ValueError, EOFError, csv.Error, struct.error, pickle.UnpicklingError, ParseError),
    *(zipfile.BadZipFile, gzip.BadGzipFile, zlib.error, lzma.LZMAError, tarfile.TarError),
)
_CORRUPT = re.compile(
    "corrupt|invalid data|deserialize|decompress|end of (stream|file)|truncated|checksum|crc", re.IGNORECASE
)
"""What codecs say in an OSError that has no number: Arrow's and bz2's."""
_SILENCE = frozenset(
    {
        ("httpx", "TransportError"),
        ("urllib3", "HTTPError"),
        ("aiohttp", "ClientConnectionError"),
        ("aiohttp", "ClientPayloadError"),
        ("botocore", "ConnectionError"),
        ("botocore", "HTTPClientError"),
    }
)
"""Modules and classes of what is raised when no answer came, or half of one."""
_OS = frozenset({os.__file__, "<frozen os>"})
_NO_FILE = frozenset({errno.ENOENT, errno.EISDIR, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.ENODEV})


def reader_error(error: BaseException, doing: str, path: Path) -> StepError:
    """Return the error with which a step ends whose reader, in the file ``path``, has raised."""
    line = line_in(path, error)
    where = str(path) if line is None else f"{path}: line {line}"
    message = f"{where}: {doing}: {described(error)}."
    status = _http_status(error)
    if isinstance(error, PermissionError) or status in {401, 403, 407}:
        return ConfigurationError(message, "Let the steps read it.")
    if UNTRUSTED.search(message):
        return ConfigurationError(message, "Name the authority of the server's certificate in SSL_CERT_FILE.")
    if isinstance(error, OSError) and error.errno in FULL:
        return ConfigurationError(message, "Free space on that disk.")
    if isinstance(error, KeyError):
        frames = traceback.extract_tb(error.__traceback__)
        if frames and frames[-1].filename in _OS:  # os.environ["TOKEN"]
            return ConfigurationError(message, "Set that variable where the steps run.")
        return DataError(message, "Did the source rename or drop that column? Correct the source, or the reader.")
    if _is_broken(error) or (status is not None and 400 <= status < 500 and status not in {408, 425, 429}):
        return DataError(
            message, "Correct the source, then run it again; for a day that has no file, the reader returns None."
        )
    if isinstance(error, OSError | IncompleteRead | BadStatusLine) or status is not None or _is_silence(error):
        return TemporaryError(message, "Does the source answer?")
    return ConfigurationError(message, "Correct the reader.")


def _is_broken(error: BaseException) -> bool:
    if isinstance(error, OSError) and (error.errno in _NO_FILE or (type(error) is OSError and not error.errno)):
        return error.errno in _NO_FILE or bool(_CORRUPT.search(described(error)))
    return isinstance(error, _BROKEN) or type(error).__name__ == "ZstdError"


def _is_silence(error: BaseException) -> bool:
    """Tell whether a client was left without an answer; urllib's and requests' errors are OSErrors, others' are not."""
    return any((kind.__module__.partition(".")[0], kind.__name__) in _SILENCE for kind in type(error).__mro__)


def _http_status(error: BaseException) -> int | None:
    """Return the status of an answer that urllib, requests or httpx made an exception of."""
    if isinstance(error, HTTPError):
        return error.code
    if type(error).__module__.partition(".")[0] in {"requests", "httpx"}:
        status = getattr(getattr(error, "response", None), "status_code", None)
        return status if isinstance(status, int) else None
    return None


@contextmanager
def put_back() -> Iterator[None]:
    """Give the process back what a reader has changed for itself: folder, variables, umask, closed output."""
    folder, variables, mask = Path.cwd(), dict(os.environ), os.umask(0o077)
    os.umask(mask)
    # closed, their numbers would be those of the next files: the lake's connection would be standard output
    kept = {number: os.dup(number) for number in (1, 2)}
    try:
        yield
    finally:
        for number, copy in kept.items():
            os.dup2(copy, number)
            os.close(copy)
        for name, number in (("stdout", 1), ("stderr", 2)):
            if getattr(sys, name).closed:
                setattr(sys, name, os.fdopen(os.dup(number), "w", buffering=1))
        os.umask(mask)
        os.chdir(folder)
        # no other name is touched: threads of libraries may be reading them
        for name in os.environ.keys() - variables.keys():
            del os.environ[name]
        os.environ.update({name: text for name, text in variables.items() if os.environ.get(name) != text})
