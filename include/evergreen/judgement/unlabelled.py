"""What can be asked of a model without labels: how it behaves, how easily it changes its answer, and what it costs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from evergreen.judgement.behaviours import answers_kept, behaviour_results
from evergreen.judgement.costs import costs_of
from evergreen.judgement.declared import rules_kept
from evergreen.judgement.evidence import Check
from evergreen.judgement.robustness import flips_of
from evergreen.spec import COST_METRICS, FLIP_METRICS, ModelSpec

if TYPE_CHECKING:
    import pandas as pd

    from evergreen.training.scorer import Scorer


def unlabelled_checks(
    spec: ModelSpec, frame: pd.DataFrame, model: Scorer, champion: Scorer | None
) -> tuple[Check, ...]:
    """Return the checks of the gate that a model can be asked even if it has learned from all labels there are.

    Parameters
    ----------
    spec, frame
        The model, and the rows of the evaluation window: the limits were chosen for these.
    model, champion
        Who is asked, and whom ``maximum_drop`` compares it with.
    """
    rules = [rule for rule in spec.gate.rules if rule.metric in {*COST_METRICS, *FLIP_METRICS}]
    figures = (*flips_of(spec, frame, model, champion), *costs_of(spec, frame, model, champion))
    asked = rules_kept(rules, figures, spec, compared=champion is not None)
    return (*asked, *answers_kept(behaviour_results(spec, frame, model), spec))
