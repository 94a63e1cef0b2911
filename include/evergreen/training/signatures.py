"""The signatures beside a model in MLflow: written by those who have the key, read before anything else is.

They are artifacts of the run, in the folder ``signatures``: ``model.json`` is what ``train`` states of the folder it
logged, ``<model>-<number>.json`` what ``register`` states of a version. ``model.sig`` is a signature in the format of
the OpenSSF, for whoever verifies with ``model_signing`` alone.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from evergreen.training.registry import Version, connect, mlflow_errors
from evergreen.trust.keys import SIGNING_KEY, UnsignedError, signing_key
from evergreen.trust.statement import Bound, Statement

FOLDER = "signatures"
MODEL_FILE, OPENSSF_FILE = "model.json", "model.sig"


def version_file(version: Version) -> str:
    """Return the name of the file with the statement about a version."""
    return f"{version.model}-{version.number}.json"


def sign_model(folder: Path, bound: Bound) -> None:
    """Sign the folder of a model before it leaves this process, and keep the signatures in its run."""
    statement = Statement.of(folder, bound)
    with TemporaryDirectory() as place:
        _write_openssf(folder, Path(place) / OPENSSF_FILE)
        _log(bound.run_id, Path(place) / OPENSSF_FILE)
    _store(statement, MODEL_FILE)


def sign_version(signed: Statement, version: Version, facts: dict[str, str]) -> None:
    """State that the files that ``train`` signed are a version, and what is to be known of it."""
    bound = signed.bound.model_copy(update={"version": version.number, "facts": facts})
    _store(signed.model_copy(update={"bound": bound}), version_file(version))


def stated_of_run(model: str, run_id: str) -> Statement:
    """Return what ``train`` has signed of a run's model.

    Raises
    ------
    UntrustedError
        If it has signed nothing, or what is there is not to be believed.
    """
    what = f"runs:/{run_id}/model"
    statement = Statement.verified(_read(run_id, MODEL_FILE), what)
    statement.check_bound(what, model=model, run_id=run_id, version="")
    return statement


def stated_of_version(version: Version) -> Statement:
    """Return what ``register`` has signed of a version; its tags say the same.

    Raises
    ------
    UntrustedError
        If it has signed nothing, or what is there is not to be believed.
    """
    envelope = _read(version.run_id, version_file(version))
    if envelope is None:
        raise UnsignedError(
            f"{version.uri} is not signed, and is not loaded.",
            f"Was it registered before models were signed? Take its alias away in MLflow, then train {version.model}.",
        )
    statement = Statement.verified(envelope, version.uri)
    statement.check_bound(version.uri, model=version.model, version=version.number, run_id=version.run_id)
    statement.check_facts(version.uri, version.tags)
    return statement


@contextmanager
def verified_files(statement: Statement, what: str) -> Iterator[Path]:
    """Fetch the files that a statement is about into a folder of one's own, and verify them there.

    Raises
    ------
    ChangedError
        If they are not those that were signed.
    """
    import mlflow

    with TemporaryDirectory() as place:
        with mlflow_errors():
            source = connect().get_logged_model(statement.bound.logged_model).artifact_location
            folder = Path(mlflow.artifacts.download_artifacts(artifact_uri=source, dst_path=place))
        statement.check_files(folder, what)
        yield folder


def fetch(run_id: str, name: str, folder: Path) -> Path | None:
    """Fetch a signature of a run, as it is, into a folder; None if there is none."""
    import mlflow

    with mlflow_errors():
        if f"{FOLDER}/{name}" not in {file.path for file in connect().list_artifacts(run_id, FOLDER)}:
            return None
        path = mlflow.artifacts.download_artifacts(
            run_id=run_id, artifact_path=f"{FOLDER}/{name}", dst_path=str(folder)
        )
    return Path(path)


def _read(run_id: str, name: str) -> bytes | None:
    with TemporaryDirectory() as place:
        path = fetch(run_id, name, Path(place))
        return path.read_bytes() if path else None


def _store(statement: Statement, name: str) -> None:
    with TemporaryDirectory() as place:
        path = Path(place) / name
        path.write_text(statement.signed(), encoding="utf-8")
        _log(statement.bound.run_id, path)


def _log(run_id: str, path: Path) -> None:
    with mlflow_errors():
        connect().log_artifact(run_id, str(path), FOLDER)


def _write_openssf(folder: Path, signature: Path) -> None:
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
    from model_signing.signing import Config

    pem = signing_key(f"A model ({SIGNING_KEY})").private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    reader, writer = os.pipe()  # the library wants a file, and the key belongs on no disk
    try:
        os.write(writer, pem)
        os.close(writer)
        signing = Config()  # type: ignore[no-untyped-call]  # model_signing has few types
        signing.use_elliptic_key_signer(private_key=f"/dev/fd/{reader}")
    finally:
        os.close(reader)
    signing.sign(folder, signature)
