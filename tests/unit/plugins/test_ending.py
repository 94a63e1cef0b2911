"""What the last lines of a crashed process tell."""

from __future__ import annotations

import subprocess
import sys

import pytest

from evergreen_airflow.ending import LastWords

RAY = """\
*** SIGSEGV received at time=1795974334 on cpu 0 ***
PC: @     0x7ff886d85ad8  (unknown)  getenv
    @     0x7ff886c5a050  (unknown)  (unknown)
Fatal Python error: Segmentation fault

Stack (most recent call first):
  File "/venv/lib/python3.11/site-packages/ray/_private/worker.py", line 519 in connect
  File "/app/include/evergreen/training/private_ray.py", line 9 in private_ray

Extension modules: ray._raylet, numpy.core (total: 2)
"""


def last_words(text: str, lines: int | None = None) -> LastWords:
    words = LastWords(lines)
    for line in text.splitlines():
        words.read(line)
    return words


def report(text: str) -> str:
    return last_words(text).crash


def test_native_function_and_library_are_named() -> None:
    assert report(RAY) == "Segmentation fault in getenv, called from ray/_private/worker.py:519 in connect"
    assert report(RAY.replace("getenv", "(unknown)")).startswith("Segmentation fault, called from ray/")


def test_last_crash_counts() -> None:
    later = 'Fatal Python error: Aborted\n  File "/a/b/c.py", line 1 in f\n  File "/d.py", line 2 in g\n'
    assert report(RAY.replace("getenv", "(unknown)") + later) == "Aborted, called from b/c.py:1 in f"


def test_traceback_of_an_exception_is_no_crash() -> None:
    assert report('Traceback (most recent call last):\n  File "/a.py", line 1 in f\nKeyError: 1\n') == ""


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("one\nExtension modules: a, b (total: 2)\n\n", "one"),
        ("one\nKeyError: 1", "KeyError: 1"),
        ("error: no rows\nguardian: out of memory\nlast", "guardian: out of memory"),
        ("error: long ago\n1\n2\n3", "3"),
        ("", ""),
    ],
)
def test_the_line_that_says_most_is_kept_and_the_list_of_modules_says_nothing(text: str, words: str) -> None:
    assert str(last_words(text, 3)) == words


def test_every_line_counts_unless_a_number_is_given() -> None:
    assert str(last_words("error: long ago\n1\n2\n3")) == "error: long ago"


def test_this_pythons_report_is_understood() -> None:
    code = "import faulthandler, ctypes; faulthandler.enable(all_threads=False); ctypes.string_at(0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == -11
    assert report(done.stderr).startswith("Segmentation fault, called from ctypes/__init__.py:")
