"""``evaluate``: champion and challenger on the newest labelled window, which neither has learned from."""

from __future__ import annotations

from functools import cache, partial
from hashlib import sha256
from typing import TYPE_CHECKING

from pydantic import JsonValue

from evergreen.contract import Request, Result
from evergreen.handover import read_frame, store_output, upstream
from evergreen.judgement.audit import read_events
from evergreen.judgement.behaviours import behaviour_results
from evergreen.judgement.champions import champion_of
from evergreen.judgement.costs import costs_of
from evergreen.judgement.decisions import look_at
from evergreen.judgement.decline import measured_metric
from evergreen.judgement.evaluation import evaluation_of, score
from evergreen.judgement.evidence import Candidate, Evaluation, unseen
from evergreen.judgement.leaks import leaks_of
from evergreen.judgement.metrics import Scored
from evergreen.judgement.pictures import pictures_of
from evergreen.judgement.robustness import flips_of
from evergreen.spec import ModelSpec
from evergreen.store import get_store
from evergreen.training.loading import load_trained, load_version
from evergreen.training.preparation import window_of
from evergreen.training.registry import champion_before
from evergreen.training.scorer import Scorer
from evergreen.training.tracking import log_pictures, logged_model
from evergreen.trust.documents import store_signed

if TYPE_CHECKING:
    import pandas as pd


def run(request: Request, spec: ModelSpec) -> Result:
    """Score both models and store ``evaluation.json``, signed: what the gate decides on, and an auditor reads.

    Pictures of it lie beside it, and with the challenger's run in MLflow; the evaluation has their digests.

    A champion that has seen part of the window is scored and reported, but its comparison is no evidence: the gate
    refuses it.
    """
    trained, assembled = upstream(request, "train"), upstream(request, "assemble")
    dataset, frame = assembled.output("evaluation"), read_frame(assembled, "evaluation")
    model = logged_model(trained)
    run_id = str(trained.facts["run_id"])
    champion_of(request)
    champion = champion_before(spec.name, run_id)
    loaded = [load_trained(trained, model), *([load_version(champion)] if champion else [])]
    scores = score(spec, frame, loaded)
    judged = [(_candidate(spec, frame, *pair), pair[1]) for pair in zip(loaded, scores, strict=True)]
    training = cache(partial(read_frame, assembled, "training"))  # it may be asked for twice
    evaluation = evaluation_of(
        spec,
        frame,
        f"{dataset.uri} ({dataset.version})",
        judged[0],
        judged[1] if champion else None,
        training,
        look_at(read_events(get_store(), spec.name), champion.number if champion else None, run_id, window_of(frame)),
    )
    evaluation = _with_the_models(spec, frame, evaluation, loaded[0], loaded[1] if champion else None)
    evaluation = evaluation.model_copy(update={"leaks": leaks_of(spec, frame, training())})
    pictures = pictures_of(spec, frame, evaluation, scores[0], scores[1] if champion else None)
    drawn = {name: sha256(picture).hexdigest() for name, picture in pictures.items()}
    evaluation = evaluation.model_copy(update={"pictures": drawn})
    content = evaluation.model_dump_json(indent=2).encode()
    key = f"{request.run.key}/evaluation.json"
    output = store_signed(request, "evaluation", key, content, rows=len(frame))
    log_pictures(run_id, "evaluation", {f"{name}.png": picture for name, picture in pictures.items()})
    return Result(
        outputs=(output, *(store_output(name, f"{request.run.key}/{name}.png", of) for name, of in pictures.items())),
        inputs=(model, dataset, *([champion.output("champion")] if champion else [])),
        metrics=_metrics(evaluation),
        facts=_facts(evaluation, spec),
    )


def _with_the_models(
    spec: ModelSpec, frame: pd.DataFrame, evaluation: Evaluation, challenger: Scorer, champion: Scorer | None
) -> Evaluation:
    """Return the evaluation with what the models say to other inputs than those of the rows."""
    asked = spec, frame, challenger, champion
    figures = (*evaluation.figures, *flips_of(*asked), *costs_of(*asked))
    behaviours = tuple(behaviour_results(spec, frame, challenger))
    return evaluation.model_copy(update={"figures": figures, "behaviours": behaviours})


def _candidate(spec: ModelSpec, frame: pd.DataFrame, model: Scorer, scores: Scored) -> Candidate:
    """Return who was scored, how well, and the window it learned from, as it was signed."""
    bound, metrics = model.bound, scores.metrics()
    return Candidate(
        version=bound.version,
        run_id=bound.run_id,
        training=bound.training,
        metrics=metrics,
        error=measured_metric(spec, frame, scores, metrics).error,
    )


def _metrics(evaluation: Evaluation) -> dict[str, float]:
    metrics = {f"challenger_{name}": value for name, value in evaluation.challenger.metrics.items()}
    if evaluation.challenger.error is not None:
        metrics["challenger_error"] = evaluation.challenger.error
    if evaluation.champion:
        metrics |= {f"champion_{name}": value for name, value in evaluation.champion.metrics.items()}
    if interval := evaluation.interval:
        metrics |= dict(zip(("improvement", "improvement_low", "improvement_high"), interval, strict=True))
    if evaluation.gain is not None and evaluation.harm is not None:
        metrics |= {"expected_gain": evaluation.gain, "expected_harm": evaluation.harm}
    if (baseline := evaluation.baseline) and (interval := baseline.interval) and baseline.score is not None:
        metrics["baseline"] = baseline.score
        metrics |= dict(zip(("merit", "merit_low", "merit_high"), interval, strict=True))
    return metrics


def _facts(evaluation: Evaluation, spec: ModelSpec) -> dict[str, JsonValue]:
    champion = evaluation.champion
    return {
        "window": str(evaluation.window),
        "rows": evaluation.rows,
        "champion": champion.version if champion else None,
        "partitions": evaluation.partitions,
        "effective_partitions": evaluation.effective_partitions,
        "look": evaluation.look,
        "champion_saw_window": bool(champion and not unseen(champion, evaluation.window, spec)),
        "baseline": evaluation.baseline.name if evaluation.baseline else None,
        "champion_unscored": evaluation.unscored,
        "slices": len(evaluation.slices),
    }
