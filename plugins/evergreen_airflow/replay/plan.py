"""What the loop replays: bulk history, a first champion, then one period after another as they arrive."""

from __future__ import annotations

import calendar
import enum
from collections.abc import Iterator
from datetime import date, timedelta

from evergreen.contract import ConfigurationError, Frozen, Window
from evergreen.spec import ModelSpec

HISTORY_MONTHS = 3
"""Months of history before the first period, when no start is given."""


class PeriodLength(enum.StrEnum):
    """How much time passes from one judgement to the next."""

    MONTH = "month"
    WEEK = "week"


class Period(Frozen):
    """Days that arrive together: all but the last in bulk, the last one like any day in production."""

    label: str
    window: Window

    @property
    def bulk(self) -> Window | None:
        """Every day but the last one, or None when there is only one."""
        if self.window.days == 1:
            return None
        return Window(start=self.window.start, end=self.window.end - timedelta(days=1))


class LoopPlan(Frozen):
    """The whole replay of one model."""

    model: str
    history: Window
    periods: tuple[Period, ...]


def make_plan(
    spec: ModelSpec, through: date, history_start: date | None, start: date | None, length: PeriodLength
) -> LoopPlan:
    """Return the periods from ``start`` through ``through``; history is what lies before.

    ``history_start`` defaults to the model's first partition, ``start`` to three months after it.

    Raises
    ------
    ConfigurationError
        If the days are not in order.
    """
    first = history_start or spec.schedule.start
    begin = start or _months_later(first, HISTORY_MONTHS)
    if first < spec.schedule.start:
        raise ConfigurationError(f"--history-start={first} is before the first partition, {spec.schedule.start}.")
    if begin <= first:
        raise ConfigurationError(f"--start={begin} leaves no history after {first}.", "Give a later --start.")
    if through < begin:
        raise ConfigurationError(f"--through={through} is before the first period, {begin}.", "Give a later day.")
    split = _months if length is PeriodLength.MONTH else _weeks
    return LoopPlan(
        model=spec.name,
        history=Window(start=first, end=begin - timedelta(days=1)),
        periods=tuple(Period(label=label_of(window), window=window) for window in split(begin, through)),
    )


def parse_day(value: str, option: str, *, last: bool) -> date:
    """Return the day an option names: ``2013-06-30``, or ``2013-06`` for the first or last day of that month.

    Raises
    ------
    ConfigurationError
        If it is neither.
    """
    try:
        if len(value) == len("2013-06"):
            month = date.fromisoformat(f"{value}-01")
            return _month_end(month) if last else month
        return date.fromisoformat(value)
    except ValueError as error:
        raise ConfigurationError(f"{option}={value!r} is no day.", "Write 2013-06 or 2013-06-30.") from error


def parse_length(value: str) -> PeriodLength:
    """Return the period length an option names.

    Raises
    ------
    ConfigurationError
        If there is no such length.
    """
    try:
        return PeriodLength(value)
    except ValueError as error:
        raise ConfigurationError(f"--step={value!r}: use one of {', '.join(PeriodLength)}.") from error


def label_of(window: Window) -> str:
    """Return ``2013-04`` for a whole month, else ``2013-04-01--2013-04-07``."""
    if window.start.day == 1 and window.end == _month_end(window.start):
        return f"{window.start:%Y-%m}"
    return f"{window.start}--{window.end}"


def _months(start: date, through: date) -> Iterator[Window]:
    while start <= through:
        yield Window(start=start, end=min(_month_end(start), through))
        start = _months_later(start.replace(day=1), 1)


def _weeks(start: date, through: date) -> Iterator[Window]:
    while start <= through:
        yield Window(start=start, end=min(start + timedelta(days=6), through))
        start += timedelta(days=7)


def _month_end(day: date) -> date:
    return day.replace(day=calendar.monthrange(day.year, day.month)[1])


def _months_later(day: date, months: int) -> date:
    for _ in range(months):
        day = _month_end(day) + timedelta(days=1)
    return day
