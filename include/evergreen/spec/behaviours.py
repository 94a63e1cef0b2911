"""``behaviours.yaml``: what a model must do whatever its metrics say, as tests that a challenger has to pass."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from evergreen.contract import Frozen
from evergreen.field_types import ColumnName, Columns, Count, Number, Text, use_one_of
from evergreen.spec.data import Features, refuse
from evergreen.spec.learning import Task


def _plain(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("expected a number or text; YAML reads yes, no, on and off as true and false: quote them")
    if not isinstance(value, int | float | str) or (isinstance(value, float) and not math.isfinite(value)):
        raise ValueError("expected a number or text; quote what YAML takes for something else, such as a day")
    return value


Value = Annotated[float | str, BeforeValidator(_plain)]
Share = Annotated[Number, Field(ge=0, lt=1)]
Level = Literal["blocking", "warning"]
_LIMITS = frozenset({"level", "maximum_share"})
"""What may change without asking the model again."""
_BINARY = (0, 1, "0", "1")
"""How a class of a binary model may be written: what `evergreen.training.encoder.category_names` makes 0 and 1 of."""


class Behaviour(Frozen):
    """One test, with a name of its own."""

    name: Text = Field(max_length=200)
    level: Level = "blocking"
    """``blocking``: a challenger that fails it does not become champion. ``warning``: the decision says so."""

    @property
    def definition(self) -> str:
        """The digest (16 hex characters) of what is asked, limits aside: an answer to something else is none."""
        asked = {"kind": type(self).__name__, **self.model_dump(mode="json", exclude=set(_LIMITS))}
        return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def columns(self) -> Iterator[tuple[str, str, Value | None]]:
        """The inputs that are given another value: by which field, and the value or the amount; None: it is missing."""
        raise NotImplementedError


class OnRows(Behaviour):
    """What happens to the answers when inputs of rows are changed."""

    where: dict[ColumnName, Value] = Field(default_factory=dict)
    """The rows it is about; none: all."""
    set: dict[ColumnName, Value] = Field(default_factory=dict)
    """Inputs that are given a value."""
    shift: dict[ColumnName, Number] = Field(default_factory=dict)
    """Numbers that are moved by an amount."""
    take_away: Columns = ()
    """Inputs that go missing."""
    tolerance: Number = Field(default=0.0, ge=0)
    """By how much an answer may move all the same: of a probability, or in the label's unit."""
    maximum_share: Share = 0.0
    """In what share of the rows it may move by more."""
    minimum_rows: Count = Field(default=30, ge=1)
    """With fewer rows that a change touches nothing is judged."""

    @model_validator(mode="after")
    def _changes_something_once(self) -> OnRows:
        changed = [name for _, name, _ in self.columns]
        twice = sorted({name for name in changed if changed.count(name) > 1})
        problems = [f"set, shift, take_away: {name!r} can be changed in one way only" for name in twice]
        refuse(problems if changed else ["set: give at least one of set, shift and take_away"])
        return self

    @property
    def columns(self) -> Iterator[tuple[str, str, Value | None]]:
        """The inputs that are changed."""
        yield from (("set", name, value) for name, value in self.set.items())
        yield from (("shift", name, amount) for name, amount in self.shift.items())
        yield from (("take_away", name, None) for name in self.take_away)


class Invariance(OnRows):
    """The answer stays as it is."""


class Direction(OnRows):
    """The answer goes one way, or stays."""

    goes: Literal["up", "down"]
    of: Text | None = None
    """Of a multiclass model: the class whose probability it is."""


class GoldenRequest(Behaviour):
    """A request whose answer a person knows."""

    inputs: dict[ColumnName, Value] = Field(min_length=1)
    """Those that are not named are missing."""
    between: tuple[Number, Number] | None = None
    """The least and the most that the probability, or the value, may be."""
    of: Text | None = None
    """Of a multiclass model: the class whose probability it is."""
    answer: Value | None = None
    """The class: of a binary model 1 or 0."""

    @model_validator(mode="after")
    def _has_one_answer(self) -> GoldenRequest:
        if (self.between is None) == (self.answer is None):
            raise ValueError("between: give one of between and answer")
        if self.between is not None and self.between[0] > self.between[1]:
            raise ValueError(f"between: no answer is at least {self.between[0]:g} and at most {self.between[1]:g}")
        return self

    @property
    def columns(self) -> Iterator[tuple[str, str, Value | None]]:
        """The inputs."""
        yield from (("inputs", name, value) for name, value in self.inputs.items())


class Behaviours(Frozen):
    """The whole file: each kind of test is a list."""

    invariance: tuple[Invariance, ...] = ()
    direction: tuple[Direction, ...] = ()
    request: tuple[GoldenRequest, ...] = ()

    @property
    def tests(self) -> Iterator[tuple[str, Behaviour]]:
        """Every test and its kind."""
        for kind in ("invariance", "direction", "request"):
            yield from ((kind, test) for test in getattr(self, kind))

    @model_validator(mode="after")
    def _names_are_unique(self) -> Behaviours:
        names = [test.name for _, test in self.tests]
        twice = sorted({name for name in names if names.count(name) > 1})
        refuse(
            [f"name: {name!r} is there twice; the decision could not say which of the two it means" for name in twice]
        )
        return self

    def problems(self, task: Task, features: Features) -> Iterator[str]:
        """Yield what does not fit the model: ``place: what is wrong``."""
        for kind in ("invariance", "direction", "request"):
            for number, test in enumerate(getattr(self, kind), start=1):
                where = f"{kind}, entry {number}"
                yield from (f"{where}, {problem}" for problem in _column_problems(test, features))
                yield from (f"{where}, {problem}" for problem in _task_problems(test, task))


def _column_problems(test: Behaviour, features: Features) -> Iterator[str]:
    for field, name, value in test.columns:
        if name not in features.inputs:
            yield f"{field}: {name!r} is not an input of the model; {use_one_of(features.inputs)}"
        elif field == "shift" and name not in features.numeric:
            yield f"shift: {name!r} is a category: only a number can be moved; use set"
        elif name in features.numeric and isinstance(value, str):
            yield f"{field}: {name!r} is a number (value: {value!r})"
    asked: Mapping[str, Value] = getattr(test, "where", {})
    for name, value in asked.items():
        if name not in {*features.inputs, *features.keys}:
            use = use_one_of([*features.inputs, *features.keys])
            yield f"where: {name!r} is neither an input of the model nor an entity of a view; {use}"
        elif name in features.numeric and isinstance(value, str):
            yield f"where: {name!r} is a number (value: {value!r})"


def _task_problems(test: Behaviour, task: Task) -> Iterator[str]:
    of, answer = getattr(test, "of", None), getattr(test, "answer", None)
    bound = isinstance(test, Direction) or (isinstance(test, GoldenRequest) and test.between is not None)
    if of is not None and (task is not Task.MULTICLASS or not bound):
        yield f"of: {of!r} is a class, and only what is asked of a multiclass model's probability has one"
    if of is None and task is Task.MULTICLASS and bound:
        yield "of: the field is missing: name the class whose probability it is"
    if answer is not None and task is Task.REGRESSION:
        yield f"answer: {answer!r} is a class, and a regression has none; use between"
    if answer is not None and task is Task.BINARY and answer not in _BINARY:
        yield f"answer: {answer!r} is no class of a binary model; use 1 or 0"
