"""What a person is shown of the evaluation: its slices and its pictures, read from the artifact store."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256

from evergreen.contract import DataError, Manifest, RunIdentity
from evergreen.handover import read_bytes
from evergreen.judgement.evidence import Evaluation
from evergreen.pipelines import PICTURES
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
    run
        The task that has left it.
    """

    evaluation: Evaluation
    digest: str
    run: RunIdentity

    @property
    def pictures(self) -> dict[str, str]:
        """Name to the SHA-256 of each, as the evaluation says."""
        return {name: digest for name, digest in self.evaluation.pictures.items() if name in PICTURES}


def evidence_of(run: RunIdentity, judged: str) -> Evidence:
    """Return what the task ``evaluate`` has left.

    Parameters
    ----------
    run
        That task.
    judged
        The digest of what the gate has judged, as it has left it.

    Raises
    ------
    DataError
        If something is gone, or is not what was left or judged.
    """
    manifest = manifest_of(run)
    output = manifest.output("evaluation")
    if output.digest != judged:
        raise DataError(
            f"{output.uri} has the digest {output.digest!r}, and the gate has judged {judged!r}.",
            "It was evaluated again since: clear gate.",
        )
    content = read_bytes(manifest, "evaluation")
    evaluation = parse_document(content, output.uri, Evaluation, "an evaluation", "Run evaluate again.")
    evidence = Evidence(evaluation, sha256(content).hexdigest(), run)
    for name, digest in evidence.pictures.items():
        found = sha256(read_bytes(manifest, name)).hexdigest()
        if found != digest:
            raise DataError(
                f"{manifest.output(name).uri} has the SHA-256 {found}, and the evaluation says {digest}.",
                "It was changed: clear evaluate.",
            )
    return evidence


def manifest_of(run: RunIdentity) -> Manifest:
    """Return what a step has left that a question tells of.

    Raises
    ------
    DataError
        If it is gone.
    """
    manifest = read_manifest(get_store(), run)
    if manifest is None:
        raise DataError(f"{run.manifest_key} is gone: nobody can be asked about it.", f"Clear {run.task_id}.")
    return manifest
