"""A Ray of one's own: as long as a step, on one machine, on loopback, with no more processes than it needs."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from evergreen.contract import TemporaryError
from evergreen.environment import complete

_REMOVER = """
import pathlib, shutil, sys, time
sys.stdin.read()
folder = pathlib.Path(sys.argv[1])
for attempt in range(5):
    shutil.rmtree(folder, ignore_errors=True)
    if not folder.exists():
        break
    time.sleep(1)
"""
"""Waits for the end of its input, then removes a folder; what writes there still is gone in seconds."""
_OBJECT_STORE_BYTES = 256 * 2**20


@contextmanager
def _short_lived_folder() -> Iterator[Path]:
    """Make a folder that is removed afterwards, also when this process is killed: Ray's own folders are not."""
    # the paths of Ray's sockets are long, and no socket's path may be longer than 107 bytes
    folder = tempfile.mkdtemp(prefix="r-")
    remover = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _REMOVER, folder],
        stdin=subprocess.PIPE,  # held by this process alone: closed when it ends, however it ends
        stdout=subprocess.DEVNULL,
        start_new_session=True,  # a Ctrl-C at the terminal is not for it
    )
    try:
        yield Path(folder)
    finally:
        remover.communicate()


@contextmanager
def private_ray(workers: int) -> Iterator[Path]:
    """Start Ray, and stop it afterwards; yields its folder, which goes with it, or with this process.

    Raises
    ------
    TemporaryError
        If it does not start.
    """
    complete()  # Ray reads its settings when it is imported
    import ray

    with _short_lived_folder() as folder:
        try:
            try:
                ray.init(
                    address="local",
                    num_cpus=workers,
                    include_dashboard=False,
                    log_to_driver=False,
                    object_store_memory=_OBJECT_STORE_BYTES,
                    _temp_dir=str(folder),
                )
            except Exception as error:  # Ray has no class for "did not start in time": it raises a plain Exception
                raise TemporaryError(
                    f"Ray did not start: {error}", "The machine may be busy or out of memory."
                ) from error
            yield folder
        finally:
            ray.shutdown()


def torch_config(folder: Path) -> Any:
    """Return a TorchConfig whose workers find each other through a file in a private folder.

    The store that torch opens otherwise listens on every interface of the machine, and asks nobody who they are.
    """
    import ray
    from ray.train.torch import TorchConfig
    from ray.train.torch.config import _set_torch_distributed_env_vars, _setup_torch_process_group, _TorchBackend

    class FileBackend(_TorchBackend):  # type: ignore[misc]  # Ray has no types here
        def on_start(self, worker_group: Any, backend_config: Any) -> None:
            worker_group.execute(_set_torch_distributed_env_vars)
            backend = "nccl" if worker_group.get_resources_per_worker().get("GPU", 0) > 0 else "gloo"
            meeting_place = f"file://{folder}/{uuid4()}"  # a new one for each group: workers may be replaced
            started = [
                worker_group.execute_single_async(
                    rank,
                    _setup_torch_process_group,
                    backend=backend,
                    world_rank=rank,
                    world_size=len(worker_group),
                    init_method=meeting_place,
                    timeout_s=backend_config.timeout_s,
                )
                for rank in range(len(worker_group))
            ]
            ray.get(started)

    class FileConfig(TorchConfig):  # type: ignore[misc]
        @property
        def backend_cls(self) -> type[Any]:
            return FileBackend

    return FileConfig()
