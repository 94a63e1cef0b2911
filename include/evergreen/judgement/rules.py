"""Evidence decides: whether an evaluation justifies a promotion. Each of the :data:`RULES` asks for one kind of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from evergreen.judgement.behaviours import behaviours_kept
from evergreen.judgement.declared import declared_rules
from evergreen.judgement.evidence import (
    Check,
    Decision,
    Evaluation,
    GateResult,
    Leaks,
    SliceScore,
    Verdict,
    said,
    unseen,
)
from evergreen.judgement.words import expectation, outlook, over_baseline, over_champion
from evergreen.spec import METRICS, Direction, ModelSpec, Slice

_MINUTE = "%Y-%m-%dT%H:%MZ"
_SHOWN = 10
"""Warnings, and values of slices that were not judged, that a reason names; the checks have them all."""


def decide(evaluation: Evaluation, spec: ModelSpec) -> GateResult:
    """Say whether the challenger may become champion; a function of the evidence and the spec alone.

    It may if no check of the :data:`RULES` fails; a warning is told and changes nothing. Missing evidence means no: a
    metric that is absent or not finite, too few rows or days, a model that has seen what it is judged on, an interval
    that could not be computed.
    """
    checks = tuple(check for rule in RULES for check in rule(evaluation, spec))
    if objections := said(checks, Verdict.FAILED):
        decision, why = Decision.NOT_JUSTIFIED, "; ".join(objections)
    else:
        decision = Decision.PROMOTE if evaluation.champion else Decision.FIRST_CHAMPION
        why = _in_favour(evaluation, spec)
    for title, verdict in (("warnings", Verdict.WARNING), ("not judged", Verdict.NOT_JUDGED)):
        if found := said(checks, verdict):
            more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
            why += f"; {title}: {', '.join(found[:_SHOWN])}{more}"
    return GateResult(decision=decision, why=why, checks=checks)


def _in_favour(evaluation: Evaluation, spec: ModelSpec) -> str:
    metric = spec.gate.metric
    score = f"{metric} {evaluation.challenger.metrics[metric]:.4f} on {evaluation.window}"
    if evaluation.champion is None:
        return f"there is no champion yet, and {score} passes every limit: {over_baseline(evaluation)}"
    reason = outlook(evaluation) if spec.gate.rule == "expected_gain" else "better beyond noise"
    return f"{score}: {over_champion(evaluation)}, {reason}"


def _check(rule: str, subject: str, value: float | None, limit: float | None, rows: int, objection: str = "") -> Check:
    """Return a check that is passed unless there is an objection."""
    known = value is not None and math.isfinite(value)
    return Check(
        rule=rule,
        subject=subject,
        value=value if known else None,
        limit=limit,
        rows=rows,
        verdict=Verdict.FAILED if objection else Verdict.PASSED,
        why=objection,
    )


def _enough_rows_and_days(evaluation: Evaluation, spec: ModelSpec) -> Iterator[Check]:
    window, rows = evaluation.window, evaluation.rows
    least, least_days = spec.windows.minimum_evaluation_rows, spec.windows.minimum_evaluation_partitions
    few = f"missing evidence: {rows} labelled rows in {window}, {least} are needed"
    yield _check("windows.minimum_evaluation_rows", "", rows, least, rows, few if rows < least else "")
    days = evaluation.partitions
    short = f"missing evidence: labelled rows on {days} days of {window}, {least_days} days are needed"
    subject = "windows.minimum_evaluation_partitions"
    yield _check(subject, "", days, least_days, rows, short if days < least_days else "")


def _metrics_known(evaluation: Evaluation, spec: ModelSpec) -> Iterator[Check]:
    for name in dict.fromkeys([spec.gate.metric, *spec.gate.required, *spec.gate.limits]):
        value = evaluation.challenger.metrics.get(name)
        missing = value is None or not math.isfinite(value)
        objection = f"missing evidence: the challenger's {name} could not be computed"
        yield _check("gate.required", name, value, None, evaluation.rows, objection if missing else "")


def _window_unseen(evaluation: Evaluation, spec: ModelSpec) -> Iterator[Check]:
    delay = spec.features.examples.label_delay_days
    late = f" (labels are known {delay} days later)" if delay else ""
    for title, candidate in (("challenger", evaluation.challenger), ("champion", evaluation.champion)):
        if candidate is None:
            continue
        objection = (
            f"missing evidence: the {title} learned from {candidate.training}, "
            f"which reaches into the evaluation window {evaluation.window}{late}"
        )
        seen = not unseen(candidate, evaluation.window, spec)
        yield _check(
            "windows", f"{title} has not seen the window", None, None, evaluation.rows, objection if seen else ""
        )


def _within_limits(evaluation: Evaluation, spec: ModelSpec) -> Iterator[Check]:
    for name, limit in spec.gate.limits.items():
        value = evaluation.challenger.metrics.get(name)
        if value is None:
            continue  # named as missing evidence
        floor = METRICS[name][1] is Direction.MAXIMIZE
        beyond = (value < limit) if floor else (value > limit)
        objection = f"the challenger's {name} of {value:.4f} is {'below' if floor else 'above'} the limit {limit:g}"
        yield _check("gate.limits", name, value, limit, evaluation.rows, objection if beyond else "")


def _better_than_no_model(evaluation: Evaluation, _: ModelSpec) -> Iterator[Check]:
    """Where there is no champion to be better than, a challenger has to beat the best trivial prediction."""
    if evaluation.champion is not None:
        return
    interval = evaluation.baseline.interval if evaluation.baseline else None
    objection = ""
    if interval is None:
        objection = (
            f"missing evidence: whether {evaluation.metric} is better than a trivial baseline's could not be computed"
        )
    elif interval[1] <= 0:
        objection = f"{over_baseline(evaluation)}: no better beyond noise than without a model"
    low = interval[1] if interval else None
    yield _check("gate.metric", "lower end of the improvement over no model", low, 0.0, evaluation.rows, objection)


def _better_than_champion(evaluation: Evaluation, spec: ModelSpec) -> Iterator[Check]:
    """Ask, as ``gate.rule`` says, whether it is better beyond noise, or worth the harm that it may do."""
    if evaluation.champion is None:
        return
    if evaluation.interval is None:
        objection = f"missing evidence: the improvement in {spec.gate.metric} has no confidence interval"
        yield _check("gate.metric", "improvement over the champion", None, None, evaluation.rows, objection)
    elif spec.gate.rule == "expected_gain":
        yield from _worth_the_harm(evaluation, spec, evaluation.interval[0])
    else:
        low, least = evaluation.interval[1], spec.gate.minimum_improvement
        objection = f"{over_champion(evaluation)}: not better by more than {least:g} beyond noise"
        subject = "lower end of the improvement over the champion"
        yield _check(
            "gate.minimum_improvement", subject, low, least, evaluation.rows, objection if low <= least else ""
        )


def _worth_the_harm(evaluation: Evaluation, spec: ModelSpec, improvement: float) -> Iterator[Check]:
    least, weight, rows = spec.gate.minimum_improvement, spec.gate.weight(evaluation.look), evaluation.rows
    small = f"{over_champion(evaluation)}: not better by more than {least:g}" if improvement <= least else ""
    yield _check("gate.minimum_improvement", "improvement over the champion", improvement, least, rows, small)
    expected, subject = expectation(evaluation), "expected gain by expected harm"
    if expected is None:
        missing = f"missing evidence: the gain and the harm expected in {spec.gate.metric} could not be computed"
        yield _check("gate.harm_weight", subject, None, weight, rows, missing)
        return
    ratio = expected.gain / expected.harm if expected.harm > 0 else math.inf
    heavy = f"{over_champion(evaluation)}: {outlook(evaluation)}, and the gain must be {weight:g} times the harm"
    yield _check("gate.harm_weight", subject, ratio, weight, rows, heavy if ratio <= weight else "")


def _no_slice_worse(evaluation: Evaluation, spec: ModelSpec) -> Iterator[Check]:
    """No value of a slice is worse than allowed beyond noise, however few its rows are."""
    for rule in spec.gate.slices if evaluation.champion else ():
        scores = [score for score in evaluation.slices if score.column == rule.column]
        checks = [_slice_check(score, rule, spec) for score in scores]
        if not scores:
            yield _check("gate.slices", rule.column, None, None, 0, f"missing evidence: no scores by {rule.column}")
        yield from checks
        if rule.required and any(check.verdict is Verdict.NOT_JUDGED for check in checks):
            objection = f"missing evidence: gate.slices requires every {rule.column} to be judged"
            yield _check("gate.slices", f"every {rule.column} judged", None, None, evaluation.rows, objection)


def _slice_check(score: SliceScore, rule: Slice, spec: ModelSpec) -> Check:
    where, improvement = f"{rule.column}={score.value}", score.improvement
    worse = None if improvement is None else -improvement
    check = _check("gate.slices", where, worse, rule.maximum_regression, score.rows, _regression(score, rule, spec))
    weakness = _weakness(score, rule, spec)
    if check.why or not weakness:
        return check
    return check.model_copy(update={"verdict": Verdict.NOT_JUDGED, "why": f"{where} ({weakness})"})


def _regression(score: SliceScore, rule: Slice, spec: ModelSpec) -> str:
    """Return why a value speaks against the challenger, or nothing."""
    where, metric = f"{rule.column}={score.value}", spec.gate.metric
    if score.interval is None:
        enough = score.rows >= rule.minimum_rows and score.partitions >= spec.windows.minimum_evaluation_partitions
        return f"missing evidence: {metric} for {where} ({score.rows} rows)" if enough else ""
    improvement, low, high = score.interval
    if -improvement <= rule.maximum_regression or high >= 0:
        return ""
    return (
        f"{where}: {metric} worse by {-improvement:.4f} (interval {-high:.4f} to {-low:.4f}, {score.rows} rows), "
        f"more than the allowed {rule.maximum_regression:g}"
    )


def _weakness(score: SliceScore, rule: Slice, spec: ModelSpec) -> str:
    """Return why a value's evidence is too weak to say that it is not worse than allowed, or nothing."""
    if score.rows < rule.minimum_rows:
        return f"{score.rows} rows of {rule.minimum_rows}"
    if score.partitions < spec.windows.minimum_evaluation_partitions:
        return f"{score.partitions} days of {spec.windows.minimum_evaluation_partitions}"
    if score.interval and -score.interval[0] > rule.maximum_regression:
        return f"worse by {-score.interval[0]:.4f}, but within noise"
    return ""


def _no_leak(evaluation: Evaluation, spec: ModelSpec) -> Iterator[Check]:
    """Nothing is too good to be true: no input tells the label alone, no row was learned from, no event is too late."""
    if (leaks := evaluation.leaks) is None:
        return
    yield from _before_the_label(leaks, spec)
    rows, threshold = evaluation.rows, spec.gate.leak_threshold
    scores = {item.column: item.score for item in leaks.inputs if item.score is not None}
    beyond = [column for column, score in scores.items() if score > threshold]
    for column in beyond or sorted(scores, key=lambda name: scores[name])[-1:]:
        objection = (
            f"the input {column!r} alone tells {spec.features.examples.label} ({scores[column]:.4f} of 1, more than "
            f"{threshold:g}): it may be known only afterwards; if it is not, raise gate.leak_threshold"
        )
        subject = f"{column} alone"
        yield _check("gate.leak_threshold", subject, scores[column], threshold, rows, objection if beyond else "")
    if leaks.shared is None or leaks.chance is None:
        return
    limit = min(1.0, leaks.chance + spec.gate.maximum_shared_rows)
    objection = (
        f"{leaks.shared:.1%} of the rows of {evaluation.window} are in the training window too, with the same inputs "
        f"and label; chance explains {leaks.chance:.1%}: look for events that a source delivers on several days"
    )
    subject = "rows shared with the training window"
    broken = leaks.shared > limit
    yield _check("gate.maximum_shared_rows", subject, leaks.shared, limit, rows, objection if broken else "")


def _before_the_label(leaks: Leaks, spec: ModelSpec) -> Iterator[Check]:
    """Nobody is asked about what is known: the features of that moment may count it."""
    if (late := leaks.late) is None:
        return
    limit, share = spec.gate.maximum_late_events, late.count / late.rows
    objection = ""
    if share > limit:
        example = f"one of {late.event:{_MINUTE}} has a label of {late.known:{_MINUTE}}"
        objection = (
            f"{late.count} of the {late.rows} examples of both windows are asked when their label is known already: "
            f"{example}, and its features may count it; look at event_timestamp and ds in "
            f"{spec.features.examples.sql}, or raise gate.maximum_late_events"
        )
    subject = "events that are not before their label"
    yield _check("gate.maximum_late_events", subject, share, limit, late.rows, objection)


RULES: tuple[Callable[[Evaluation, ModelSpec], Iterator[Check]], ...] = (
    _enough_rows_and_days,
    _metrics_known,
    _window_unseen,
    _within_limits,
    _better_than_no_model,
    _better_than_champion,
    _no_slice_worse,
    _no_leak,
    declared_rules,
    behaviours_kept,
)
"""What a challenger is asked: each rule yields every check it makes; one that fails says why, in words."""
