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
from evergreen.trust.keys import ChangedError, UnsignedError, signing_key, verification_keys
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
            f"Is it of before models were signed? evergreen rollback {version.model} --to none, then train it.",
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


def verify_openssf(folder: Path, signature: Path, what: str) -> None:
    """Verify a folder with its signature in the format of the OpenSSF, as a stranger does.

    Raises
    ------
    ChangedError
        If none of the keys that are believed has signed these files.
    """
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
    from model_signing.verifying import Config

    problems = []
    for key in verification_keys().values():
        pem = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        verifying = Config()  # type: ignore[no-untyped-call]
        try:
            with _as_file(pem) as file:
                verifying.use_elliptic_key_verifier(public_key=file)
            verifying.verify(folder, signature)
        except (ValueError, InvalidSignature) as error:
            problems.append(str(error) or type(error).__name__)
        else:
            return
    raise ChangedError(f"{what}: {OPENSSF_FILE} does not verify: {problems[0]}", "Restore it from a backup.")


@contextmanager
def _as_file(content: bytes) -> Iterator[str]:
    """Give a library that wants a file what belongs on no disk."""
    reader, writer = os.pipe()
    try:
        os.write(writer, content)
        os.close(writer)
        yield f"/dev/fd/{reader}"
    finally:
        os.close(reader)


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

    pem = signing_key("A model").private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    signing = Config()  # type: ignore[no-untyped-call]  # model_signing has few types
    with _as_file(pem) as file:
        signing.use_elliptic_key_signer(private_key=file)
    signing.sign(folder, signature)
