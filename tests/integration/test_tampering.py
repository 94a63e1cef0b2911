"""A model's folder, signature and tags tampered with in the store: every way in refuses, each with its own sentence."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import mlflow
import pytest

from evergreen.contract import Failure, FailureClass, Request, Window, utc_now
from evergreen.judgement.audit import append
from evergreen.judgement.events import Event, EventKind
from evergreen.runner import execute
from evergreen.settings import SIGNING_KEY, VERIFICATION_KEYS, Settings, get_settings
from evergreen.store import get_store
from evergreen.training.loading import load_version
from evergreen.training.registry import TAG, Version, by_alias, by_number, connect
from evergreen.training.signatures import FOLDER
from evergreen.trust.keys import UntrustedError, new_key
from evergreen.trust.statement import Statement
from isolation import KEYS
from lifecycle_kit import PARTITION, Run, evaluation_rows, training_rows, write_model
from mlflow_kit import serve_mlflow

pytestmark = pytest.mark.integration

BEFORE = Window(start=PARTITION - timedelta(days=59), end=PARTITION - timedelta(days=20))


class Store(NamedTuple):
    """The artifacts of an MLflow as whoever can write to them sees them, and two versions in them."""

    artifacts: Path
    run: Run
    """Of the second version, which is not registered twice."""

    def model(self, number: str) -> Path:
        """Return the folder of a version's model."""
        source = connect().get_model_version(self.run.model, number).source
        return self._path(connect().get_logged_model(source.rpartition("/")[2]).artifact_location)

    def signatures(self, number: str) -> Path:
        """Return the folder of the signatures of a version's run."""
        run_id = by_number(self.run.model, number).run_id
        return self._path(connect().get_run(run_id).info.artifact_uri) / FOLDER

    def _path(self, uri: str) -> Path:
        return self.artifacts / urlsplit(uri).path.lstrip("/")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    folder = tmp_path_factory.mktemp("mlflow")
    with serve_mlflow(folder, [], {}) as url:
        yield url, folder / "artifacts"


@pytest.fixture(scope="module")
def made(server: tuple[str, Path], postgres_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A state folder with two versions of a model, the second of which is champion and waits to be judged again."""
    from isolation import own_settings

    url, _ = server
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch, own_settings(folder, postgres_url, used=("audit",)):
        patch.setenv("EVERGREEN_MODELS_DIR", str(folder / "models"))
        patch.setenv("EVERGREEN_MLFLOW_TRACKING_URI", url)
        get_settings.cache_clear()
        model = write_model(folder / "models", "binary")
        for run_id, epochs in (("first", 40), ("second", 80)):
            run = Run(model, run_id)
            run.assemble()
            run.train_without_ray(training_rows("binary", days=epochs), BEFORE)
            run.leave("gate", metrics={"challenger_auc": 0.9}, facts={"decision": "promoted", "decision_key": run_id})
            run.steps("register")
        where = {"model": model, "partition": PARTITION, "run": run.identity("promote"), "training": run.run_id}
        append(get_store(), Event(kind=EventKind.PROMOTED, at=utc_now(), version="2", **where))
        connect().set_registered_model_alias(model, "champion", "2")
        yield folder


@pytest.fixture
def store(
    made: Path, server: tuple[str, Path], postgres_url: str, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Store]:
    """That store for one test, which may do with it what it likes."""
    url, artifacts = server
    monkeypatch.setenv("EVERGREEN_DATABASE_URL", postgres_url)
    monkeypatch.setenv("EVERGREEN_STATE_DIR", str(made / "state"))
    monkeypatch.setenv("EVERGREEN_MODELS_DIR", str(made / "models"))
    monkeypatch.setenv("EVERGREEN_MLFLOW_TRACKING_URI", url)
    get_settings.cache_clear()
    kept = made / "kept"
    shutil.copytree(artifacts, kept)
    yield Store(artifacts, Run("small_binary", "second"))
    shutil.rmtree(artifacts)
    kept.rename(artifacts)


Tamper = Callable[[Store], None]


def flipped_byte(store: Store) -> None:
    weights = store.model("2") / "artifacts/model/weights.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)


def changed_graph(store: Store) -> None:
    with (store.model("2") / "artifacts/model/model.onnx").open("ab") as graph:
        graph.write(b"\0")


def changed_code(store: Store) -> None:
    with (store.model("2") / "artifacts/model/network.py").open("a") as code:
        code.write("\nraise RuntimeError('it ran')\n")


def changed_encoder(store: Store) -> None:
    file = store.model("2") / "artifacts/model/encoder.json"
    described = json.loads(file.read_text())
    described["encoder"]["mean"]["x"] += 1
    file.write_text(json.dumps(described))


def pickle_flavor(store: Store) -> None:
    folder = store.model("2")
    (folder / "artifacts/model/model.pkl").write_bytes(pickle.dumps(print))
    (folder / "MLmodel").write_text("flavors:\n  python_function:\n    loader_module: mlflow.sklearn\n")


def extra_file(store: Store) -> None:
    cache = store.model("2") / "artifacts/model/__pycache__"
    cache.mkdir()
    (cache / "network.cpython-311.pyc").write_bytes(b"code")


def missing_file(store: Store) -> None:
    (store.model("2") / "requirements.txt").unlink()


def other_version(store: Store) -> None:
    shutil.rmtree(store.model("2"))
    shutil.copytree(store.model("1"), store.model("2"))


def unsigned(store: Store) -> None:
    shutil.rmtree(store.signatures("2"))


def replayed(store: Store) -> None:
    """The whole of another version, its folder with its valid signatures, under the names of this one."""
    other_version(store)
    shutil.copyfile(store.signatures("1") / "model.json", store.signatures("2") / "model.json")
    shutil.copyfile(store.signatures("1") / "small_binary-1.json", store.signatures("2") / "small_binary-2.json")


def edited_statement(store: Store) -> None:
    for file in store.signatures("2").glob("*.json"):
        envelope = json.loads(file.read_text())
        file.write_text(json.dumps(envelope | {"payload": envelope["payload"][:-8] + "AAAAAAA="}))


def wrong_key(store: Store) -> None:
    """Signed again, all of it and well, by somebody else."""
    with pytest.MonkeyPatch.context() as patch:
        for file in store.signatures("2").glob("*.json"):
            patch.setenv(VERIFICATION_KEYS, KEYS[1])
            get_settings.cache_clear()
            statement = Statement.verified(file.read_bytes(), "it")
            private, public = new_key()
            patch.setenv(SIGNING_KEY, private)
            patch.setenv(VERIFICATION_KEYS, public)
            get_settings.cache_clear()
            file.write_text(statement.signed())
    get_settings.cache_clear()


TAMPERED: dict[Tamper, str] = {
    flipped_byte: "weights.safetensors was changed after it was signed",
    changed_graph: "model.onnx was changed after it was signed",
    changed_code: "network.py was changed after it was signed",
    changed_encoder: "encoder.json was changed after it was signed",
    pickle_flavor: "MLmodel was changed after it was signed",
    extra_file: "__pycache__/network.cpython-311.pyc was not there when the model was signed",
    missing_file: "requirements.txt is missing",
    other_version: "was changed after it was signed",
    unsigned: "is not signed, and is not",
    replayed: "its signature is that of",
    edited_statement: "was changed after it was signed",
    wrong_key: "which is not one of those in EVERGREEN_VERIFICATION_KEYS",
}


def champion_as_evaluate_loads_it(store: Store) -> Failure | None:
    """Another challenger comes, and is compared with the champion."""
    challenger = Run(store.run.model, "third")
    challenger.assemble()
    challenger.train_without_ray(training_rows("binary"), BEFORE)
    return challenger.step("evaluate").failure


def challenger_as_evaluate_loads_it(store: Store) -> Failure | None:
    return store.run.step("evaluate").failure


def as_register_loads_it(store: Store) -> Failure | None:
    return store.run.step("register").failure


def as_check_performance_loads_it(store: Store) -> Failure | None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("evergreen.steps.check_performance.current_together", lambda *_: ())
        patch.setattr("evergreen.steps.check_performance.training_set", lambda *_, **__: evaluation_rows("binary"))
        return execute(_request(store, "check_performance")).failure


def _request(store: Store, step: str) -> Request:
    window = Window(start=PARTITION, end=PARTITION)
    return Request(step=step, model=store.run.model, window=window, run=store.run.identity(step))


PATHS = (
    champion_as_evaluate_loads_it,
    challenger_as_evaluate_loads_it,
    as_register_loads_it,
    as_check_performance_loads_it,
)


@pytest.mark.parametrize("path", PATHS)
def test_what_nobody_touched_is_loaded(store: Store, path: Callable[[Store], Failure | None]) -> None:
    """The negative twin: without it every refusal below could have any reason."""
    assert path(store) is None


@pytest.mark.parametrize("tamper", TAMPERED, ids=lambda tamper: tamper.__name__)
@pytest.mark.parametrize("path", PATHS[1:])
def test_no_step_loads_what_was_tampered_with(
    store: Store, path: Callable[[Store], Failure | None], tamper: Tamper
) -> None:
    tamper(store)
    failure = path(store)
    assert failure is not None
    assert failure.failure_class is FailureClass.DATA
    assert TAMPERED[tamper] in failure.message


@pytest.mark.parametrize("tamper", [changed_code, unsigned, replayed], ids=lambda tamper: tamper.__name__)
def test_a_challenger_is_not_compared_with_a_champion_that_was_tampered_with(store: Store, tamper: Tamper) -> None:
    tamper(store)
    failure = champion_as_evaluate_loads_it(store)
    assert failure is not None
    assert failure.message.startswith("models:/small_binary/2")
    assert TAMPERED[tamper] in failure.message


@pytest.mark.parametrize("tamper", [unsigned, replayed, wrong_key], ids=lambda tamper: tamper.__name__)
def test_no_drift_is_measured_from_what_an_unverified_champion_says_it_learned(store: Store, tamper: Tamper) -> None:
    tamper(store)
    failure = execute(_request(store, "check_drift")).failure
    assert failure is not None
    assert TAMPERED[tamper] in failure.message


def champion() -> Version:
    version = by_alias("small_binary", "champion")
    assert version is not None
    return version


@pytest.mark.parametrize(
    ("tag", "value"), [("training_end", "2024-01-31"), ("metric.auc", "0.1"), ("dataset_digest", "0" * 16)]
)
def test_what_a_version_says_of_itself_is_what_was_signed(store: Store, tag: str, value: str) -> None:
    """Its training window says what it may be judged on, its score is what a drop is measured from."""
    before = champion().tags[tag]
    connect().set_model_version_tag("small_binary", "2", f"{TAG}{tag}", value)
    try:
        with pytest.raises(UntrustedError, match=f"models:/small_binary/2: {tag} is '{value}', but '{before}' was"):
            load_version(champion())
    finally:
        connect().set_model_version_tag("small_binary", "2", f"{TAG}{tag}", before)
    load_version(champion())


def test_a_key_that_is_believed_no_more_takes_its_models_along(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    private, public = new_key()
    monkeypatch.setenv(SIGNING_KEY, private)
    monkeypatch.setenv(VERIFICATION_KEYS, f"{KEYS[1]} {public}")
    get_settings.cache_clear()
    load_version(champion())
    monkeypatch.setenv(VERIFICATION_KEYS, public)
    get_settings.cache_clear()
    with pytest.raises(UntrustedError, match="is not one of those"):
        load_version(champion())


NO_PICKLE = """
import pickle, pickletools, sys
import numpy, pandas, torch
from evergreen.training.loading import load_version
from evergreen.training.registry import by_alias, connect
connect()  # MLflow is imported: what is asked about is the way from the registry to a prediction

def refuse(*arguments, **named):
    raise AssertionError("a pickle is read")

class Refused(pickle.Unpickler):
    __init__ = refuse

pickle.load = pickle.loads = pickle._load = pickle._loads = torch.load = numpy.load = pandas.read_pickle = refuse
pickle.Unpickler = pickle._Unpickler = Refused
scorer = load_version(by_alias("small_binary", "champion"))
if "twin" in sys.argv:
    import io
    buffer = io.BytesIO()
    torch.save({}, buffer)
    torch.load(buffer)
print(scorer.predict(scorer.nothing_known())["probability"].between(0, 1).all())
"""


@pytest.mark.parametrize("twin", [False, True])
def test_no_pickle_is_read_from_the_registry_to_a_prediction(store: Store, twin: bool) -> None:
    done = subprocess.run(
        [sys.executable, "-c", NO_PICKLE, *(["twin"] if twin else [])], capture_output=True, text=True, check=False
    )
    assert ("a pickle is read" in done.stderr, done.stdout.endswith("True\n")) == (twin, not twin), done.stderr


def test_whoever_has_verified_it_may_load_it_with_mlflow_alone(store: Store) -> None:
    raw = evaluation_rows("binary")[["x", "gap", "site", "hour"]].assign(hour=lambda frame: frame["hour"].astype(str))
    alone = mlflow.pyfunc.load_model(champion().uri).predict(raw)
    assert alone.equals(load_version(champion()).predict(raw))


def cli(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "evergreen", "models", "verify", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def stranger(folder: Path, public: str) -> subprocess.CompletedProcess[str]:
    """Do what docs/decisions/trust.md says: the files, the signature, the public key, and no Evergreen."""
    pem = folder / "verification.pem"
    pem.write_text(f"-----BEGIN PUBLIC KEY-----\n{public}\n-----END PUBLIC KEY-----\n")
    command = [str(Path(sys.executable).with_name("model_signing")), "verify", "key", str(folder / "model")]
    options = ["--signature", str(folder / "model.sig"), "--public_key", str(pem)]
    nothing = {"PATH": "/usr/bin:/bin", "HOME": str(folder)}
    return subprocess.run([*command, *options], env=nothing, capture_output=True, text=True, check=False)


def test_a_stranger_verifies_a_version_with_the_public_key_alone(store: Store, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    done = cli("small_binary@champion", f"--keep={kept}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("small_binary@2: verified, and answers 20 golden requests as in training\n")
    assert "  decision_key: second\n" in done.stdout
    assert "  training_end: 2024-03-11\n" in done.stdout
    verified = stranger(kept, KEYS[1])
    assert verified.returncode == 0, verified.stderr
    assert stranger(kept, new_key()[1]).returncode != 0
    with (kept / "model/artifacts/model/network.py").open("a") as code:
        code.write("\n")
    assert stranger(kept, KEYS[1]).returncode != 0


def test_what_a_person_does_not_want_to_run_is_verified_without(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every process notes how it was started."""
    started = tmp_path / "started"
    note = f"import sys\nwith open({str(started)!r}, 'a') as file:\n    print(sys.orig_argv, file=file)\n"
    (tmp_path / "sitecustomize.py").write_text(note)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    done = cli("small_binary@2", "--no-answers")
    assert done.stdout.startswith("small_binary@2: verified; nothing of it was run\n"), done.stderr
    assert "evergreen.training.fresh" not in started.read_text()
    assert cli("small_binary@2").returncode == 0
    assert "evergreen.training.fresh" in started.read_text()


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("small_binary@3",), 78, "small_binary has no version '3'. Name one of those registered: 1, 2."),
        (("small_binary@challengers",), 78, "small_binary has no version 'challengers'"),
        (
            ("small_binary",),
            78,
            "'small_binary' names no version. Write small_binary@VERSION",
        ),
        (("small_binary@2", "--keep=."), 78, "--keep=.: it is there already"),
    ],
)
def test_what_cannot_be_verified_is_named(store: Store, arguments: tuple[str, ...], code: int, said: str) -> None:
    done = cli(*arguments)
    assert (done.returncode, said in done.stderr) == (code, True), done.stderr


@pytest.mark.parametrize("tamper", [changed_code, replayed], ids=lambda tamper: tamper.__name__)
def test_a_person_is_told_what_a_step_is_told(store: Store, tamper: Tamper) -> None:
    tamper(store)
    done = cli("small_binary@2")
    assert done.returncode == 65
    assert TAMPERED[tamper] in done.stderr


def test_the_signature_of_the_openssf_is_not_there_for_show(store: Store) -> None:
    shutil.copyfile(store.signatures("1") / "model.sig", store.signatures("2") / "model.sig")
    done = cli("small_binary@2")
    assert done.returncode == 65
    assert "model.sig does not verify" in done.stderr
