"""``refit``: fit the configuration that has won again, on the days it was judged on as well, where model.yaml asks."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from evergreen.contract import Manifest, Request, Result
from evergreen.handover import read_frame, store_frames, upstream
from evergreen.judgement.evidence import Check, Decision, Verdict, said
from evergreen.judgement.metrics import deciding_metric
from evergreen.judgement.unlabelled import unlabelled_checks
from evergreen.monitoring.reference import with_baseline
from evergreen.spec import ModelSpec
from evergreen.training.challenger import trained_once
from evergreen.training.loading import load_run, load_version
from evergreen.training.registry import REFIT_REFUSED, by_run, champion_before
from evergreen.training.tracking import logged_model

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)


def run(request: Request, spec: ModelSpec) -> Result:
    """Return the model to register: the challenger, or what ``training.refit`` makes of it.

    Nobody can judge what has learned from all labels there are: that it is good follows from the challenger, which
    differs from it by the newest days alone. What needs no label is asked of it all the same. If a blocking test fails,
    the challenger, which has passed them all, stays the one to register, and the reason says so.

    A first champion stays the one that was judged: should the other be worse, there would be none to roll back to.
    """
    assembled, trained = upstream(request, "assemble"), upstream(request, "train")
    logged_model(trained)  # as MLflow knows it
    if not spec.training.refit or upstream(request, "gate").facts["decision"] != Decision.PROMOTE.value:
        return Result(outputs=trained.outputs, inputs=trained.inputs, facts=trained.facts)
    return _refit(request, spec, assembled, trained)


def _refit(request: Request, spec: ModelSpec, assembled: Manifest, trained: Manifest) -> Result:
    import pandas as pd

    evaluation = read_frame(assembled, "evaluation")
    frame = pd.concat([read_frame(assembled, "training"), evaluation], ignore_index=True)
    (dataset,) = store_frames(spec.name, request.partition, {"training": frame})
    challenger = str(trained.facts["run_id"])
    fitted = trained_once(request, spec, dataset, frame, assembled.inputs, deciding_metric, refit_of=challenger)
    run_id = str(fitted.facts["run_id"])
    checks = _asked(spec, evaluation, run_id, challenger)
    told = {"checks": [check.model_dump(mode="json", exclude_none=True) for check in checks]}
    # a latency is another one each time: what is registered by now was asked before, and stays
    if (objections := said(checks, Verdict.FAILED)) and by_run(spec.name, run_id) is None:
        why = f"the challenger stays as it was judged: fitted again, {'; '.join(objections)}"
        log.warning("%s: %s", spec.name, why)
        facts = {**trained.facts, **told, REFIT_REFUSED: why, "refused_run_id": run_id}
        return Result(reason=why, outputs=trained.outputs, inputs=trained.inputs, facts=facts)
    return with_baseline(request, spec, fitted.model_copy(update={"facts": {**fitted.facts, **told}}), frame)


def _asked(spec: ModelSpec, frame: pd.DataFrame, run_id: str, challenger: str) -> tuple[Check, ...]:
    """Ask what was fitted again, where its challenger was judged, all that needs no label."""
    champion = champion_before(spec.name, challenger)
    return unlabelled_checks(spec, frame, load_run(spec.name, run_id), load_version(champion) if champion else None)
