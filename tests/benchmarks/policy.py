"""Is the whole policy worth it? One replay of a model's months under four policies: docs/decisions/policy.md.

*never*: the first champion stays. *always*: each month's challenger takes over. *the gate as it was*: each month's
challenger is judged, and must be better beyond noise. *ours*: what model.yaml says: who proposes a training, which
rule decides, whether the winner is fitted again. *Ours, relations propose too*: the same with concept drift among
the proposals. Two more that the issue of freshness turns on: *always, refitted*
learns from the evaluation window as well and is judged by nobody; *A/A pairs* are two networks of one window that
differ by their seed alone.

All see the same rows, windows and seeds; every network is trained once and lent to every policy that asks for it.
Training is the step's without Ray: one process, one thread. What decides are the functions that the steps call.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import date, timedelta
from functools import cache, cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from installation import Installation

PROJECT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(PROJECT / "tests"), str(PROJECT / "plugins")]

from evergreen.catalog import load_model  # noqa: E402
from evergreen.contract import Window  # noqa: E402
from evergreen.data.lake import PARTITION  # noqa: E402
from evergreen.data.lineage import current_together  # noqa: E402
from evergreen.features.feature_store import feature_tables, training_set  # noqa: E402
from evergreen.judgement.behaviours import behaviour_results  # noqa: E402
from evergreen.judgement.decline import MeasuredMetric, drop_limit, measured_metric  # noqa: E402
from evergreen.judgement.evaluation import evaluation_of  # noqa: E402
from evergreen.judgement.evidence import Candidate, Evaluation  # noqa: E402
from evergreen.judgement.metrics import Scored, scored  # noqa: E402
from evergreen.judgement.robustness import flips_of  # noqa: E402
from evergreen.judgement.rules import decide  # noqa: E402
from evergreen.monitoring.concept import compare_concept  # noqa: E402
from evergreen.monitoring.counting import count, frame_batches  # noqa: E402
from evergreen.monitoring.drift import compare  # noqa: E402
from evergreen.monitoring.learning import learn_reference  # noqa: E402
from evergreen.monitoring.relations import with_concept  # noqa: E402
from evergreen.settings import export_service_environment, user_settings  # noqa: E402
from evergreen.spec import COST_METRICS, METRICS, ModelSpec  # noqa: E402
from evergreen.training.encoder import load_network, predict  # noqa: E402
from evergreen.training.preparation import prepare  # noqa: E402
from evergreen.training.ray_training import _WARM_UP, _epoch, _order  # noqa: E402
from evergreen.training.scorer import Scorer  # noqa: E402
from evergreen.trust.statement import Bound  # noqa: E402
from evergreen_airflow.replay.drivers import InProcessDriver  # noqa: E402
from evergreen_airflow.replay.plan import PeriodLength, make_plan, parse_day  # noqa: E402

PAIRS = 100
"""Draws of two networks of one window that differ by their seed alone."""


MOST_TRAININGS = 0.6
"""Share of the trainings of *always* that a policy may need."""
MOST_PAIRS = 0.05
"""Share of pairs of equals that may be promoted."""


@dataclass(frozen=True)
class Network:
    """What a training has left."""

    name: str
    training: Window
    encoder: Any
    module: Any
    seconds: float
    """CPU seconds it took."""


@dataclass
class History:
    """The labelled rows of a model's whole life, and every network that was trained from them."""

    spec: ModelSpec
    frame: pd.DataFrame
    seed: int
    networks: dict[tuple[Window, int], Network] = field(default_factory=dict)
    scores: dict[tuple[str, Window], Scored] = field(default_factory=dict)

    @cached_property
    def days(self) -> np.ndarray:
        """(rows,) the day of each row."""
        return pd.to_datetime(self.frame[PARTITION]).dt.date.to_numpy()

    def rows(self, window: Window) -> pd.DataFrame:
        """Return the rows of a window."""
        return self.frame[(self.days >= window.start) & (self.days <= window.end)].reset_index(drop=True)

    def trained(self, window: Window, seed: int | None = None) -> Network:
        """Return the network of a window and a seed; it is trained when it is first asked for."""
        key = (window, self.seed if seed is None else seed)
        if key not in self.networks:
            self.networks[key] = train(self.spec, self.rows(window), window, key[1])
        return self.networks[key]

    def scored(self, network: Network, window: Window) -> Scored:
        """Return a network's predictions of the rows of a window beside the truth."""
        key = (network.name, window)
        if key not in self.scores:
            rows = self.rows(window)
            said = predict(network.module, network.encoder, rows[network.encoder.columns])
            self.scores[key] = scored(self.spec.task, rows[self.spec.features.examples.label], [said])[0]
        return self.scores[key]

    def metric(self, network: Network, window: Window) -> float:
        """Return the deciding metric."""
        return self.scored(network, window).metrics().get(self.spec.gate.metric, float("nan"))


def train(spec: ModelSpec, frame: pd.DataFrame, window: Window, seed: int) -> Network:
    """Train as the step does, in this process alone."""
    import torch

    torch.set_num_threads(1)
    began = time.process_time()
    data, how = prepare(spec, frame), spec.training
    file, _, function = how.network.partition(":")
    steps = -(-len(data.target) // how.batch_size)
    torch.manual_seed(seed)
    module = load_network(spec.folder / file, function, data.encoder.schema)
    optimizer = torch.optim.AdamW(module.parameters(), lr=how.learning_rate, weight_decay=how.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, how.learning_rate, total_steps=steps * how.epochs, pct_start=_WARM_UP
    )
    arrays = (data.numeric, data.categorical, data.target)
    for epoch in range(how.epochs):
        torch.manual_seed(seed + 1000 * (epoch + 1))
        order = _order(len(data.target), steps * how.batch_size, (seed, epoch)).reshape(steps, how.batch_size)
        _epoch(data.encoder.schema["task"], module, optimizer, schedule, arrays, order, "cpu")
    return Network(f"{window} {seed}", window, data.encoder, module, time.process_time() - began)


def scorer(network: Network) -> Scorer:
    """Return a network as a step has it once it is loaded."""
    bound = Bound(model="bench", run_id=network.name, logged_model="")
    return Scorer(network.name, network.encoder, partial(predict, network.module, network.encoder), bound)


@dataclass
class Outcome:
    """What became of a policy."""

    monthly: list[float] = field(default_factory=list)
    trainings: int = 0
    promotions: list[str] = field(default_factory=list)
    cpu_seconds: float = 0.0


class Policy:
    """Judges nothing: the first champion stays."""

    name = "never"

    def __init__(self, history: History, first: Window) -> None:
        self.history, self.spec, self.outcome = history, history.spec, Outcome()
        self.champion = self.first(first)

    def first(self, month: Window) -> Network:
        """Return the champion that serves from the first month on, trained on what was known before it."""
        return self.train(self.windows(month.start - timedelta(days=1))[0])

    def windows(self, newest: date) -> tuple[Window, Window]:
        """Return the training and the evaluation window of a day, as ``assemble`` has them."""
        delay, start = self.spec.features.examples.label_delay_days, self.spec.schedule.start
        newest -= timedelta(days=delay)
        training = self.spec.windows.training(newest, delay)
        return Window(start=max(training.start, start), end=training.end), self.spec.windows.evaluation(newest)

    def train(self, window: Window) -> Network:
        """Train, and count it."""
        network = self.history.trained(window)
        self.outcome.trainings += 1
        self.outcome.cpu_seconds += network.seconds
        return network

    def promote(self, network: Network, month: Window) -> None:
        """Let a network serve from the next month on."""
        self.champion = network
        self.outcome.promotions.append(f"{month.end:%Y-%m}")

    def month_ends(self, month: Window) -> None:
        """Do what the policy does when a month's labels are there."""


class Always(Policy):
    """Each month's challenger takes over."""

    name = "always"

    def month_ends(self, month: Window) -> None:
        """Train and promote."""
        self.promote(self.train(self.windows(month.end)[0]), month)


class AlwaysRefitted(Always):
    """The same, learned from the evaluation window too."""

    name = "always, refitted"

    def windows(self, newest: date) -> tuple[Window, Window]:
        """Return both windows as one for training."""
        training, evaluation = super().windows(newest)
        return Window(start=training.start, end=evaluation.end), evaluation


class Judged(Policy):
    """Each month's challenger is judged."""

    name = "the gate as it was"
    changes: dict[str, Any] = {"rule": "confidence", "minimum_improvement": 0.0}  # noqa: RUF012

    def __init__(self, history: History, first: Window) -> None:
        super().__init__(history, first)
        self.spec = history.spec.model_copy(update={"gate": history.spec.gate.model_copy(update=self.changes)})

    def month_ends(self, month: Window) -> None:
        """Train, judge, and promote where the gate says yes."""
        training, evaluation = self.windows(month.end)
        challenger = self.train(training)
        began = time.process_time()
        judged = self.judge(challenger, evaluation)
        self.outcome.cpu_seconds += time.process_time() - began
        if decide(judged, self.spec).passed:
            self.won(challenger, month, judged)

    def won(self, challenger: Network, month: Window, judged: Evaluation) -> None:
        """Promote."""
        self.promote(challenger, month)

    def judge(self, challenger: Network, window: Window, champion: Network | None = None) -> Evaluation:
        """Return the evidence, as ``evaluate`` has it."""
        both = [self.candidate(network, window) for network in (challenger, champion or self.champion)]
        rows, asked = self.history.rows(window), scorer(challenger)
        earlier = cache(partial(self.history.rows, challenger.training))
        evaluation = evaluation_of(self.spec, rows, "bench", both[0], both[1], earlier)
        flips = flips_of(self.spec, rows, asked, scorer(champion or self.champion))
        further = {
            "behaviours": tuple(behaviour_results(self.spec, rows, asked)),
            "figures": (*evaluation.figures, *flips),
        }
        return evaluation.model_copy(update=further)

    def candidate(self, network: Network, window: Window) -> tuple[Candidate, Scored]:
        """Return a network as the gate sees it."""
        scores = self.history.scored(network, window)
        return Candidate(run_id=network.name, training=network.training, metrics=scores.metrics()), scores


class Ours(Judged):
    """What model.yaml says."""

    name = "ours"
    changes: dict[str, Any] = {}  # noqa: RUF012

    def __init__(self, history: History, first: Window) -> None:
        super().__init__(history, first)
        _, evaluation = self.windows(first.start - timedelta(days=1))
        self.promoted_at = self.level(self.champion, evaluation)

    @property
    def proposals(self) -> frozenset[str]:
        """What may propose a training."""
        return self.spec.proposals

    def level(self, network: Network, window: Window) -> MeasuredMetric:
        """Return how good a network is on a window, as ``check_performance`` has it."""
        scores = self.history.scored(network, window)
        return measured_metric(self.spec, self.history.rows(window), scores, scores.metrics())

    def month_ends(self, month: Window) -> None:
        """Train where what model.yaml lets propose a training does so."""
        began, proposals = time.process_time(), self.proposals
        proposed = "performance" in proposals and self.dropped(self.windows(month.end)[1])
        proposed = proposed or ("concept" in proposals and self.turned(self.windows(month.end)[1]))
        proposed = proposed or ("inputs" in proposals and self.drifted(month.end))
        self.outcome.cpu_seconds += time.process_time() - began
        if proposed:
            super().month_ends(month)

    def dropped(self, window: Window) -> bool:
        """Tell whether the champion is worse than at its promotion, as ``check_performance`` does."""
        now, then = self.level(self.champion, self.unseen(window)), self.promoted_at
        limit = drop_limit(self.spec, then.error, now)
        if limit is None or now.value is None or then.value is None:
            return False
        return METRICS[self.spec.gate.metric][1].sign * (then.value - now.value) > limit

    def turned(self, window: Window) -> bool:
        """Tell whether the label's relation to the inputs has changed, as ``check_performance`` does."""
        learned, unseen = self.history.rows(self.champion.training), self.unseen(window)
        reference = with_concept(self.spec, learn_reference(self.spec, learned), learned)
        return compare_concept(self.spec, reference, self.history.rows(unseen)).verdict == "drift"

    def unseen(self, window: Window) -> Window:
        """Return the part of a window that the champion may be judged on."""
        return Window(start=max(window.start, self.spec.first_unseen(self.champion.training)), end=window.end)

    def drifted(self, newest: date) -> bool:
        """Tell whether the inputs have moved, as ``check_drift`` does; predictions are left out."""
        baseline = learn_reference(self.spec, self.history.rows(self.champion.training))
        batches = frame_batches(self.history.rows(self.spec.monitored_window(newest)), list(baseline.columns))
        return compare(self.spec, baseline, count(baseline.columns, batches)).verdict == "drift"

    def won(self, challenger: Network, month: Window, judged: Evaluation) -> None:
        """Promote; fit again first where model.yaml says so."""
        self.promoted_at = self.level(challenger, judged.window)
        if self.spec.training.refit:
            challenger = self.train(Window(start=challenger.training.start, end=judged.window.end))
        self.promote(challenger, month)


class OursWithConcept(Ours):
    """The same, and a relation to the label that has changed proposes too."""

    name = "ours, relations propose too"

    @property
    def proposals(self) -> frozenset[str]:
        """What may propose a training."""
        return self.spec.proposals | {"concept"}


POLICIES: tuple[type[Policy], ...] = (Policy, Always, AlwaysRefitted, Judged, Ours, OursWithConcept)


def months_of(spec: ModelSpec, through: date) -> list[Window]:
    """Return the months that are replayed: those of `evergreen loop`."""
    return [period.window for period in make_plan(spec, through, None, None, PeriodLength.MONTH).periods]


def replayed(history: History, months: list[Window]) -> Iterator[tuple[str, Outcome]]:
    """Yield what becomes of each policy: a champion serves a month, then the month's labels are judged."""
    for kind in POLICIES:
        policy = kind(history, months[0])
        for month in months:
            policy.outcome.monthly.append(history.metric(policy.champion, month))
            if month != months[-1]:  # nobody would be served by what follows the last
                policy.month_ends(month)
        yield kind.name, policy.outcome


def pairs_promoted(history: History, months: list[Window]) -> float:
    """Return the share of pairs of one window and different seeds of which the second is promoted over the first."""
    promoted = []
    judge = Ours(history, months[0])
    for number in range(PAIRS):
        training, evaluation = judge.windows(months[number % len(months)].end)
        seeds = (1000 + 2 * (number // len(months)), 1001 + 2 * (number // len(months)))
        first, second = (history.trained(training, seed) for seed in seeds)
        promoted.append(decide(judge.judge(second, evaluation, first), judge.spec).passed)
    return float(np.mean(promoted))


def measure(model: str, through: date, seeds: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Bring a model's history into the lake of this installation, and replay it under every policy."""
    spec = load_model(model)
    # nothing here is shipped or served
    kept = tuple(rule for rule in spec.gate.rules if rule.metric not in COST_METRICS)
    spec = spec.model_copy(update={"gate": spec.gate.model_copy(update={"rules": kept})})
    months = months_of(spec, through)
    window = Window(start=spec.schedule.start, end=through)
    InProcessDriver(model, lambda _: None).backfill("bench", window)
    snapshots = {table.name: table.version for table in current_together(model, feature_tables(spec))}
    frame = training_set(spec, window, snapshots=snapshots)
    direction = METRICS[spec.gate.metric][1].sign
    outcomes: dict[str, list[Outcome]] = {}
    for seed in range(spec.training.seed, spec.training.seed + seeds):
        history = History(spec, frame, seed)
        for name, outcome in replayed(history, months):
            outcomes.setdefault(name, []).append(outcome)
            figure = f"{spec.gate.metric} {np.mean(outcome.monthly):.4f}"
            say(f"seed {seed}, {name}: {figure}, {outcome.trainings} trainings, promoted {outcome.promotions}")
    figures = {name: _figures(runs, months) for name, runs in outcomes.items()}
    means = {name: direction * row["mean"] for name, row in figures.items()}
    result = {
        "months": [f"{month.start:%Y-%m}" for month in months],
        "metric": spec.gate.metric,
        "seeds": seeds,
        "policies": figures,
        "ours_over_the_better_of_always_and_never": means["ours"] - max(means["always"], means["never"]),
        "trainings_of_ours_by_always": figures["ours"]["trainings"] / figures["always"]["trainings"],
        "pairs_of_equals_promoted": pairs_promoted(History(spec, frame, spec.training.seed), months),
    }
    return result | {"aims_missed": aims_missed(result)}


def aims_missed(figures: dict[str, Any]) -> list[str]:
    """Return what a policy that is worth its effort does, and this one does not, a sentence each."""
    gained, trainings = figures["ours_over_the_better_of_always_and_never"], figures["trainings_of_ours_by_always"]
    pairs = figures["pairs_of_equals_promoted"]
    checks = {
        f"the champion in service is worse by {-gained:.4f} than with the better of always and never": gained < 0,
        f"it trains {trainings:.0%} as often as always; {MOST_TRAININGS:.0%} are allowed": trainings > MOST_TRAININGS,
        f"{pairs:.0%} of the pairs of equals are promoted; {MOST_PAIRS:.0%} are allowed": pairs > MOST_PAIRS,
    }
    return [sentence for sentence, missed in checks.items() if missed]


def _figures(runs: list[Outcome], months: list[Window]) -> dict[str, Any]:
    monthly = np.array([run.monthly for run in runs])
    half = (len(months) + 1) // 2
    return {
        "monthly": [round(float(value), 4) for value in monthly.mean(axis=0)],
        "mean": float(monthly.mean()),
        "mean_by_seed": [round(float(value), 4) for value in monthly.mean(axis=1)],
        "first_half": float(monthly[:, :half].mean()),
        "second_half": float(monthly[:, half:].mean()),
        "trainings": float(np.mean([run.trainings for run in runs])),
        "promotions": float(np.mean([len(run.promotions) for run in runs])),
        "promoted": [run.promotions for run in runs],
        "cpu_seconds": float(np.mean([run.cpu_seconds for run in runs])),
    }


def installed_measure(model: str, through: str, seeds: int) -> dict[str, Any]:
    """Measure in an installation of its own, whose lake holds nothing but this."""
    from installation import installed

    with installed() as installation:
        return measure_in(installation, model, through, seeds)


def measure_in(installation: Installation, model: str, through: str, seeds: int) -> dict[str, Any]:
    """Measure in an installation, in a process of its own."""
    program = [sys.executable, str(Path(__file__)), model, through, str(seeds)]
    done = subprocess.run(program, env=installation.environment, stdout=subprocess.PIPE, text=True, check=True)
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


if __name__ == "__main__":
    user_settings()
    export_service_environment()
    name, end, count = sys.argv[1:]
    result = measure(
        name, parse_day(end, "--through", last=True), int(count), lambda line: print(line, file=sys.stderr, flush=True)
    )
    print(json.dumps(result))
