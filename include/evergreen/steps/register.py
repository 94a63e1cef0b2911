"""``register``: make a version of a challenger that passed the gate, and call it ``challenger``."""

from __future__ import annotations

from evergreen.contract import Output, Request, Result
from evergreen.handover import upstream
from evergreen.judgement.decisions import amend_decision
from evergreen.spec import ModelSpec
from evergreen.steps.promote import refuse_in_backfill
from evergreen.store import get_store
from evergreen.training.registry import CHALLENGER, register, set_alias
from evergreen.training.tracking import logged_model


def run(request: Request, spec: ModelSpec) -> Result:
    """Register the run's model once, with the tags that later steps and people need."""
    refuse_in_backfill(request)
    trained, judged = upstream(request, "train"), upstream(request, "gate")
    run_id, model = str(trained.facts["run_id"]), logged_model(trained)
    read = {given.name: given for given in trained.inputs}
    dataset = read.pop("training")
    scores = {
        f"metric.{name.removeprefix('challenger_')}": repr(value)
        for name, value in judged.metrics.items()
        if name.startswith("challenger_")
    }
    tags = {
        "training_start": trained.facts["training_start"],
        "training_end": trained.facts["training_end"],
        "partition": request.partition,
        "dataset_uri": dataset.uri,
        "dataset_version": dataset.version,
        "config_digest": trained.config_digest,
        "code_version": trained.code_version,
        "model_digest": model.digest,
        "decision": judged.facts["decision"],
        "decision_key": judged.facts["decision_key"],
        **{f"snapshot.{given.name}": given.version for given in read.values()},
        **scores,
    }
    version = register(spec.name, spec.description, run_id, {name: str(value) for name, value in tags.items()})
    set_alias(version, CHALLENGER)
    amend_decision(get_store(), str(judged.facts["decision_key"]), registered_version=version.number)
    return Result(
        outputs=(Output(name="version", uri=version.uri, version=version.number),),
        inputs=(model,),
        facts={"version": version.number, "run_id": run_id},
    )
