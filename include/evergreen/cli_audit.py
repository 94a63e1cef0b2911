"""The ``evergreen audit`` commands: whether the audit log is what was written, what is in it, and a copy of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from evergreen.contract import ConfigurationError

if TYPE_CHECKING:
    from evergreen.trust.chain import Record

audit_app = typer.Typer(no_args_is_help=True, help="Verify, show and export the audit log.")

_Model = Annotated[str | None, typer.Argument(help="Only this model's log.")]


@audit_app.command()
def verify(
    model: _Model = None,
    file: Annotated[
        Path | None, typer.Option(help="A copy that `evergreen audit export` has made: it alone is verified.")
    ] = None,
) -> None:
    """Say whether each log is what was written; exit code 78 and a sentence for everything that is not.

    For a copy the public keys are enough (EVERGREEN_VERIFICATION_KEYS): no database and no artifact store is asked.
    """
    if file is not None:
        _verify_copy(file, model)
        return
    from evergreen.judgement.audit import log_of
    from evergreen.store import get_store

    broken = [name for name in _models(model) if _tell(name, *log_of(get_store(), name).audit())]
    if broken:
        raise ConfigurationError(
            f"The audit log of {', '.join(broken)} is not as it was written.",
            "docs/troubleshooting.md, section 'The audit log is broken', tells what to do.",
        )


def _verify_copy(file: Path, model: str | None) -> None:
    from evergreen.judgement.copies import verified_copy

    logs, wrong_lines = verified_copy(file)
    chosen = [log for log in logs if model in {None, log.model}]
    for finding in wrong_lines:
        typer.echo(f"{finding}.")
    if not chosen and not wrong_lines:
        there = ", ".join(log.model for log in logs) or "none: it is empty"
        raise ConfigurationError(
            f"{file}: it has no record{f' of {model}' if model else ''}.", f"Models in it: {there}."
        )
    broken = [log.model for log in chosen if _tell(log.model, log.records, log.findings, whole=not wrong_lines)]
    if broken or wrong_lines:
        raise ConfigurationError(
            f"{file} is not what was written.",
            "Compare it with another copy, and with the log itself: evergreen audit verify.",
        )


def _tell(model: str, records: Sequence[Record], findings: Sequence[str], *, whole: bool = True) -> bool:
    """Print what was found; returns whether anything was. ``whole``: whether all that is there could be read."""
    signed = sum(record.signature is not None for record in records)
    sound = "ok" if whole else "no finding in the lines that can be read"
    outcome = f"{len(findings)} finding(s)" if findings else sound
    typer.echo(f"{model}: {outcome}: {len(records)} records, {signed} of them signed")
    for finding in findings:
        typer.echo(f"  {finding}.")
    return bool(findings)


@audit_app.command()
def show(model: Annotated[str, typer.Argument(help="The model's name.")]) -> None:
    """Show every record of a model: number, time, what happened, by whom, who signed it."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from evergreen.trust.audit_log import records_of

    table = Table.grid(padding=(0, 2))
    for record in records_of(model):
        body = record.body
        what = " ".join([str(body.get("kind")), *_about(body)])
        who = body.get("by") or (body.get("run") or {}).get("task_id")
        why = body.get("why") or (body.get("judgement") or {}).get("why", "")
        below = f"by {who}; {_signature(record)}; {record.hash[:12]}"
        text = "\n".join(filter(None, (what, why, below, "")))
        table.add_row(str(record.number), f"{record.at:%Y-%m-%d %H:%M:%S}", escape(text))
    Console().print(table)


def _about(body: Mapping[str, Any]) -> Iterator[str]:
    """Yield what an event is about, beside the model."""
    if body.get("version"):
        yield f"version {body['version']}"
    if release := body.get("release"):
        yield f"{release['source']} of {body.get('partition')}"


@audit_app.command()
def export(
    file: Annotated[Path, typer.Argument(help="The file to write, a record a line (.jsonl); - is standard output.")],
    model: Annotated[str | None, typer.Option(help="Only this model's log.")] = None,
) -> None:
    """Copy the log as it is, signatures and all: whoever has the public key can verify the copy."""
    from evergreen.judgement.copies import lines_of
    from evergreen.store import get_store

    models = list(_models(model))
    lines = list(lines_of(get_store(), models))
    text = "".join(f"{line}\n" for line in lines)
    if str(file) == "-":
        typer.echo(text, nl=False)
        return
    try:
        file.write_text(text)
    except OSError as error:
        raise ConfigurationError(f"{file}: {error.strerror}.", "Name a file that can be written.") from error
    typer.echo(f"{file}: {len(lines) - len(models)} records")


def _models(model: str | None) -> Iterator[str]:
    from evergreen.catalog import load_model
    from evergreen.judgement.audit import models_with_events
    from evergreen.store import get_store

    known = models_with_events(get_store())
    if model is not None and model not in known:
        load_model(model)  # one that has nothing on record is no mistake; one that does not exist is
    yield from [model] if model is not None else known


def _signature(record: Record) -> str:
    import json

    if record.signature is None:
        return "an observation, not signed"
    keys = [str(one.get("keyid"))[:12] for one in json.loads(record.signature).get("signatures", [])]
    return f"signed by key {', '.join(keys)}"
