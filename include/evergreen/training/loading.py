"""The one way from the registry to predictions: verified, then loaded, and by this loader alone.

What MLflow would load is named by the file MLmodel, which may name a pickle. Here nothing is read but the files that
`evergreen.training.tracking` writes, in the copy that was verified.
"""

from __future__ import annotations

import runpy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

from evergreen.contract import Manifest, Output
from evergreen.handover import disagreement
from evergreen.training.registry import Version
from evergreen.training.scorer import Scorer
from evergreen.training.signatures import stated_of_run, stated_of_version, verified_files
from evergreen.trust.statement import Statement

FILES = "artifacts/model"
"""Where the files of a model lie in the folder that MLflow logs."""
DIGEST = "model_digest"
"""The fact that says what these files are, whichever run they were logged in."""


def load_version(version: Version) -> Scorer:
    """Load a registered version, once its signature, its files and its tags are verified.

    Raises
    ------
    UntrustedError
        If anything about it is not what ``register`` has signed.
    """
    return _load(stated_of_version(version), version.uri)


def load_run(model: str, run_id: str) -> Scorer:
    """Load the model of a run, once it is verified that it is what was signed there.

    Raises
    ------
    UntrustedError
        If it is not.
    """
    return _load(stated_of_run(model, run_id), f"runs:/{run_id}/model")


def load_trained(trained: Manifest, model: Output) -> Scorer:
    """Load the model of a run, once it is verified that it is what ``train`` has signed.

    Parameters
    ----------
    trained
        The manifest of ``train``.
    model
        Its output.

    Raises
    ------
    UntrustedError
        If anything about it is not what ``train`` has signed.
    DataError
        If the manifest is about another model.
    """
    statement = stated_of_run(trained.model, str(trained.facts["run_id"]))
    if (digest := statement.bound.facts.get(DIGEST)) != model.digest:
        raise disagreement(trained, model, "digest", f"{digest!r} was signed")
    return _load(statement, model.uri)


def _load(statement: Statement, name: str) -> Scorer:
    with verified_files(statement, name) as folder:
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        return replace(read_model(folder / FILES, name, statement), size=size)


def read_model(files: Path, name: str, statement: Statement) -> Scorer:
    """Load a model's files, which are verified; they may be removed afterwards."""
    # run and not imported: every model keeps its own version, however many there are in one process
    code = SimpleNamespace(**runpy.run_path(str(files / "encoder.py"), run_name="evergreen_encoder"))
    encoder, network = code.load(files)
    return Scorer(name, encoder, lambda frame: code.predict(network, encoder, frame), statement.bound)
