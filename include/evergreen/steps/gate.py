"""``gate``: say whether the challenger may become champion, and write the decision down with its evidence."""

from __future__ import annotations

import logging

from evergreen.catalog import config_digest
from evergreen.contract import Request, Result, Status
from evergreen.handover import disagreement, upstream
from evergreen.judgement.audit import read_events
from evergreen.judgement.decisions import refused_in_a_row, write_decision
from evergreen.judgement.events import Judgement
from evergreen.judgement.evidence import Evaluation
from evergreen.judgement.rules import decide
from evergreen.spec import ModelSpec
from evergreen.store import get_store, parse_document
from evergreen.training.registry import TAG, connect, mlflow_errors
from evergreen.training.tracking import logged_model
from evergreen.trust.documents import read_signed
from evergreen.version import code_version

log = logging.getLogger(__name__)


def run(request: Request, spec: ModelSpec) -> Result:
    """Decide on the evidence that ``evaluate`` has signed, alone. "Not justified" is recorded as a promotion is."""
    evaluated, trained = upstream(request, "evaluate"), upstream(request, "train")
    output, model = evaluated.output("evaluation"), logged_model(trained)
    content = read_signed(evaluated, "evaluation")
    evaluation = parse_document(content, output.uri, Evaluation, "an evaluation", "Run evaluate again.")
    if output.rows != evaluation.rows:
        raise disagreement(evaluated, output, "rows", f"the evaluation says {evaluation.rows}")
    if evaluation.challenger.run_id != trained.facts["run_id"]:  # train ran again since
        judged = f"the evaluation is of MLflow's run {evaluation.challenger.run_id!r}"
        raise disagreement(trained, model, "uri", f"{judged}: run evaluate again too")
    verdict = decide(evaluation, spec)
    log.info("%s: %s", verdict.decision, verdict.why)
    key = write_decision(
        get_store(),
        request,
        Judgement(
            decision=verdict.decision,
            why=verdict.why,
            requested_by=str(request.params.get("requested_by") or request.run.run_id),
            evaluation=evaluation,
            evidence=(output, model, *evaluated.inputs, *trained.inputs),
            gate=spec.gate.model_dump(mode="json"),
            config_digest=config_digest(spec),
            code_version=code_version(),
        ),
        verdict.checks,
    )
    with mlflow_errors():
        connect().set_tag(evaluation.challenger.run_id, f"{TAG}decision", verdict.decision)
        connect().set_tag(evaluation.challenger.run_id, f"{TAG}decision_why", verdict.why)
    return Result(
        status=Status.OK if verdict.passed else Status.REFUSED,
        reason="" if verdict.passed else f"not justified: {verdict.why}",
        inputs=(output,),
        metrics=evaluated.metrics,
        facts={
            "decision": verdict.decision.value,
            "why": verdict.why,
            "decision_key": key,
            "evaluation_digest": output.digest,
            "run_id": evaluation.challenger.run_id,
            "slices_not_judged": list(verdict.unjudged),
            "checks": [check.model_dump(mode="json", exclude_none=True) for check in verdict.checks],
            "champion": evaluation.champion.version if evaluation.champion else None,
            "refused_in_a_row": refused_in_a_row(read_events(get_store(), spec.name), request),
        },
    )
