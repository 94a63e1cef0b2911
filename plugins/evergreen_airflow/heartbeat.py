"""A file that is touched whenever an Airflow component's main loop turns: what the chart's probes look at.

`airflow jobs check` asks the database about the same, imports Airflow for it each time, and calls a component dead
whose database is away. The file is touched also then.
"""

from __future__ import annotations

from pathlib import Path


def keep(file: Path) -> None:
    """Touch a file at each heartbeat of this process's Airflow job, written to the database or not."""
    from airflow.jobs.job import Job
    from sqlalchemy import event

    # Airflow has no listener for it; `Job.heartbeat` sets this attribute at its end, after a failure too
    event.listen(Job.latest_heartbeat, "set", lambda *_: file.touch())
