"""Who the challenger answers for: stable, even, and growing with its share."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from evergreen.serving.split import bucket, in_challenger

KEYS = st.lists(st.text() | st.integers() | st.none(), min_size=1, max_size=3)
FALSE_ALARM = 1e-6


@given(st.text(), KEYS)
def test_a_bucket_is_one_number_below_one(salt: str, key: list[str | int | None]) -> None:
    assert 0 <= bucket(salt, key) < 1
    assert bucket(salt, key) == bucket(salt, tuple(key))


@given(st.text(), KEYS, st.floats(0, 1), st.floats(0, 1))
def test_who_is_in_stays_in_when_the_share_grows(
    salt: str, key: list[str | int | None], one: float, two: float
) -> None:
    small, large = sorted((one, two))
    assert in_challenger(salt, key, large) or not in_challenger(salt, key, small)
    assert in_challenger(salt, key, 1)
    assert not in_challenger(salt, key, 0)


@pytest.mark.parametrize("salt", ["", "a", "b", "experiment-17"])
def test_the_buckets_are_even(salt: str) -> None:
    counts = [0] * 100
    for number in range(50_000):
        counts[int(bucket(salt, [number]) * 100)] += 1
    assert stats.chisquare(counts).pvalue > FALSE_ALARM


def test_salts_split_independently() -> None:
    table = [[0, 0], [0, 0]]
    for number in range(20_000):
        table[in_challenger("one", [number], 0.5)][in_challenger("two", [number], 0.5)] += 1
    assert stats.chi2_contingency(table).pvalue > FALSE_ALARM


def test_keys_are_not_confused() -> None:
    keys = [("a", "b"), ("ab",), ("a,b",), ('a","b',), (5,), ("5",), (None,), ("null",), ("b", "a"), ("\ud800",)]
    assert len({bucket("s", key) for key in keys}) == len(keys)
    assert bucket("s", (5.0,)) == bucket("s", (5,))


def test_every_process_splits_alike() -> None:
    program = "from evergreen.serving.split import bucket; print(bucket('salt', ['JFK-ü', 7]))"
    found = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert found == {f"{bucket('salt', ['JFK-ü', 7])}\n"}
