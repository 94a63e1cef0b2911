"""``model.yaml``: everything that is particular to one model, and what must hold between its sections."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path
from types import MappingProxyType

from pydantic import Field, PrivateAttr, model_validator

from evergreen.contract import ConfigurationError, Frozen, Name, Window
from evergreen.field_types import Text, use_one_of
from evergreen.spec.alerts import AlertEvent, Channel
from evergreen.spec.behaviours import Behaviours
from evergreen.spec.data import ColumnType, Features, FeatureView, Schedule, Source, refuse
from evergreen.spec.delivery import Delivery, Guardrails, Stage, Strategy
from evergreen.spec.learning import (
    COST_METRICS,
    FLIP_METRICS,
    FORBIDDING,
    GROUP_METRICS,
    METRICS,
    RANGES,
    Approval,
    Direction,
    Drift,
    Gate,
    GateRule,
    Profile,
    Resources,
    Retraining,
    Slice,
    Task,
    Training,
    Windows,
    is_better_small,
)
from evergreen.spec.serving import Serving, Unavailable

__all__ = [
    "COST_METRICS",
    "FLIP_METRICS",
    "FORBIDDING",
    "GROUP_METRICS",
    "METRICS",
    "RANGES",
    "AlertEvent",
    "Behaviours",
    "Channel",
    "ColumnType",
    "Delivery",
    "Direction",
    "FeatureView",
    "Features",
    "Gate",
    "GateRule",
    "Guardrails",
    "ModelSpec",
    "Profile",
    "Schedule",
    "Serving",
    "Slice",
    "Source",
    "Stage",
    "Strategy",
    "Task",
    "Unavailable",
    "Windows",
    "is_better_small",
]

OWN_TABLES = MappingProxyType(
    {
        "examples": "the examples",
        "predictions": "what is predicted in bulk",
        "served": "what was answered to requests",
        "feedback": "what became of answers",
    }
)
"""Tables that every model may have in the lake, and what is in them."""


class ModelSpec(Frozen):
    """One model, as declared in ``include/models/<name>/model.yaml``."""

    name: Name
    task: Task
    description: Text
    owner: Text
    team: Text = Field(max_length=80)
    """Becomes a tag of the DAGs; Airflow's tags end at 100 characters."""
    contact: str = ""
    """Where the on-call person finds the owner."""
    schedule: Schedule
    sources: tuple[Source, ...] = Field(min_length=1)
    features: Features
    windows: Windows = Windows()
    training: Training
    gate: Gate
    drift: Drift
    retraining: Retraining = Retraining()
    approval: Approval = Approval()
    resources: Resources = Resources()
    serving: Serving = Serving()
    delivery: Delivery = Delivery()
    alerts: tuple[Channel, ...] = ()

    _folder: Path = PrivateAttr()
    _behaviours: Behaviours = PrivateAttr(default=Behaviours())

    @property
    def folder(self) -> Path:
        """The model's folder."""
        return self._folder

    @property
    def behaviours(self) -> Behaviours:
        """The tests of the folder's ``behaviours.yaml``."""
        return self._behaviours

    @model_validator(mode="after")
    def _consistent(self) -> ModelSpec:
        inputs = self.features.inputs
        valid = use_one_of([*inputs, *self.features.keys])
        problems = [*self._table_problems(), *self._metric_problems(), *self._rule_problems(), *self._alert_problems()]
        problems += self._delivery_problems()
        problems += [
            f"drift.columns: {column!r} is not an input of the model; {use_one_of(inputs)}"
            for column in self.drift.columns
            if column not in inputs
        ]
        slices = enumerate(self.gate.slices, start=1)
        named = [(f"gate.slices, entry {number}, column", item.column) for number, item in slices]
        named += [(f"gate.rules, entry {number}, slice", rule.slice) for number, rule in self._rules if rule.slice]
        named += [("gate.sensitive", column) for column in self.gate.sensitive]
        problems += [
            f"{field}: {column!r} is neither an input of the model nor an entity of a view; {valid}"
            for field, column in named
            if column not in {*inputs, *self.features.keys}
        ]
        refuse(problems)
        return self

    def _table_problems(self) -> list[str]:
        """Two tables of a model in the lake must not have one name."""
        written = ("{}", "raw_{}", "{}_quarantine")
        tables = [("sources", source.name, table.format(source.name)) for table in written for source in self.sources]
        tables += [("features.views", view.name, view.name) for view in self.features.views]
        taken = dict(OWN_TABLES)
        problems = []
        for field, name, table in tables:
            if table in taken:
                problems.append(f"{field}: {name!r}: the table {table} is already that of {taken[table]}")
            taken[table] = f"{field} {name!r}"
        return problems

    def _metric_problems(self) -> list[str]:
        usable = {name: direction for name, (tasks, direction) in METRICS.items() if self.task in tasks}
        named = [("gate.metric", self.gate.metric)]
        named += [("gate.required", name) for name in self.gate.required]
        named += [("gate.limits", name) for name in self.gate.limits]
        problems = [
            f"{field}: {name!r} is not a metric of a {self.task} model; use one of {', '.join(usable)}"
            for field, name in named
            if name not in usable
        ]
        best = usable.get(self.gate.metric, self.gate.direction)
        if best is not self.gate.direction:
            problems.append(f"gate.direction: {self.gate.metric} is to {best}, not to {self.gate.direction}")
        return problems

    @property
    def _rules(self) -> Iterator[tuple[int, GateRule]]:
        """The rules of the gate, counted from 1."""
        return enumerate(self.gate.rules, start=1)

    def _rule_problems(self) -> list[str]:
        usable = [name for name, (tasks, _) in METRICS.items() if self.task in tasks]
        usable += [name for name, tasks in FORBIDDING.items() if self.task in tasks]
        problems = []
        for number, rule in self._rules:
            where = f"gate.rules, entry {number}"
            if rule.metric not in usable:
                use = f"use one of {', '.join(usable)}"
                problems.append(f"{where}, metric: {rule.metric!r} is not a metric of a {self.task} model; {use}")
            elif rule.metric in GROUP_METRICS and not self.gate.sensitive:
                problems.append(f"{where}: {rule.metric} compares groups: name their columns in gate.sensitive")
            elif rule.metric in GROUP_METRICS and rule.slice is not None:
                problems.append(f"{where}: {rule.metric} compares the groups of gate.sensitive: it takes no slice")
            elif rule.metric in FLIP_METRICS and rule.slice is not None:
                problems.append(f"{where}: {rule.metric} is of the whole window: it takes no slice")
            elif rule.metric in COST_METRICS and rule.slice is not None:
                problems.append(f"{where}: {rule.metric} is of the model, whatever it is asked: it takes no slice")
        return problems

    def _alert_problems(self) -> list[str]:
        titles = [channel.title for channel in self.alerts]
        twice = sorted({title for title in titles if titles.count(title) > 1})
        return [f"alerts: {title!r} is there twice; give one channel all its events" for title in twice]

    def _delivery_problems(self) -> list[str]:
        """Ask for what decides who answers, and for the log that a rollout is judged by."""
        asked = [*self.features.keys, *self.features.request_inputs]
        problems = [
            f"delivery.split_by: {column!r} is not part of a request; {use_one_of(asked)}"
            for column in self.delivery.split_by
            if column not in asked
        ]
        if self.delivery.strategy is not Strategy.DIRECT:
            judged = f"delivery.strategy: {self.delivery.strategy} is judged by what is answered"
            if not self.serving.enabled:
                problems.append(f"{judged}, and serving.enabled is false")
            elif not self.serving.log:
                problems.append(f"{judged}, and serving.log is false")
            kept, longest = self.serving.log_retention_days, self.delivery.maximum_days
            if kept < longest:
                problems.append(
                    f"serving.log_retention_days: {kept} days, and a rollout is judged by {longest} days of the log "
                    "(delivery.maximum_days); keep it as long"
                )
            if not self.split_by:
                problems.append("delivery.split_by: the model has no entity keys; name inputs of its requests")
        return problems

    @property
    def split_by(self) -> tuple[str, ...]:
        """The columns whose values decide which variant answers."""
        return self.delivery.split_by or self.features.keys

    @property
    def proposals(self) -> frozenset[str]:
        """What may propose a retraining: ``inputs``, ``performance``, ``concept``.

        What a champion gets wrong says more than how its inputs look. So where its performance is asked for, and most
        labels of a monitored window are known at its end, inputs are reported and propose nothing. Relations to the
        label propose where they are named: docs/decisions/drift.md.
        """
        if self.retraining.proposals is not None:
            return frozenset(self.retraining.proposals)
        prompt = 2 * self.features.examples.label_delay_days <= self.drift.current_days
        alone = prompt and self.retraining.performance_drop is not None
        return frozenset({"performance"} if alone else {"inputs", "performance"})

    def monitored_window(self, newest: date) -> Window:
        """Return the last ``drift.current_days`` partitions up to a day."""
        start = newest - timedelta(days=self.drift.current_days - 1)
        return Window(start=max(start, self.schedule.start), end=newest)

    def first_unseen(self, training: Window) -> date:
        """Return the first day that a model of a training window may be judged on: all its labels were known before."""
        return training.end + timedelta(days=1 + self.features.examples.label_delay_days)

    def feast_name(self, view: FeatureView) -> str:
        """Return the name of a view in Feast: with the model's, because one Feast project holds all models."""
        return f"{self.name}_{view.name}"

    def online_table(self, view: FeatureView) -> str:
        """Return the table of a view in the online store, as PostgreSQL writes names: cut after 63 characters."""
        return f"evergreen_{self.feast_name(view)}"[:63]

    def source(self, name: str) -> Source:
        """Return the source called ``name``.

        Raises
        ------
        ConfigurationError
            If there is none; the message says what there is.
        """
        sources = {source.name: source for source in self.sources}
        if name not in sources:
            raise ConfigurationError(f"{self.name} has no source {name!r}.", f"Sources: {', '.join(sources)}.")
        return sources[name]
