"""Loaded by every Airflow process at its start.

Tasks and DAG parsers are forks of the scheduler and the DAG processor: what these two have imported, no
fork needs to import again. The pod operator alone costs 0.9 s. Other processes do without. The project's own
modules are left out, so that a change to one of them counts from the next task on.
"""

from __future__ import annotations

import sys

if {"scheduler", "dag-processor"} & set(sys.argv):
    import airflow.providers.cncf.kubernetes.operators.pod  # noqa: F401
    import pydantic_settings  # noqa: F401

__all__: list[str] = []
