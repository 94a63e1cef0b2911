"""``evergreen loop``: replays a season of one model, through the real scheduler or in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from time import monotonic

from rich.console import Console
from rich.markup import escape
from rich.status import Status as RichStatus
from rich.table import Table

from evergreen.catalog import load_model
from evergreen.environment import complete
from evergreen.judgement.audit import read_events
from evergreen.judgement.rollouts import rollout_of
from evergreen.settings import get_settings
from evergreen.spec import ModelSpec
from evergreen.store import get_store
from evergreen_airflow.replay.drivers import AirflowDriver, Driver, InProcessDriver, Report
from evergreen_airflow.replay.plan import LoopPlan, Period, PeriodLength, label_of, make_plan
from evergreen_airflow.replay.summary import PeriodRuns, Row, Summary, summarize
from evergreen_airflow.replay.traffic import Traffic, send
from evergreen_airflow.rest_api import AirflowApi


def run_loop(
    model: str,
    through: date,
    history_start: date | None = None,
    start: date | None = None,
    length: PeriodLength = PeriodLength.MONTH,
    airflow: Callable[[], AirflowApi] | None = None,
    addresses: Mapping[str, str] | None = None,
    console: Console | None = None,
) -> Summary:
    """Replay a model's history and the periods after it; print and store what came of each.

    Every run has an id that follows from the plan, so that a repeated loop finds what is done and does the rest.

    Parameters
    ----------
    model, through, history_start, start, length
        What is replayed; see :func:`make_plan`.
    airflow
        Gives the Airflow whose pipelines are run; default: plain function calls in this process.
    addresses
        Where a person looks afterwards, by name.
    console
        Where progress and the summary are shown.

    Returns
    -------
    Summary
        Also stored as ``<state_dir>/loop/summary.json``.

    Raises
    ------
    StepError
        The failure of the first task that failed, in its class.
    """
    out = console or Console()
    spec = load_model(model)
    plan = make_plan(spec, through, history_start, start, length)
    out.print(f"[bold]{spec.name}[/]: history {plan.history}, then {len(plan.periods)} periods of a {length}.")
    with out.status("starting") as status:
        progress = _Progress(out, status)
        driver = _airflow(airflow(), spec, progress.show) if airflow else _in_process(spec, progress.show)
        prefix = "loop" if airflow else "inprocess"
        runs, traffic = _replay(spec, plan, driver, progress, prefix, (addresses or {}).get("Predictions"))
    summary = summarize(spec, plan, runs, traffic)
    path = store_summary(summary)
    out.print(*_tables(summary), sep="\n\n")
    out.print()
    for name, address in {**(addresses or {}), **_addresses(summary, path)}.items():
        out.print(f"{name:11} {address}", soft_wrap=True, highlight=False)
    return summary


def store_summary(summary: Summary) -> Path:
    """Write the summary to ``<state_dir>/loop/summary.json``; returns the path."""
    path = _summary_file()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(summary.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return path


def _summary_file() -> Path:
    return get_settings().state_dir / "loop" / "summary.json"


def _in_process(spec: ModelSpec, report: Report) -> Driver:
    complete()
    return InProcessDriver(spec.name, report)


def _airflow(api: AirflowApi, spec: ModelSpec, report: Report) -> Driver:
    driver = AirflowDriver(api, spec.name, report)
    driver.prepare()
    return driver


def _replay(
    spec: ModelSpec, plan: LoopPlan, driver: Driver, progress: _Progress, prefix: str, server: str | None
) -> tuple[list[PeriodRuns], dict[str, Traffic]]:
    """Run all periods; returns their runs, and the traffic of those that had any."""
    with progress.of(f"history {plan.history}"):
        history = driver.backfill(f"{prefix}__history", plan.history)
    with progress.of(f"first champion, {plan.history.end}"):
        champion = driver.train(f"{prefix}__first_champion", plan.history.end)
    runs = [history.model_copy(update={"train": champion.train})]
    traffic = _earlier_traffic(plan)
    for period in plan.periods:
        with progress.of(period.label):
            runs.append(_replay_period(period, driver, prefix))
        if server is None or period.label in traffic:
            continue
        rollout = rollout_of(read_events(get_store(), spec.name))
        if period is plan.periods[-1] or (rollout is not None and rollout.partition == period.window.end):
            with progress.of(f"{period.label} as requests"):
                traffic[period.label] = send(
                    spec, period.window, server, driver, f"{prefix}__{period.label}", progress.show
                )
    return runs, traffic


def _earlier_traffic(plan: LoopPlan) -> dict[str, Traffic]:
    """Return the traffic of a loop before this one, of the same periods, as far as it was answered."""
    path = _summary_file()
    if not path.exists():
        return {}
    try:
        earlier = Summary.model_validate_json(path.read_text(encoding="utf-8"))
    except ValueError:  # half of a file, of a loop that was interrupted
        return {}
    windows = {period.window for period in plan.periods}
    rows = [row for row in earlier.rows if earlier.model == plan.model and row.window in windows]
    return {row.period: row.traffic for row in rows if row.traffic and row.traffic.variants}


def _replay_period(period: Period, driver: Driver, prefix: str) -> PeriodRuns:
    bulk = PeriodRuns()
    if period.bulk is not None:
        # named by the days it brings: a month that is cut short is another run than the whole month
        bulk = driver.backfill(f"{prefix}__{period.label}", period.bulk)
    day = driver.day(f"{prefix}__{period.window.end}", period.window.end)
    return day.model_copy(update={"backfill": bulk.backfill})


class _Progress:
    """Shows the period and the task that is running; leaves a line for each period that is done, or that is slow."""

    def __init__(self, out: Console, status: RichStatus) -> None:
        self.out, self.status, self.period = out, status, ""
        self.begin = self.longest = self.patience = 0.0

    def show(self, text: str) -> None:
        """Show what is running now."""
        self.status.update(f"[bold]{self.period}[/] {text}")
        passed = monotonic() - self.begin
        if self.longest and passed > self.patience:
            self.patience = 2 * passed  # said a few times, not all the time
            before = f"the longest before took {self.longest:.0f} s"
            self.out.print(f"  [yellow]slow[/] {self.period} {passed:.0f} s, {before}; waiting for {escape(text)}")

    @contextmanager
    def of(self, period: str) -> Iterator[None]:
        """Name the period, and say how long it took."""
        self.period, self.begin, self.patience = period, monotonic(), 2 * self.longest
        yield
        took = monotonic() - self.begin
        self.longest = max(self.longest, took)
        self.out.print(f"  [green]done[/] {period} [dim]{took:.1f} s[/]")


def _addresses(summary: Summary, path: Path) -> dict[str, str]:
    reports = [row.report_uri for row in summary.rows if row.report_uri]
    return {
        "Reports": reports[-1] if reports else "none yet",
        "Summary": str(path),
    }


def _tables(summary: Summary) -> Iterator[Table]:
    """Yield the numbers, a row a period, and below them the reasons: in one table, 80 columns leave a why four letters.

    Only the decision may take two lines.
    """
    metric = summary.metric.upper()
    numbers = Table(title=f"{summary.model}: {label_of(summary.history)} and after", box=None, padding=(0, 1, 0, 0))
    numbers.add_column("period", no_wrap=True)
    for name in ("rows in", "quaran-\ntined", "drifted", f"champion\n{metric}", f"challenger\n{metric}", "better by"):
        numbers.add_column(name, justify="right", no_wrap=True)
    numbers.add_column("decision")
    reasons = Table.grid(padding=(0, 2, 0, 0))
    for row in summary.rows:
        numbers.add_row(*_cells(row))
        reasons.add_row(row.period, escape(row.why))
    yield from (numbers, reasons)
    if any(row.traffic for row in summary.rows):
        yield _traffic_table(summary)


def _traffic_table(summary: Summary) -> Table:
    """Return what the server was asked, and what became of the rollouts meanwhile."""
    table = Table(title=f"{summary.model}: asked of its server", box=None, padding=(0, 1, 0, 0))
    table.add_column("period", no_wrap=True)
    for name in ("requests", "p99 ms"):
        table.add_column(name, justify="right", no_wrap=True)
    for name in ("variant", "decision"):
        table.add_column(name)
    for row in summary.rows:
        if row.traffic is not None:
            answered = sum(row.traffic.variants.values())
            shares = [f"{name} {count / answered:.0%}" for name, count in sorted(row.traffic.variants.items())]
            p99 = "-" if row.traffic.p99_ms is None else f"{row.traffic.p99_ms:.1f}"
            refused = row.traffic.requests - row.traffic.statuses.get("200", 0)
            asked = f"{row.traffic.requests:,}" + (f" ({refused:,} refused)" if refused else "")
            cells = (row.period, asked, p99, ", ".join(shares) or "-", row.traffic.decision)
            table.add_row(*map(escape, cells))
    return table


def _cells(row: Row) -> list[str]:
    def number(value: float | None, form: str) -> str:
        return "-" if value is None else format(value, form)

    interval = "-"
    if row.improvement_low is not None and row.improvement_high is not None:
        interval = f"{row.improvement_low:+.3f}..{row.improvement_high:+.3f}"
    return [
        row.period,
        f"{row.rows_in:,}",
        f"{row.quarantined:,}",
        number(row.drifted_share, ".0%"),
        number(row.champion, ".4f"),
        number(row.challenger, ".4f"),
        interval,
        row.decision.replace("_", " "),
    ]
