"""Serves the pictures of an evaluation to whoever may see the question about it: Airflow's pages show them by address.

Airflow asks nobody who they are before it hands a request to an app of a plugin: this one asks for itself.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Annotated

from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity
from airflow.api_fastapi.core_api.security import requires_access_dag
from fastapi import Depends, FastAPI, HTTPException, Path, Query, Response

from evergreen.contract import RunIdentity, StepError
from evergreen.pipelines import PICTURES
from evergreen.store import get_store
from evergreen_airflow.approval_page import ADDRESS

_HEADERS = {
    "Cache-Control": "private, immutable, max-age=86400",  # the address names the content
    "Content-Security-Policy": "default-src 'none'; sandbox",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}

app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)


@app.get(
    "/{dag_id}/{name}",
    dependencies=[Depends(requires_access_dag(method="GET", access_entity=DagAccessEntity.HITL_DETAIL))],
)
def picture(
    dag_id: Annotated[str, Path(pattern=r"^[a-z][a-z0-9_]*\.train$")],
    name: str,
    run_id: Annotated[str, Query(min_length=1, max_length=250)],
    digest: Annotated[str, Query(alias="sha256", pattern="^[0-9a-f]{64}$")],
) -> Response:
    """Return a picture that ``evaluate`` has left in a run, if it still is the one that was asked for."""
    if name not in PICTURES:
        raise HTTPException(404, f"There is no picture {name!r}.")
    key = f"{RunIdentity(dag_id=dag_id, run_id=run_id, task_id='evaluate').key}/{name}.png"
    try:
        content = get_store().read(key)
    except StepError as error:
        raise HTTPException(503, str(error)) from error
    if content is None or sha256(content).hexdigest() != digest:
        raise HTTPException(404, "There is no such picture, or it was drawn again since.")
    return Response(content, media_type="image/png", headers=_HEADERS)


PLUGIN = {"app": app, "name": "evergreen-evaluations", "url_prefix": ADDRESS}
