"""``refit``: fit the configuration that has won again, on the days it was judged on as well, where model.yaml asks."""

from __future__ import annotations

from evergreen.contract import Manifest, Request, Result
from evergreen.handover import read_frame, store_frames, upstream
from evergreen.judgement.evidence import Decision
from evergreen.monitoring.reference import with_baseline
from evergreen.spec import ModelSpec
from evergreen.training.challenger import trained_once
from evergreen.training.tracking import logged_model


def run(request: Request, spec: ModelSpec) -> Result:
    """Return the model to register: the challenger, or what ``training.refit`` makes of it.

    Nobody can judge what has learned from all labels there are: that it is good follows from the challenger, which
    differs from it by the newest days alone. A first champion stays the one that was judged: should the other be
    worse, there would be none to roll back to.
    """
    assembled, trained = upstream(request, "assemble"), upstream(request, "train")
    logged_model(trained)  # as MLflow knows it
    if not spec.training.refit or upstream(request, "gate").facts["decision"] != Decision.PROMOTE.value:
        return Result(outputs=trained.outputs, inputs=trained.inputs, facts=trained.facts)
    return _refit(request, spec, assembled, str(trained.facts["run_id"]))


def _refit(request: Request, spec: ModelSpec, assembled: Manifest, challenger: str) -> Result:
    import pandas as pd

    frame = pd.concat([read_frame(assembled, name) for name in ("training", "evaluation")], ignore_index=True)
    (dataset,) = store_frames(spec.name, request.partition, {"training": frame})
    result = trained_once(request, spec, dataset, frame, assembled.inputs, refit_of=challenger)
    return with_baseline(request, spec, result, frame)
