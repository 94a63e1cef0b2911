"""The tests of ``behaviours.yaml``: how a challenger answers when its inputs change, and what the gate says to it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from evergreen.judgement.evidence import Check, Evaluation, Verdict
from evergreen.judgement.figures import MISSING
from evergreen.judgement.observations import BehaviourResult
from evergreen.judgement.robustness import ROWS
from evergreen.spec import ModelSpec, Task
from evergreen.spec.behaviours import Behaviour, Direction, GoldenRequest, OnRows

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from evergreen.training.scorer import Scorer

_UNKNOWN = "it knows no class {!r}"


def behaviour_results(spec: ModelSpec, frame: pd.DataFrame, challenger: Scorer) -> Iterator[BehaviourResult]:
    """Yield what a challenger does in each test of its ``behaviours.yaml``.

    Parameters
    ----------
    spec, frame
        The model, and the rows of the evaluation window: of those that a test is about and that its change touches,
        some :data:`~evergreen.judgement.robustness.ROWS` are asked about, or as many as it needs, evenly taken.
    challenger
        The model that is asked.
    """
    for kind, test in spec.behaviours.tests:
        found = BehaviourResult(name=test.name, kind=kind, definition=test.definition, rows=0)
        if unknown := [name for _, name, _ in test.columns if name not in challenger.inputs]:
            yield found.model_copy(update={"detail": f"it does not know {', '.join(unknown)}"})
        elif isinstance(test, GoldenRequest):
            yield _answered(spec.task, test, challenger, found)
        elif isinstance(test, OnRows):
            yield _moved(_rows(frame, test), test, challenger, found)


def _rows(frame: pd.DataFrame, test: OnRows) -> pd.DataFrame:
    """Return the rows that a test is about."""
    for name, value in test.where.items():
        frame = frame[_texts(frame[name]) == _texts_of(value)]
    return frame.reset_index(drop=True)


def _texts(column: pd.Series) -> pd.Series:
    from evergreen.training.encoder import category_names

    return category_names(column).fillna(MISSING)


def _texts_of(value: object) -> str:
    import pandas as pd

    return str(_texts(pd.Series([value]))[0])


def _moved(rows: pd.DataFrame, test: OnRows, model: Scorer, found: BehaviourResult) -> BehaviourResult:
    """Return how the answers move where the change makes a difference: a row that stays as it was says nothing."""
    import numpy as np

    before = rows[list(model.inputs)]
    after = before.assign(**{name: None for _, name, _ in test.columns} | test.set)
    after = after.assign(**{name: before[name].astype("float64") + amount for name, amount in test.shift.items()})
    changed = [name for _, name, _ in test.columns]
    touched = np.any([_texts(before[name]) != _texts(after[name]) for name in changed], axis=0)
    step = max(1, int(touched.sum()) // max(ROWS, test.minimum_rows))
    before, after = before[touched][::step], after[touched][::step]
    found = found.model_copy(update={"rows": len(before)})
    if found.rows < test.minimum_rows:
        return found
    said = [model.predict(each) for each in (before, after)]
    if isinstance(test, Direction) and test.of and test.of not in said[0].columns:
        return found.model_copy(update={"detail": _UNKNOWN.format(test.of)})
    numbers = [each.to_numpy(dtype=np.float64) for each in said]
    if not all(np.isfinite(each).all() for each in numbers):
        return found.model_copy(update={"detail": "an answer is not finite"})
    return _worst(test, list(said[0].columns), numbers, (before[changed], after[changed]), found)


def _worst(
    test: OnRows,
    outputs: list[str],
    said: list[np.ndarray],
    values: tuple[pd.DataFrame, pd.DataFrame],
    found: BehaviourResult,
) -> BehaviourResult:
    """Return the share of rows whose answer has moved as it must not, and the row where it has done so most."""
    import numpy as np

    moves = said[1] - said[0]
    if isinstance(test, Direction):
        column = outputs.index(test.of) if test.of else 0
        wrong = moves[:, column] * (-1 if test.goes == "up" else 1)
    else:
        column, wrong = int(abs(moves).max(axis=0).argmax()), abs(moves).max(axis=1)
    row = int(wrong.argmax())
    old, new = (each.iloc[row] for each in values)
    return found.model_copy(
        update={
            "share": float(np.mean(wrong > test.tolerance)),
            "before": float(said[0][row, column]),
            "after": float(said[1][row, column]),
            "detail": ", ".join(f"{name} {_shown(old[name])} to {_shown(new[name])}" for name in old.index),
        }
    )


def _shown(value: object) -> str:
    import pandas as pd

    if pd.isna(value):
        return MISSING
    return f"{value:g}" if isinstance(value, float) else str(value)


def _answered(task: Task, test: GoldenRequest, model: Scorer, found: BehaviourResult) -> BehaviourResult:
    """Return whether a request is answered as a person has said."""
    import pandas as pd

    row = pd.DataFrame({name: [test.inputs.get(name)] for name in model.inputs}, dtype=object)
    said = {name: float(value) for name, value in model.predict(row).iloc[0].items()}
    if not all(map(math.isfinite, said.values())):
        return found.model_copy(update={"detail": "the answer is not finite"})
    if test.of and test.of not in said:
        return found.model_copy(update={"detail": _UNKNOWN.format(test.of)})
    chosen = max(said, key=lambda name: said[name])
    number = said[test.of or chosen]
    if test.between is not None:
        wrong, detail = not test.between[0] <= number <= test.between[1], f"the answer is {number:.4f}"
    else:
        answer = chosen if task is Task.MULTICLASS else str(int(number > 0.5))
        wrong, detail = answer != _texts_of(test.answer), f"the answer is {answer} ({number:.4f})"
    return found.model_copy(update={"rows": 1, "share": float(wrong), "after": number, "detail": detail})


def behaviours_kept(evaluation: Evaluation, spec: ModelSpec) -> Iterator[Check]:
    """Yield a check for each test of ``behaviours.yaml``; one that was not asked as it stands there is not passed."""
    return answers_kept(evaluation.behaviours, spec)


def answers_kept(behaviours: Iterable[BehaviourResult], spec: ModelSpec) -> Iterator[Check]:
    """Yield the check of each test, of what a model did in them."""
    answers = {item.name: item for item in behaviours}
    for _, test in spec.behaviours.tests:
        found = answers.get(test.name)
        if found and found.definition != test.definition:
            found = None
        limit = test.maximum_share if isinstance(test, OnRows) else 0.0
        check = Check(
            rule="behaviours",
            subject=test.name,
            value=found.share if found else None,
            limit=limit,
            rows=found.rows if found else None,
        )
        if found and not found.detail and isinstance(test, OnRows) and found.rows < test.minimum_rows:
            why = f"{test.name!r} ({found.rows} rows of {test.minimum_rows})"
            yield check.model_copy(update={"verdict": Verdict.NOT_JUDGED, "why": why})
        elif why := _objection(test, found, limit):
            verdict = Verdict.FAILED if test.level == "blocking" else Verdict.WARNING
            yield check.model_copy(update={"verdict": verdict, "why": f"behaviours: {test.name!r}: {why}"})
        else:
            yield check


def _objection(test: Behaviour, found: BehaviourResult | None, limit: float) -> str:
    """Return why an answer speaks against the challenger, or nothing."""
    if found is None:
        return "missing evidence: it was not evaluated"
    if found.share is None:
        return f"missing evidence: it could not be evaluated: {found.detail}"
    if found.share <= limit:
        return ""
    if isinstance(test, GoldenRequest):
        wanted = f"{test.between[0]:g} to {test.between[1]:g}" if test.between else _texts_of(test.answer)
        return f"{found.detail}, not {wanted}"
    way = "does not stay"
    if isinstance(test, Direction):
        way = f"goes {'down' if test.goes == 'up' else 'up'}"
    return (
        f"the answer {way} in {found.share:.1%} of {found.rows} rows ({found.detail}: {found.before:.4f} to "
        f"{found.after:.4f}), more than the allowed {limit:.1%}"
    )
