"""Which rows the challenger answers: by a hash of the entity, so that one entity always gets the same version.

An entity that the challenger answered at a small share is answered by it at every larger one. Another experiment has
another salt, and so another half of the entities.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

from evergreen.serving.requests import Value

_BITS = 53
"""Of a float's mantissa: more would round up to 1."""


def bucket(salt: str, key: Sequence[Value]) -> float:
    """Return where an entity lies in [0, 1), the same in every process.

    Parameters
    ----------
    salt
        Of the experiment.
    key
        The entity's values, checked: 5 and "5" are two entities, 5 and 5.0 are one.
    """
    plain = [int(value) if isinstance(value, float) and value.is_integer() else value for value in key]
    text = json.dumps([salt, *plain], separators=(",", ":"))  # ASCII, so that any text has an encoding
    number = int.from_bytes(hashlib.sha256(text.encode("ascii")).digest()[:8])
    return (number >> (64 - _BITS)) / (1 << _BITS)


def in_challenger(salt: str, key: Sequence[Value], share: float) -> bool:
    """Tell whether the challenger answers for an entity, when it has this share of them."""
    return bucket(salt, key) < share
