"""Rows that people have released from quarantine: the exemptions that the audit log holds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from evergreen.judgement.audit import append
from evergreen.judgement.events import Event, EventKind
from evergreen.store import ArtifactStore


def exemptions(events: Iterable[Event], source: str) -> Mapping[str, frozenset[str]]:
    """Return which expectations rows of a source need not meet: digests of what they ask, by the digest of the row.

    Only rows of exactly that content are exempt, from exactly what was asked of them: a row that was corrected has
    another digest, and so has an expectation with another limit.
    """
    exempt: dict[str, frozenset[str]] = {}
    for release in (event.release for event in events if event.kind is EventKind.QUARANTINE_RELEASED):
        if release is not None and release.source == source:
            for name, asked in release.asked.items():
                digests = release.exempt.get(name, ())
                exempt |= {digest: exempt.get(digest, frozenset()) | {asked} for digest in digests}
    return exempt


def is_exempt(asked: frozenset[str], digest: str, exempt: Mapping[str, frozenset[str]]) -> bool:
    """Tell whether a row is exempt from everything that keeps it back."""
    return asked <= exempt.get(digest, frozenset())


def write_release(store: ArtifactStore, event: Event) -> Event:
    """Log a release; returns the one that is on record, which is an earlier one where that says as much."""
    release = event.release
    assert release is not None  # noqa: S101  # whoever calls has made it

    def as_much(events: Sequence[Event]) -> Event | None:
        exempt = exemptions(events, release.source)
        wanted = ((release.asked[name], digest) for name, digests in release.exempt.items() for digest in digests)
        if not all(is_exempt(frozenset({asked}), digest, exempt) for asked, digest in wanted):
            return None
        alike = (known for known in reversed(events) if known.release and known.release.source == release.source)
        return next(known for known in alike if known.partition == event.partition)

    return append(store, event, as_much)
