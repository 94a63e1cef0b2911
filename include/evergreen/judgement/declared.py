"""The rules that a model.yaml declares: limits of figures, which may forbid or warn and never say what is better."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from evergreen.judgement.evidence import Check, Evaluation, Figure, Verdict
from evergreen.spec import COST_METRICS, GateRule, ModelSpec, is_better_small


def declared_rules(evaluation: Evaluation, spec: ModelSpec) -> Iterator[Check]:
    """Yield a check for each limit of ``gate.rules``, on every value of its slice or every sensitive column."""
    return rules_kept(spec.gate.rules, evaluation.figures, spec, compared=evaluation.champion is not None)


def rules_kept(
    rules: Iterable[GateRule], figures: Iterable[Figure], spec: ModelSpec, *, compared: bool
) -> Iterator[Check]:
    """Yield the checks of some rules.

    Parameters
    ----------
    rules, figures
        The rules, and what was found.
    spec
        The model.
    compared
        Whether there is a champion: where there is none, nothing has dropped.
    """
    figures = tuple(figures)
    for rule in rules:
        for column in spec.gate.columns_of(rule):
            asked = (rule.metric, column, rule.minimum_rows)
            found = [item for item in figures if (item.metric, item.column, item.minimum_rows) == asked]
            if not found:
                subject = f"{rule.metric} by {column}" if column else rule.metric
                why = f"missing evidence: {subject} was not evaluated"
                yield Check(rule="gate.rules", subject=subject, verdict=_objection(rule), why=why)
            for figure in found:
                yield from _checks(figure, rule, compared=compared)


def _checks(figure: Figure, rule: GateRule, *, compared: bool) -> Iterator[Check]:
    subject = _subject(figure)
    if figure.rows < rule.minimum_rows and figure.metric not in COST_METRICS:
        why = f"{subject} ({figure.detail or f'{figure.rows} rows of {rule.minimum_rows}'})"
        yield Check(rule="gate.rules", subject=subject, rows=figure.rows, verdict=Verdict.NOT_JUDGED, why=why)
        return
    limits = {"minimum": rule.minimum, "maximum": rule.maximum, "maximum_drop": rule.maximum_drop if compared else None}
    for field, limit in limits.items():
        if limit is None:
            continue
        value = _drop(figure) if field == "maximum_drop" else figure.challenger
        why = _why(figure, field, value, limit)
        yield Check(
            rule=f"gate.rules[].{field}",
            subject=subject,
            value=value,
            limit=limit,
            rows=figure.rows or None,
            verdict=_objection(rule) if why else Verdict.PASSED,
            why=why,
        )


def _objection(rule: GateRule) -> Verdict:
    return Verdict.FAILED if rule.level == "blocking" else Verdict.WARNING


def _subject(figure: Figure) -> str:
    if figure.value:
        return f"{figure.metric}, {figure.column}={figure.value}"
    return f"{figure.metric} by {figure.column}" if figure.column else figure.metric


def _drop(figure: Figure) -> float | None:
    """Return how much worse the challenger's figure is than the champion's."""
    if figure.challenger is None or figure.champion is None:
        return None
    worse = figure.challenger - figure.champion
    return worse if is_better_small(figure.metric) else -worse


def _why(figure: Figure, field: str, value: float | None, limit: float) -> str:
    """Return why a figure speaks against the challenger, or nothing."""
    subject, drop = _subject(figure), field == "maximum_drop"
    detail = f" ({figure.detail})" if figure.detail else ""
    if value is None:
        against = ", or the champion's," if drop else ""
        return f"missing evidence: the challenger's {subject}{against} could not be computed{detail}"
    if (value >= limit) if field == "minimum" else (value <= limit):
        return ""
    if drop:
        return f"{subject} is worse than the champion's by {value:.4f}, more than the allowed {limit:g}"
    beyond = "below" if field == "minimum" else "above"
    return f"the challenger's {subject} of {value:.4f} is {beyond} the {field} {limit:g}{detail}"
