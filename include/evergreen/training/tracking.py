"""MLflow tracking: one run per training, found again when the same training is asked for again."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Mapping
from datetime import UTC, date, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from evergreen.contract import Manifest, Output, described
from evergreen.handover import checked, disagreement
from evergreen.spec import ModelSpec, Task
from evergreen.training import encoder as encoder_module
from evergreen.training.encoder import Encoder
from evergreen.training.golden import FILE, Golden
from evergreen.training.graph_export import write_graph
from evergreen.training.graph_int8 import Metric
from evergreen.training.loading import DIGEST
from evergreen.training.ray_training import Trained
from evergreen.training.registry import TAG, connect, mlflow_errors, project_tags
from evergreen.training.signatures import sign_model
from evergreen.trust.statement import Bound

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)

MODEL = "model"
"""Name of the model within its run."""
_REQUIREMENTS = ("mlflow", "numpy", "pandas", "safetensors", "torch")


def find_run(model: str, run_key: str) -> tuple[str, dict[str, str]] | None:
    """Return ``(run id, tags without prefix)`` of the run with a key, or None."""
    client = connect()
    with mlflow_errors():
        experiment = client.get_experiment_by_name(model)
        if experiment is None:
            return None
        runs = client.search_runs(
            [experiment.experiment_id], f"tags.`{TAG}run_key` = '{run_key}'", order_by=["attributes.start_time ASC"]
        )
    return (runs[0].info.run_id, project_tags(runs[0].data.tags)) if runs else None


def logged_model(trained: Manifest) -> Output:
    """Return the model that a ``train`` manifest names, as MLflow recorded it.

    Raises
    ------
    DataError
        If there is no such run, it is another Airflow run's, or the manifest says something else of its model.
    """
    from mlflow.exceptions import MlflowException

    output, run_id, client = trained.output(MODEL), str(trained.facts.get("run_id")), connect()
    with mlflow_errors():
        try:
            tags = project_tags(client.get_run(run_id).data.tags)
        except MlflowException as error:
            if error.error_code not in {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}:
                raise
            raise disagreement(trained, output, "uri", f"MLflow has no run {run_id!r}") from error
    for name, value in (("model", trained.model), ("dag_id", trained.run.dag_id), ("run_id", trained.run.run_id)):
        if tags.get(name) != value:
            why = f"MLflow's run {run_id} has {TAG}{name} = {tags.get(name)!r}, and not {value!r}"
            raise disagreement(trained, output, "uri", why)
    return checked(trained, model_output(run_id, tags.get(DIGEST, "")), "MLflow")


def start_run(model: str, name: str, run_key: str, tags: Mapping[str, str], params: Mapping[str, Any]) -> str:
    """Return the id of the run with a key, with its parameters; it is created if there is none."""
    existing = find_run(model, run_key)
    from mlflow.entities import Param  # once `find_run` has imported MLflow without Feast

    with mlflow_errors():
        run_id = existing[0] if existing else _create_run(model, name, {**tags, "run_key": run_key})
        # of a run that was found, too: whoever created it may have been killed before it came here
        connect().log_batch(run_id, params=[Param(key, str(value)) for key, value in params.items()])
    return run_id


def model_output(run_id: str, digest: str) -> Output:
    """Return the model of a run as an output."""
    return Output(name=MODEL, uri=f"runs:/{run_id}/{MODEL}", version=digest, digest=digest)


def _create_run(model: str, name: str, tags: Mapping[str, str]) -> str:
    from mlflow.exceptions import MlflowException

    client = connect()
    experiment = client.get_experiment_by_name(model)
    try:
        experiment_id = experiment.experiment_id if experiment else client.create_experiment(model)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":  # another process was faster
            raise
        experiment_id = client.get_experiment_by_name(model).experiment_id
    run_id: str = client.create_run(
        experiment_id, tags={f"{TAG}{tag}": value for tag, value in tags.items()}, run_name=name
    ).info.run_id
    return run_id


def log_training(
    run_id: str, spec: ModelSpec, trained: Trained, frame: pd.DataFrame, facts: Mapping[str, str], metric: Metric
) -> dict[str, str]:
    """Log metrics and model of a training into its run, sign the model, and finish the run.

    Parameters
    ----------
    frame
        The rows that it was trained with.
    facts
        What the model is bound to by its signature, beside what becomes known of it here.
    metric
        By which a smaller graph is measured.

    Returns
    -------
    dict
        What became known of the model, as the run's tags say too: what came of its graph, and its content digest, which
        is set last: a run that has it is complete.
    """
    from mlflow.entities import LoggedModelOutput

    client = connect()
    with mlflow_errors(), TemporaryDirectory() as place:
        run = client.get_run(run_id)
        _log_history(run, trained)
        known = _write_model(Path(place) / MODEL, spec, trained, frame, metric)
        logged = client.create_logged_model(run.info.experiment_id, name=MODEL, source_run_id=run_id)
        folder = _save(Path(place), run_id, logged, trained.encoder, frame)
        bound = Bound(model=spec.name, run_id=run_id, logged_model=logged.model_id, facts={**facts, **known})
        sign_model(folder, bound)  # before it is anywhere else
        client.log_model_artifacts(logged.model_id, str(folder))
        client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step=0)])
        client.finalize_logged_model(logged.model_id, "READY")
        for name, value in known.items():
            client.set_tag(run_id, f"{TAG}{name}", value)
        client.set_terminated(run_id)
    return known


def _log_history(run: Any, trained: Trained) -> None:
    from mlflow.entities import Metric as Logged

    stamp = run.info.start_time  # not the clock: the same training logs the same
    metrics = [
        Logged(name, epoch[name], stamp, int(epoch["epoch"]))
        for epoch in trained.history
        for name in ("train_loss", "seconds")
    ]
    connect().log_batch(run.info.run_id, metrics=metrics)


def log_monitoring(
    run_id: str,
    partition: date,
    metrics: Mapping[str, float] | None = None,
    pictures: Mapping[str, bytes] | None = None,
) -> None:
    """Log what a check has found of a champion into the run that trained it, where MLflow draws it over time.

    Nothing is decided by it, and the check's own report has it all. So a run that was deleted or is somebody else's,
    or a server that does not answer, is a warning.

    Parameters
    ----------
    run_id
        The champion's.
    partition
        The monitored one: the time and the step of the metrics, which are called ``monitored.<name>``, and the
        folder of the pictures, ``monitoring/<partition>``. The same check logs the same.
    metrics, pictures
        Name to value, and to PNG.
    """
    try:
        _log_metrics(run_id, partition, metrics or {})
        log_pictures(run_id, f"monitoring/{partition}", pictures or {})
    except Exception as error:  # whatever MLflow raises, and the store of its files behind it
        log.warning("what was found on %s is not in MLflow's run %s: %s", partition, run_id, described(error))


def _log_metrics(run_id: str, partition: date, metrics: Mapping[str, float]) -> None:
    client = connect()
    from mlflow.entities import Metric

    day = datetime(partition.year, partition.month, partition.day, tzinfo=UTC)
    stamp, step = int(day.timestamp() * 1000), partition.toordinal()
    with mlflow_errors():
        logged = [Metric(f"monitored.{name}", value, stamp, step) for name, value in metrics.items()]
        client.log_batch(run_id, metrics=logged)


def log_pictures(run_id: str, folder: str, pictures: Mapping[str, bytes]) -> None:
    """Log files into a folder of a run, where MLflow shows them; a file of the same name is replaced."""
    with mlflow_errors(), TemporaryDirectory() as place:
        for name, content in pictures.items():
            (Path(place) / name).write_bytes(content)
            connect().log_artifact(run_id, str(Path(place) / name), folder)


def _save(place: Path, run_id: str, logged: Any, encoder: Encoder, example: pd.DataFrame) -> Path:
    """Write the folder that MLflow logs: the model's files, and beside them what another MLflow needs to load it."""
    import mlflow
    from mlflow.models import Model

    folder = place / "logged"
    mlflow.pyfunc.save_model(
        folder,
        mlflow_model=Model(
            artifact_path=logged.artifact_location, model_uuid=logged.model_id, model_id=logged.model_id, run_id=run_id
        ),
        python_model=str(Path(__file__).with_name("logged_model.py")),
        artifacts={MODEL: str(place / MODEL)},
        signature=_signature(encoder),
        input_example=example[encoder.columns].head(3),
        pip_requirements=_requirements(),
    )
    for cache in [*folder.rglob("__pycache__")]:  # it has loaded what it wrote
        shutil.rmtree(cache)
    return folder


def _write_model(
    folder: Path, spec: ModelSpec, trained: Trained, frame: pd.DataFrame, metric: Metric
) -> dict[str, str]:
    """Write a model's files; returns what is known of its graph, and last the digest of their names and content."""
    from safetensors.torch import save_file

    folder.mkdir()
    file, _, function = spec.training.network.partition(":")
    shutil.copyfile(str(encoder_module.__file__), folder / "encoder.py")
    shutil.copyfile(spec.folder / file, folder / "network.py")
    described = {"encoder": trained.encoder.to_dict(), "function": function}
    (folder / "encoder.json").write_text(json.dumps(described), encoding="utf-8")
    weights = {name: tensor.detach().clone().contiguous() for name, tensor in trained.weights.items()}
    save_file(weights, folder / "weights.safetensors")
    golden = Golden.of(trained.encoder, frame, trained.golden)
    (folder / FILE).write_text(golden.model_dump_json(), encoding="utf-8")
    facts = write_graph(folder, spec, frame, metric) if spec.serving.enabled else {}
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        digest.update(path.name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return {**facts, DIGEST: digest.hexdigest()[:16]}


def _signature(encoder: Encoder) -> Any:
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema
    from mlflow.types.schema import AnyType

    # required: else MLflow drops a misspelt column without a word, and asks the model without it
    numeric = [ColSpec(DataType.double, name) for name in encoder.mean]
    # 5, 5.0 and "5" are one category: the type of a category column depends on whether a value is missing
    categorical = [ColSpec(AnyType(), name, required=False) for name in encoder.vocabulary]
    names = {Task.BINARY: ["probability"], Task.REGRESSION: ["prediction"], Task.MULTICLASS: encoder.labels}
    outputs = [ColSpec(DataType.double, name) for name in names[Task(encoder.task)]]
    return ModelSignature(inputs=Schema([*numeric, *categorical]), outputs=Schema(outputs))


def _requirements() -> list[str]:
    from importlib.metadata import version

    return [f"{name}=={version(name).partition('+')[0]}" for name in _REQUIREMENTS]
