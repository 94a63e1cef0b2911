"""Trains a network on Ray: data-parallel workers, a checkpoint every epoch, the same weights for the same seed."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evergreen.contract import ConfigurationError, TemporaryError
from evergreen.environment import complete, worker_environment
from evergreen.settings import get_settings
from evergreen.spec import ModelSpec
from evergreen.store import arrow_options
from evergreen.training.encoder import Encoder, load_network
from evergreen.training.golden import outputs_of
from evergreen.training.preparation import Prepared, prepare
from evergreen.training.private_ray import private_ray, torch_config

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

_CHECKPOINT = "checkpoint.pt"
_WARM_UP = 0.15
"""Share of the steps in which the learning rate rises (one-cycle schedule, Smith & Topin 2018)."""


@dataclass(frozen=True)
class Trained:
    """A trained network.

    Parameters
    ----------
    encoder
        What was learned about the inputs.
    weights
        The network's state dict, on the CPU.
    history
        One entry an epoch: ``epoch`` (from 1), ``train_loss``, ``seconds``.
    golden
        What the network gave for the golden rows, in the process that trained it: (rows, outputs).
    """

    encoder: Encoder
    weights: dict[str, Any]
    history: list[dict[str, float]]
    golden: np.ndarray


def train(spec: ModelSpec, frame: pd.DataFrame, key: str, name: str) -> Trained:
    """Train on Ray and return the network of the last epoch.

    Parameters
    ----------
    spec
        The model; ``training`` says how.
    frame
        The labelled training set.
    key
        Where in the artifact store checkpoints are kept.
    name
        Names the training: called again with the same key and name it goes on from the last checkpoint.

    Raises
    ------
    DataError, ConfigurationError
        As :func:`prepare`.
    TemporaryError
        If workers died and did not come back.
    MemoryError
        If a worker ran out of memory.
    """
    complete()  # before there is a second thread
    with ThreadPoolExecutor(1) as background:
        preparing = background.submit(prepare, spec, frame)  # Ray takes seconds to start, mostly waiting
        with _ray(spec) as folder:
            prepared = preparing.result()
            checkpoint = _fit(spec, prepared, key, name, folder)
    return Trained(prepared.encoder, checkpoint["network"], checkpoint["history"], checkpoint["golden"].numpy())


@contextmanager
def _ray(spec: ModelSpec) -> Iterator[Path | None]:
    """Connect to the configured Ray, or start a private one and yield its folder."""
    address = get_settings().ray_address
    if address == "local":
        with private_ray(spec.training.workers) as folder:
            yield folder
        return
    import ray

    try:
        ray.init(address=address, log_to_driver=False)
    except (RuntimeError, OSError, TimeoutError) as error:  # Ray has no class for "does not answer"
        raise TemporaryError(f"EVERGREEN_RAY_ADDRESS={address}: {error}", "Is the Ray cluster up?") from error
    try:
        with _lost(address):
            yield None
    finally:
        ray.shutdown()


@contextmanager
def _lost(address: str) -> Iterator[None]:
    """Tell the loss of a cluster (its head restarts with another image, its node is drained) from a step's defect."""
    from ray.exceptions import (
        ObjectStoreFullError,
        OutOfDiskError,
        OutOfMemoryError,
        RayError,
        RayTaskError,
        RuntimeEnvSetupError,
    )

    try:
        yield
    except (OutOfMemoryError, RayTaskError):  # what runs there has failed
        raise
    except (ObjectStoreFullError, OutOfDiskError, RuntimeEnvSetupError) as error:
        hint = "Give its nodes more of what is short, or shorten windows.training_days."
        raise ConfigurationError(f"EVERGREEN_RAY_ADDRESS={address}: cannot hold the training: {error}", hint) from error
    except (ConnectionError, RayError) as error:
        hint = "Its head may have been restarted: the next try goes on from the last checkpoint."
        raise TemporaryError(f"EVERGREEN_RAY_ADDRESS={address}: lost while it trained: {error}", hint) from error


def _fit(spec: ModelSpec, data: Prepared, key: str, name: str, private: Path | None) -> dict[str, Any]:
    import ray
    import torch
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig, TrainingFailedError

    file, _, function = spec.training.network.partition(":")
    filesystem, path = _storage(key)
    workers = spec.training.workers
    use_gpu = torch.cuda.device_count() >= workers if private else spec.resources.training == "gpu"
    shared = [ray.put(part) for part in (data.numeric, data.categorical, data.target)]
    trainer = trainer_without_cleaner()(
        _train_loop,
        train_loop_config={
            **spec.training.model_dump(),
            "file": str(spec.folder / file),
            "function": function,
            "schema": data.encoder.schema,
            "data": shared,
            "temporary": private and str(private),
        },
        torch_config=torch_config(private) if private else None,
        scaling_config=ScalingConfig(num_workers=workers, use_gpu=use_gpu),
        run_config=RunConfig(
            name=name,
            storage_path=path,
            storage_filesystem=filesystem,
            failure_config=FailureConfig(max_failures=2),
            checkpoint_config=CheckpointConfig(num_to_keep=1),
            worker_runtime_env={"env_vars": worker_environment()},
        ),
    )
    try:
        result = trainer.fit()
    except TrainingFailedError as error:
        raise _explain(error, f"{path}/{name}") from error
    if result.checkpoint is None:
        raise TemporaryError(f"the training {name} left no checkpoint in {path}.", "Run it again.")
    with result.checkpoint.as_directory() as folder:
        checkpoint: dict[str, Any] = torch.load(Path(folder) / _CHECKPOINT, map_location="cpu", weights_only=True)
    return checkpoint


def trainer_without_cleaner() -> type[Any]:
    """Return a TorchTrainer without the process that frees the placement group of a controller that died.

    The group goes with its job: the driver of a training is its step. That process, which is made to outlive the job,
    stays in the cluster when a step is killed: it ends itself from a thread, and that ends the thread only.
    """
    from ray.train.torch import TorchTrainer
    from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback

    class Trainer(TorchTrainer):  # type: ignore[misc]  # Ray has no types here
        def _create_default_callbacks(self) -> list[Any]:
            callbacks = super()._create_default_callbacks()
            return [callback for callback in callbacks if not isinstance(callback, PlacementGroupCleanerCallback)]

    return Trainer


def _explain(error: Exception, folder: str) -> Exception:
    """Return what a training that failed says to the runner; ``folder`` is where its checkpoints lie."""
    from ray.exceptions import RayError, RayTaskError

    text = str(error)
    if "OutOfMemory" in text or "out of memory" in text:
        return MemoryError(f"a training worker: {text[:500]}")
    failures = [*getattr(error, "worker_failures", {}).values(), getattr(error, "controller_failure", error)]
    # by type, as a network's own error may say anything; Ray Train wraps what it finds of a dead worker
    causes = [getattr(failure, "health_check_failure", failure) for failure in failures]
    if any(isinstance(cause, RayError) and not isinstance(cause, RayTaskError) for cause in causes):
        return TemporaryError(f"training workers died: {text[:500]}", "Clear the task: it resumes from its checkpoint.")
    # each of two processes keeps its last checkpoint only, and deletes the one that both have gone on from
    if any(isinstance(cause, FileNotFoundError) and f"{folder}/checkpoint_" in str(cause) for cause in causes):
        return TemporaryError(
            f"{folder}: another process trains the same, and has deleted the checkpoint that this one went on from.",
            "Wait until it ends, or stop it: the next try goes on from the last checkpoint.",
        )
    return error


def _storage(key: str) -> tuple[Any, str]:
    from pyarrow.fs import LocalFileSystem, S3FileSystem

    settings = get_settings()
    if not settings.artifact_root.startswith("s3://"):
        path = Path(settings.artifact_root).absolute() / key
        path.mkdir(parents=True, exist_ok=True)
        return LocalFileSystem(), str(path)
    return S3FileSystem(**arrow_options()), f"{settings.artifact_root.removeprefix('s3://')}/{key}"


def _train_loop(config: Mapping[str, Any]) -> None:
    """Run on every worker: one process of the data-parallel group."""
    import time

    import ray
    import ray.train
    import ray.train.torch
    import torch
    from joblib import cpu_count  # the cores this container may use, not the node's

    if config["temporary"]:  # it goes with this Ray, though a worker be killed; Ray's copies of checkpoints too
        tempfile.tempdir = config["temporary"]
    context, device = ray.train.get_context(), ray.train.torch.get_device()
    rank, world = context.get_world_rank(), context.get_world_size()
    torch.set_num_threads(max(1, cpu_count() // context.get_local_world_size()))
    arrays = ray.get(list(config["data"]))
    rows = len(arrays[2])
    batch = max(1, config["batch_size"] // world)
    steps = -(-rows // (batch * world))
    torch.manual_seed(config["seed"])
    network = ray.train.torch.prepare_model(load_network(config["file"], config["function"], config["schema"]))
    optimizer = torch.optim.AdamW(network.parameters(), lr=config["learning_rate"], weight_decay=config["weight_decay"])
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, config["learning_rate"], total_steps=steps * config["epochs"], pct_start=_WARM_UP
    )
    history = _restore(network, optimizer, schedule)
    for epoch in range(len(history), config["epochs"]):
        started = time.perf_counter()
        torch.manual_seed(config["seed"] + 1000 * (epoch + 1) + rank)  # a resumed run draws what it would have drawn
        order = _order(rows, steps * batch * world, seed=(config["seed"], epoch))[rank::world]
        loss = _epoch(
            config["schema"]["task"], network, optimizer, schedule, arrays, order.reshape(steps, batch), device
        )
        mean = _mean_over_workers(loss, world)
        history = [*history, {"epoch": epoch + 1, "train_loss": mean, "seconds": time.perf_counter() - started}]
        learned = getattr(network, "module", network)
        golden = outputs_of(learned, *arrays[:2]) if rank == 0 and len(history) == config["epochs"] else None
        _report(network, optimizer, schedule, history, rank, golden)


def _order(rows: int, wanted: int, seed: tuple[int, int]) -> np.ndarray:
    """Return a shuffled order of the rows, filled up from its start: every worker gets as many batches."""
    import numpy as np

    # shuffled over all rows, never by worker: shards in order of time would hold different seasons
    return np.resize(np.random.default_rng(seed).permutation(rows), wanted)


def _epoch(
    task: str, network: Any, optimizer: Any, schedule: Any, arrays: Any, batches: np.ndarray, device: Any
) -> Any:
    import torch
    from torch.nn import functional

    losses: dict[str, Callable[[Any, Any], Any]] = {
        "binary": functional.binary_cross_entropy_with_logits,
        "multiclass": functional.cross_entropy,
        "regression": functional.mse_loss,
    }

    network.train()
    total = torch.zeros((), device=device)
    for rows in batches:
        numeric, categorical, target = (torch.from_numpy(part[rows]).to(device) for part in arrays)
        output = network(numeric, categorical)
        loss = losses[task](output.squeeze(1) if task != "multiclass" else output, target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        total += loss.detach()
    return total / len(batches)


def _restore(network: Any, optimizer: Any, schedule: Any) -> list[dict[str, float]]:
    """Load the last checkpoint, if there is one; returns the history so far."""
    import ray.train
    import torch

    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        return []
    with checkpoint.as_directory() as folder:
        saved = torch.load(Path(folder) / _CHECKPOINT, map_location="cpu", weights_only=True)
    getattr(network, "module", network).load_state_dict(saved["network"])
    optimizer.load_state_dict(saved["optimizer"])
    schedule.load_state_dict(saved["schedule"])
    history: list[dict[str, float]] = saved["history"]
    return history


def _report(
    network: Any, optimizer: Any, schedule: Any, history: list[dict[str, float]], rank: int, golden: Any
) -> None:
    import ray.train
    import torch

    if rank != 0:
        ray.train.report(history[-1])
        return
    with tempfile.TemporaryDirectory() as folder:
        content = {
            "network": getattr(network, "module", network).state_dict(),
            "optimizer": optimizer.state_dict(),
            "schedule": schedule.state_dict(),
            "history": history,
            "golden": golden,
        }
        torch.save(content, Path(folder) / _CHECKPOINT)
        ray.train.report(history[-1], checkpoint=ray.train.Checkpoint.from_directory(folder))


def _mean_over_workers(loss: Any, world: int) -> float:
    import torch

    if world > 1:
        torch.distributed.all_reduce(loss)
    return float(loss) / world
