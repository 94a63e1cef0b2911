"""How far somebody with the key has verified a log, signed: so far a reader needs no other signature.

docs/decisions/audit.md argues why that is as safe for whoever decides on the log.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence, Set
from dataclasses import dataclass

from evergreen.store import ArtifactStore
from evergreen.trust.chain import Record, canonical
from evergreen.trust.keys import UntrustedError, sign, verification_keys, verify

log = logging.getLogger(__name__)

PAYLOAD_TYPE = "application/vnd.evergreen.audit-checkpoint+json"
RULES = 1
"""What `evergreen.trust.chain.faults` looks for: raised when that becomes more, so that all is looked at again."""
WORTH = 200
"""So many signatures cost as much as a request to the artifact store: fewer are verified one by one."""


@dataclass(frozen=True)
class Checkpoint:
    """What was verified, and by which standards."""

    model: str
    number: int
    hash: str
    """Of the record of that number: it covers all that come before."""
    kinds: Sequence[str]
    """The kinds of events that had to be signed."""
    keys: Sequence[str]
    """The ids of the keys that were believed."""
    rules: int = RULES

    def covers(self, model: str, records: Sequence[Record], kinds: Set[str]) -> bool:
        """Tell whether it is about these records, and whoever made it was as strict as this process is."""
        as_strict = (self.model, self.rules) == (model, RULES) and kinds <= set(self.kinds)
        believed = set(self.keys) <= verification_keys().keys()  # one that is not any more may have signed any of them
        return as_strict and believed and any((self.number, self.hash) == (one.number, one.hash) for one in records)


def checkpoint_key(model: str) -> str:
    """Return the artifact key of a log's checkpoint."""
    return f"audit/{model}/checkpoint.json"


def verified_up_to(store: ArtifactStore, model: str, records: Sequence[Record], kinds: Set[str]) -> int:
    """Return up to which number the signatures of records are known to be good, 0 if all are to be verified.

    A checkpoint that is lost, forged, another model's or made by other standards is none: it only saves time.
    """
    envelope = store.read(checkpoint_key(model)) if len(records) > WORTH else None
    if envelope is None:
        return 0
    try:
        found = Checkpoint(**json.loads(verify(envelope, PAYLOAD_TYPE, store.uri(checkpoint_key(model)))))
    except (UntrustedError, TypeError) as error:  # TypeError: of a version that says more
        log.warning("the checkpoint of the audit log of %s is not used: %s", model, error)
        return 0
    return found.number if found.covers(model, records, kinds) else 0


def write_checkpoint(store: ArtifactStore, record: Record, kinds: Set[str], one_by_one: int) -> None:
    """Leave word that everything up to a record was verified by this process, which has the key, if that is worth it.

    Parameters
    ----------
    store
        Where to leave it.
    record
        What this process has added to what it had verified.
    kinds
        The kinds of events that had to be signed.
    one_by_one
        How many records no earlier checkpoint stood for.
    """
    if one_by_one < WORTH:
        return
    about = Checkpoint(record.model, record.number, record.hash, sorted(kinds), sorted(verification_keys()))
    store.write(checkpoint_key(record.model), sign(canonical(vars(about)).encode(), PAYLOAD_TYPE).encode())
