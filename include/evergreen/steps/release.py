"""``release``: let rows out of quarantine that are right in spite of what was expected, because a person says so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from evergreen.contract import ConfigurationError, Request, Result
from evergreen.data.expectations import load_suite, warnings_in
from evergreen.data.lake import get_lake
from evergreen.data.quarantine import quarantined, reasons_of, row_digests
from evergreen.judgement.audit import read_events
from evergreen.judgement.decisions import event_of
from evergreen.judgement.events import Event, EventKind, Release
from evergreen.judgement.releases import exemptions, is_exempt, write_release
from evergreen.spec import ModelSpec, Source
from evergreen.store import get_store

_MOST_ROWS = 10_000
"""Of one release: an expectation that more rows fail and should not is itself to be corrected."""
_MOST_NAMED = 5

_Held = tuple[str, frozenset[str]]
"""A row in quarantine: the digest of its content, and the reasons."""


def run(request: Request, spec: ModelSpec) -> Result:
    """Log that rows of ``source`` need not meet what they fail: all rows, or those that are held for ``reason``.

    ``by`` and ``why`` are kept. No row moves: ``publish`` asks the log, so the partition has to be ingested again. Only
    expectations of severity ``warning`` can be waived. Released twice is released once; run again, it says what it did.

    Raises
    ------
    ConfigurationError
        If what is to be released is not there, or is held by more than an expectation; the message says what there is.
    """
    source = spec.source(str(request.params.get("source") or ""))
    why = str(request.params.get("why") or "").strip()
    if not why:
        raise ConfigurationError(f"release of {spec.name}: why: it is missing.", "Say why, for whoever asks later.")
    if request.window.days > 1:
        raise ConfigurationError(f"release of {spec.name}: {request.window} is not one day.", "Release day by day.")
    rows = quarantined(spec.name, source, request.partition)
    held = list(zip(row_digests(rows, source), reasons_of(rows), strict=True))
    events = read_events(get_store(), spec.name)
    warnings = warnings_in(load_suite(source, spec)) if held else {}
    event = _on_record(request, source, events, held)
    if event is None:
        exempt = _chosen(request, source, _waivable(request, spec, source, held, warnings))
        by = str(request.params.get("by") or request.run.run_id)
        release = Release(source=source.name, exempt=exempt, asked={name: warnings[name] for name in exempt})
        fields = {"training": "", "by": by, "why": why, "release": release}
        event = write_release(get_store(), event_of(request, EventKind.QUARANTINE_RELEASED, **fields))
    exempt_now = exemptions([*events, event], source.name)
    assert event.release is not None  # noqa: S101  # only such events are taken
    return Result(
        facts={
            "source": source.name,
            "partition": str(request.partition),
            "rows": event.release.rows,
            "exempt": {name: len(digests) for name, digests in event.release.exempt.items()},
            "stay": sum(not is_exempt(_asked(reasons, warnings), digest, exempt_now) for digest, reasons in held),
            "by": event.by,
            "why": event.why,
            "event": event.number,
        }
    )


def _on_record(request: Request, source: Source, events: Sequence[Event], held: Sequence[_Held]) -> Event | None:
    """Return what this very run has logged before, or the last release of a day that has no such rows any more."""
    alike = [event for event in reversed(events) if event.release and event.release.source == source.name]
    of_this_run = (event for event in alike if event.run == request.run)
    of_the_day = (event for event in alike if event.partition == request.partition and not held)
    return next(of_this_run, None) or next(of_the_day, None)


def _asked(reasons: frozenset[str], warnings: Mapping[str, str]) -> frozenset[str]:
    """Return the digests of what keeps a row back; what is no warning stays its name, of which nobody is exempt."""
    return frozenset(warnings.get(name, name) for name in reasons)


def _waivable(
    request: Request, spec: ModelSpec, source: Source, held: Sequence[_Held], warnings: Mapping[str, str]
) -> Mapping[str, set[str]]:
    """Return the rows that nothing but warnings keeps back, by the names of these.

    Raises
    ------
    ConfigurationError
        If there are none.
    """
    where = f"{source.name} of {request.partition}"
    if not held:
        days = get_lake().partitions(spec.name, f"{source.name}_quarantine")[-_MOST_NAMED:]
        there = ", ".join(f"{day} ({rows})" for day, rows in days) or "none"
        raise ConfigurationError(
            f"{spec.name}: no rows of {where} are in quarantine.", f"The newest days that have some: {there}."
        )
    found: dict[str, set[str]] = {}
    for digest, reasons in held:
        for name in reasons if reasons <= warnings.keys() else ():
            found.setdefault(name, set()).add(digest)
    if not found:
        why = "; ".join(sorted(frozenset[str]().union(*(reasons for _, reasons in held)))[:_MOST_NAMED])
        raise ConfigurationError(
            f"{spec.name}: no row of {where} can be released: {why}.",
            f"Only what a warning in {source.expectations} keeps back can. Correct the source, or that file if it has "
            f"changed since, then run {spec.name}.ingest for the day.",
        )
    return found


def _chosen(request: Request, source: Source, waivable: Mapping[str, set[str]]) -> dict[str, tuple[str, ...]]:
    """Return what the request asks for of the rows that can be released.

    Raises
    ------
    ConfigurationError
        If nothing is held for that reason, or it is too much for one release.
    """
    reason = str(request.params.get("reason") or "")
    if reason and reason not in waivable:
        there = ", ".join(f"{name} ({len(digests)} rows)" for name, digests in sorted(waivable.items()))
        raise ConfigurationError(
            f"{request.model}: no row of {source.name} of {request.partition} can be released from {reason!r}.",
            f"Reasons: {there}.",
        )
    chosen = {name: tuple(sorted(digests)) for name, digests in sorted(waivable.items()) if reason in {"", name}}
    count = Release(source=source.name, exempt=chosen).rows
    if count > _MOST_ROWS:
        raise ConfigurationError(
            f"{request.model}: {count:,} rows are more than one release takes, {_MOST_ROWS:,}.",
            f"What so many rows fail and should not is wrong itself: correct {source.expectations}, then run "
            f"{request.model}.ingest for the day.",
        )
    return chosen
