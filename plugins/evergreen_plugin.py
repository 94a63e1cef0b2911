"""What Evergreen adds to Airflow's own server. Every process of Airflow loads this file: it imports nothing of it."""

from __future__ import annotations

from typing import Any

from airflow.plugins_manager import AirflowPlugin


class EvergreenPlugin(AirflowPlugin):
    """The pictures of an evaluation, which the question about a challenger shows."""

    name = "evergreen"

    @property
    def fastapi_apps(self) -> list[Any]:  # type: ignore[override]  # only the API server asks, and it alone has FastAPI
        """Return the apps that the API server hands requests to."""
        from evergreen_airflow.evaluation_pictures import PLUGIN

        return [PLUGIN]
