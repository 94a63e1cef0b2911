"""The stand-in kubelet of a machine without a cluster: runs pods as processes of which nothing outlives their task.

What other rooms use of it is what this module names; nothing in here knows Airflow.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evergreen_airflow.kubelet import guardian, warm_client
from evergreen_airflow.kubelet.scratch import remove_scratch

if TYPE_CHECKING:
    from evergreen_airflow.kubelet.pod_process import PodProcess as PodProcess

BASE_VARIABLES = ("PATH", "HOME", "USER", "LANG", "LC_ALL", "TZ", "VIRTUAL_ENV", "LD_LIBRARY_PATH")
"""What a process needs of the machine it runs on; everything else comes from the pod, as it would in a cluster."""


def as_process(pod: dict[str, Any], log: Any, mask_secret: Callable[[str | None], None]) -> PodProcess:
    """Return a pod as a process that is yet to run.

    Parameters
    ----------
    pod
        The pod, as Kubernetes writes it in JSON.
    log
        Where every line of output goes.
    mask_secret
        Told every secret the process is given, before it starts.

    Raises
    ------
    ConfigurationError
        If the pod has a field that a process cannot honour; the message names it.
    """
    from evergreen_airflow.kubelet.pod_process import PodProcess

    return PodProcess(pod, log, mask_secret)


def guarded(command: Sequence[str], grace: float) -> list[str]:
    """Return the command that runs another, and sees to it that nothing it started outlives it or its caller.

    Parameters
    ----------
    command
        A program and its arguments.
    grace
        Seconds between SIGTERM and SIGKILL.
    """
    return [sys.executable, "-I", "-S", guardian.__file__, f"--grace={grace}", "--", *command]


def adopt_orphans() -> None:
    """Make this process the parent of what a killed guardian leaves; Linux only, elsewhere nothing happens."""
    if sys.platform == "linux":
        guardian.prctl(guardian.PR_SET_CHILD_SUBREAPER, 1)


def warm_service(state_dir: Path) -> list[str]:
    """Return the command of the warm service, which forks steps; the socket that an earlier one left is removed."""
    path = warm_client.socket_path(state_dir)
    path.unlink(missing_ok=True)
    return [sys.executable, "-m", "evergreen_airflow.kubelet.warm_server", str(path)]


def check_warm_service(state_dir: Path) -> None:
    """Do nothing if the warm service answers, or is not there yet.

    Raises
    ------
    NotWarmError
        If it does not answer.
    """
    path = warm_client.socket_path(state_dir)
    if path.exists():  # not before it has imported everything: nobody needs to wait for that
        warm_client.connect(path).close()


__all__ = [
    "BASE_VARIABLES",
    "adopt_orphans",
    "as_process",
    "check_warm_service",
    "guarded",
    "remove_scratch",
    "warm_service",
]
