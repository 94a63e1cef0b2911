"""What every artifact store promises when many processes write at once."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from evergreen.store import ArtifactStore

WRITERS = 8


def assert_one_creates(store: ArtifactStore, key: str) -> None:
    """Of many that create a key one does, and what it wrote stays whole."""
    values, made = _race(lambda value: store.create(key, value), size=500_000)
    assert made.count(True) == 1
    assert store.read(key) == values[made.index(True)]
    assert not store.create(key, b"x")


def assert_one_replaces(store: ArtifactStore) -> None:
    """Of many that replace the same version one does."""
    store.write("k", b"old")
    values, made = _race(lambda value: store.replace("k", b"old", value), size=1)
    assert made.count(True) == 1
    assert store.read("k") == values[made.index(True)]
    assert (store.replace("none", b"", b"x"), store.read("none")) == (False, None)


def _race(put: Callable[[bytes], bool], size: int) -> tuple[list[bytes], list[bool]]:
    values = [bytes([letter]) * size for letter in range(65, 65 + WRITERS)]
    with ThreadPoolExecutor(WRITERS) as pool:
        return values, list(pool.map(put, values))
