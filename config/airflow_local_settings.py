"""Loaded by every Airflow process at its start.

Tasks and DAG parsers are forks of the scheduler and the DAG processor: what these two have imported, no fork needs to
import again. The pod operator alone costs 0.9 s, the project's own modules 0.06 s; the DAG processor also brings the
models along, which its forks then parse again only where a file has changed. Other processes do without.

The price: a change in plugins/ or include/evergreen counts for the operators once these two are restarted. Steps, in
processes of their own, always run what is there.

In a cluster the components also touch a file whenever their main loop turns: what the chart's probes look at.
`airflow jobs check` asks the database about the same, imports Airflow for it each time, and calls a component dead
whose database is away. The file is touched also then.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path

if {"scheduler", "dag-processor"} & set(sys.argv):
    import evergreen_airflow.operator  # noqa: F401
    from evergreen.catalog import survey
    from evergreen.contract import ConfigurationError
    from evergreen.settings import get_settings

    if "dag-processor" in sys.argv:
        with suppress(ConfigurationError):  # the parse of dags/models.py reports it
            survey()
        get_settings.cache_clear()

if {"scheduler", "dag-processor", "triggerer"} & set(sys.argv) and "EVERGREEN_HEARTBEAT_FILE" in os.environ:
    from airflow.jobs.job import Job
    from sqlalchemy import event

    # Airflow has no listener for it; `Job.heartbeat` sets this attribute at its end, after a failure too
    event.listen(Job.latest_heartbeat, "set", lambda *_: Path(os.environ["EVERGREEN_HEARTBEAT_FILE"]).touch())

__all__: list[str] = []
