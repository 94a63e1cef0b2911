"""What a person is shown of the evaluation: its slices and its pictures, read from the artifact store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256

from evergreen.contract import DataError, RunIdentity
from evergreen.handover import read_bytes
from evergreen.judgement.evidence import PICTURES, Evaluation
from evergreen.store import get_store, parse_document, read_manifest


@dataclass(frozen=True)
class Evidence:
    """An evaluation as the gate has judged it.

    Parameters
    ----------
    evaluation
        What was found.
    digest
        The SHA-256 of its document.
    pictures
        Name to the SHA-256 of each.
    run
        The task that has left them.
    """

    evaluation: Evaluation
    digest: str
    run: RunIdentity
    pictures: Mapping[str, str] = field(default_factory=dict)


def evidence_of(run: RunIdentity, judged: str) -> Evidence:
    """Return what the task ``evaluate`` has left.

    Parameters
    ----------
    run
        That task.
    judged
        The digest of what the gate has judged, as it told Airflow; empty: it told none.

    Raises
    ------
    DataError
        If something is gone, or is not what was left or judged.
    """
    manifest = read_manifest(get_store(), run)
    if manifest is None:
        raise DataError(f"{run.manifest_key} is gone: nobody can be shown the evaluation.", "Clear evaluate.")
    output = manifest.output("evaluation")
    if judged and output.digest != judged:
        raise DataError(
            f"{output.uri} has the digest {output.digest!r}, and the gate has judged {judged!r}.",
            "It was evaluated again since: clear gate.",
        )
    content = read_bytes(manifest, "evaluation")
    there = {output.name for output in manifest.outputs}
    return Evidence(
        parse_document(content, output.uri, Evaluation, "an evaluation", "Run evaluate again."),
        sha256(content).hexdigest(),
        run,
        {name: sha256(read_bytes(manifest, name)).hexdigest() for name in PICTURES if name in there},
    )
