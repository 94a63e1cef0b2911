"""Small models of every task, their data, and steps run as they run in a pod: by manifest."""

from __future__ import annotations

import hashlib
import io
import shutil
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
import yaml

from evergreen.catalog import load_model
from evergreen.contract import Manifest, Output, RunIdentity, Status, Window, utc_now
from evergreen.data.lake import get_lake
from evergreen.judgement.metrics import deciding_metric
from evergreen.judgement.questions import Answer, write_answer
from evergreen.pipelines import QUESTIONS, STEPS, upstream_of
from evergreen.runner import build_request, execute
from evergreen.settings import PROJECT_ROOT
from evergreen.store import get_store, read_manifest, write_manifest
from evergreen.training.encoder import load_network
from evergreen.training.golden import outputs_of
from evergreen.training.loading import DIGEST
from evergreen.training.preparation import prepare
from evergreen.training.ray_training import Trained
from evergreen.training.tracking import log_training, start_run

PARTITION = date(2024, 3, 31)
METRICS = {
    "binary": ("auc", "maximize", {"auc": 0.6}, ["log_loss"]),
    "multiclass": ("log_loss", "minimize", {"accuracy": 0.5}, ["macro_f1"]),
    "regression": ("rmse", "minimize", {"r2": 0.3}, ["mae"]),
}

REQUESTS = {
    "binary": {"answer": 1},
    "multiclass": {"answer": "high"},
    "regression": {"between": [110, 250]},
}
"""What x = 2 in the north comes to."""


def write_model(folder: Path, task: str, **training) -> str:
    """Write the folder of a small model of a task; returns its name."""
    metric, direction, limits, required = METRICS[task]
    name = f"small_{task}"
    content = {
        "name": name,
        "task": task,
        "description": "A small model for tests.",
        "owner": "tests",
        "team": "tests",
        "schedule": {"start": "2024-01-01"},
        "sources": [
            {
                "name": "raw",
                "reader": "source.py:read",
                "key": ["site"],
                "columns": {"site": "string"},
                "expectations": "expectations.yaml",
            }
        ],
        "features": {
            "examples": {"sql": "examples.sql", "label": "outcome", "label_delay_days": 0},
            "numeric": ["x", "gap"],
            "categorical": ["site", "hour"],
        },
        "windows": {"minimum_training_rows": 100, "minimum_evaluation_rows": 100},
        "training": {
            "network": "network.py:build",
            "workers": 1,
            "epochs": 3,
            "batch_size": 128,
            "learning_rate": 0.02,
            "classes": 3,
            **training,
        },
        "gate": {
            "metric": metric,
            "direction": direction,
            "limits": limits,
            "required": required,
            "slices": [{"column": "site", "maximum_regression": 0.2, "minimum_rows": 50}],
            "sensitive": ["site"],
            "rules": [
                {"metric": "group_difference", "maximum": 50, "minimum_rows": 50},
                {"metric": "flip_rate_missing", "maximum": 0.9, "level": "warning"},
                {"metric": "flip_rate_noise", "maximum": 0.1, "maximum_drop": 0.1},
                {"metric": "size_mb", "maximum": 1, "maximum_drop": 0.01},
            ],
        },
        "drift": {"columns": ["x", "gap", "site"], "minimum_rows": 500, "current_days": 20},
        "retraining": {
            "cooldown_days": 7,
            "minimum_new_labels": 100,
            "performance_drop": 0.05,
            "proposals": ["inputs", "performance"],
        },
    }
    target = folder / name
    target.mkdir(parents=True)
    (target / "model.yaml").write_text(yaml.safe_dump(content))
    (target / "behaviours.yaml").write_text(yaml.safe_dump(_behaviours(task)))
    shutil.copyfile(PROJECT_ROOT / "include/models/flight_delay/network.py", target / "network.py")
    return name


def _behaviours(task: str) -> dict[str, list[dict[str, object]]]:
    """Return tests of what the rows are made by; a challenger that has not learned it may win all the same."""
    of = {"of": "high"} if task == "multiclass" else {}
    up = {"name": "x drives the outcome", "shift": {"x": 1}, "goes": "up", "maximum_share": 0.1, **of}
    stays = {"name": "the gap is little", "take_away": ["gap"], "tolerance": 20 if task == "regression" else 0.3}
    request = {"name": "x = 2 in the north", "inputs": {"x": 2, "site": "north", "hour": 12}, **REQUESTS[task]}
    tests = {"invariance": stays, "direction": up, "request": request}
    return {kind: [{**test, "level": "warning"}] for kind, test in tests.items()}


def rows(task: str, first: date, days: int, seed: int, per_day: int = 60) -> pd.DataFrame:
    """Examples whose outcome follows from x and the site; a value is missing here and there."""
    rng = np.random.default_rng(seed)
    count = days * per_day
    frame = pd.DataFrame(
        {
            "ds": np.repeat([str(first + timedelta(days=day)) for day in range(days)], per_day),
            "site": rng.choice(["north", "south", "west"], count),
            "hour": rng.integers(0, 24, count),
            "x": rng.normal(size=count),
            "gap": np.where(rng.random(count) < 0.2, np.nan, rng.normal(size=count)),
        }
    )
    frame["event_timestamp"] = pd.to_datetime(frame["ds"], utc=True) + pd.to_timedelta(frame["hour"], unit="h")
    signal = 1.5 * frame["x"] + frame["site"].map({"north": 1.0, "south": -1.0, "west": 0.0})
    noisy = signal + 0.7 * rng.normal(size=count)
    if task == "binary":
        frame["outcome"] = (noisy > 0).astype(int)
    elif task == "multiclass":
        frame["outcome"] = np.select([noisy < -1, noisy > 1], ["low", "high"], "middle")
    else:
        frame["outcome"] = 100 + 20 * noisy
    return frame


def training_rows(task: str, days: int = 40) -> pd.DataFrame:
    """Rows up to the day before the evaluation window."""
    return rows(task, PARTITION - timedelta(days=20 + days - 1), days, seed=1)


def evaluation_rows(task: str) -> pd.DataFrame:
    """The last 20 days."""
    return rows(task, PARTITION - timedelta(days=19), 20, seed=2)


def leave_examples(model: str, frame: pd.DataFrame) -> None:
    """Write rows into the lake as examples of a binary model."""
    stamps = pd.to_datetime(frame["ds"], utc=True).astype("datetime64[us, UTC]")
    table = frame.assign(event_timestamp=stamps, hour=frame["hour"].astype(str), outcome=frame["outcome"].astype(float))
    window = Window(start=date.fromisoformat(frame["ds"].min()), end=date.fromisoformat(frame["ds"].max()))
    get_lake().write(model, "examples", pa.Table.from_pandas(table, preserve_index=False), window)


def said(who: str, chosen: str = "Approve", *, name: str | None = None, shown: str = "") -> list[Answer]:
    """Return the answer to one question: what was chosen by the user with an id, the name by default."""
    return [Answer(chosen=chosen, by=who if name is None else name, by_id=who, shown=shown)]


class Run:
    """One run of ``<model>.train``; its steps find each other's manifests."""

    def __init__(self, model: str, run_id: str, dag: str = "train", partition: date = PARTITION) -> None:
        self.model, self.run_id, self.dag_id, self.partition = model, run_id, f"{model}.{dag}", partition
        self.spec = load_model(model)

    def step(self, name: str, **params) -> Manifest:
        """Run a step and return its manifest; ``register`` after ``refit``, which comes before it."""
        left = {task for task in ("assemble", "refit") if read_manifest(get_store(), self.identity(task))}
        if name == "register" and left == {"assemble"}:
            self.step("refit")
        upstream = upstream_of(STEPS[name], "train")
        window = Window(start=self.partition, end=self.partition)
        return execute(build_request(name, self.model, window, self.identity(name), upstream, params))

    def steps(self, *names: str) -> Manifest:
        """Run steps that must not fail; returns the last manifest."""
        for name in names:
            manifest = self.step(name)
            assert manifest.failure is None, manifest.failure
        return manifest

    def promote(self, answers: list[Answer], **about: str) -> Manifest:
        """Answer the questions about what was registered and judged, or about something else, and run ``promote``."""
        registered, judged = (read_manifest(get_store(), self.identity(step)) for step in ("register", "gate"))
        asked = {"version": registered.facts["version"], "evaluation": judged.facts["evaluation_digest"], **about}
        for question, answer in zip(QUESTIONS, answers, strict=False):
            write_answer(get_store(), self.identity(question), answer.model_copy(update=asked))
        return self.step("promote")

    def identity(self, task: str) -> RunIdentity:
        """Return where a step of this run stores its manifest."""
        return RunIdentity(dag_id=self.dag_id, run_id=self.run_id, task_id=task)

    def assemble(self, training: pd.DataFrame | None = None, evaluation: pd.DataFrame | None = None) -> None:
        """Leave data sets and a manifest as the step ``assemble`` does."""
        frames = {
            "training": training_rows(self.spec.task) if training is None else training,
            "evaluation": evaluation_rows(self.spec.task) if evaluation is None else evaluation,
        }
        outputs = []
        for name, frame in frames.items():
            content = io.BytesIO()
            frame.to_parquet(content)
            digest = hashlib.sha256(content.getvalue()).hexdigest()[:16]
            uri = get_store().write(
                f"datasets/{self.model}/{self.partition}-{digest}/{name}.parquet", content.getvalue()
            )
            outputs.append(Output(name=name, uri=uri, version=digest, digest=digest, rows=len(frame)))
        snapshot = Output(name="examples", uri="lake", version="4711")
        self.leave("assemble", outputs=tuple(outputs), inputs=(snapshot,))

    def leave(self, step: str, **fields) -> None:
        """Store a manifest."""
        now = utc_now()
        write_manifest(
            get_store(),
            Manifest(
                step=step,
                model=self.model,
                window=Window(start=self.partition, end=self.partition),
                run=self.identity(step),
                attempt="1",
                status=Status.OK,
                code_version="test",
                config_digest="test",
                started=now,
                finished=now,
                **fields,
            ),
        )

    def train_without_ray(self, frame: pd.DataFrame, window: Window, spoil: bool = False, key: str = "") -> None:
        """Train for a moment in this process, and leave what the step ``train`` leaves; ``spoil``: weights of nan.

        What is trained again is the same run of MLflow, unless it has another ``key``.
        """
        prepared = prepare(self.spec, frame)
        torch.manual_seed(0)
        network = load_network(self.spec.folder / "network.py", "build", prepared.encoder.schema)
        numeric, categorical, target = map(torch.from_numpy, (prepared.numeric, prepared.categorical, prepared.target))
        optimizer = torch.optim.Adam(network.parameters(), lr=0.02)
        for _ in range(40):
            optimizer.zero_grad()
            torch.nn.functional.binary_cross_entropy_with_logits(network(numeric, categorical)[:, 0], target).backward()
            optimizer.step()
        if spoil:
            with torch.no_grad():
                for parameter in network.parameters():
                    parameter.fill_(float("nan"))
        golden = outputs_of(network, prepared.numeric, prepared.categorical).numpy()
        tags = {"model": self.model, "dag_id": self.dag_id, "run_id": self.run_id}
        run_id = start_run(self.model, self.run_id, key or self.run_id, tags, {})
        trained = Trained(
            prepared.encoder, network.state_dict(), [{"epoch": 1, "train_loss": 0.5, "seconds": 0.1}], golden
        )
        assembled = read_manifest(get_store(), self.identity("assemble"))
        facts = {**tags, "training_start": str(window.start), "training_end": str(window.end)}
        learned = assembled.output("training")
        facts |= {"dataset_uri": learned.uri, "dataset_version": learned.version, "dataset_digest": learned.digest}
        digest = log_training(run_id, self.spec, trained, frame, facts, deciding_metric)[DIGEST]
        self.leave(
            "train",
            inputs=(learned, *assembled.inputs),
            outputs=(Output(name="model", uri=f"runs:/{run_id}/model", version=digest, digest=digest),),
            facts={"run_id": run_id, "training_start": str(window.start), "training_end": str(window.end)},
        )
