"""The step contract: what a step is given, what it must leave behind, and how it may fail.

A step is a function from a :class:`Request` (versioned inputs) to a :class:`Result` (versioned
outputs). The result is stored as a manifest; exit 0 without a valid manifest is a failure.
"""

from __future__ import annotations

import hashlib
import re
import signal
from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Literal
from urllib.parse import quote, unquote

from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

from evergreen.field_types import matching
from evergreen.stored import OpenEnum, Part, Stored

NAME_PATTERN = "[a-z][a-z0-9_]{0,62}"
Name = Annotated[str, matching(NAME_PATTERN, "at most 63 lower-case letters, digits and underscores, a letter first")]
"""A model, step, source or feature view name: lower case, digits and underscores."""


class FailureClass(OpenEnum):
    """Why a step failed. The class decides whether Airflow retries; see :data:`EXIT_CODES`."""

    DATA = "data"
    CONFIGURATION = "configuration"
    TEMPORARY = "temporary"
    BUG = "bug"
    OUT_OF_MEMORY = "out_of_memory"


EXIT_CODES: Mapping[FailureClass, int] = {
    FailureClass.DATA: 65,
    FailureClass.CONFIGURATION: 78,
    FailureClass.TEMPORARY: 75,
    FailureClass.BUG: 70,
    FailureClass.OUT_OF_MEMORY: 137,
}
"""Exit code of each failure class: the codes of BSD ``sysexits.h``; 137 is 128 + SIGKILL."""


def failure_class_of(exit_code: int) -> FailureClass:
    """Return the failure class an exit code stands for; an unknown non-zero code is a bug."""
    return next((known for known, code in EXIT_CODES.items() if code == exit_code), FailureClass.BUG)


def exit_code_of(failure_class: FailureClass) -> int:
    """Return the exit code of a failure class; one that a newer version has added ends like a bug: never retried."""
    return EXIT_CODES.get(failure_class, EXIT_CODES[FailureClass.BUG])


UNWRITABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]")
"""What PostgreSQL, UTF-8 or a terminal does not take: control characters and halves of characters (lone surrogates)."""


def writable(text: str) -> str:
    """Return text that every database, log and terminal takes: what they do not take is written as an escape."""
    return UNWRITABLE.sub(lambda character: character[0].encode("unicode_escape").decode(), text)


class StepError(Exception):
    """A failure whose class is known, with a message for the reader and a hint on what to do.

    Raise one of the subclasses; anything else that escapes a step is a bug (exit 70).
    """

    failure_class: FailureClass = FailureClass.BUG
    times: int = 1
    """How many equal problems it stands for."""

    def __init__(self, message: str, hint: str = "") -> None:
        self.message = writable(message)  # a folder's name, a key, a value: somebody else's text
        self.hint = writable(hint)
        super().__init__(self.message)

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()


class DataError(StepError):
    """The data is wrong or missing: retrying the same request cannot help (exit 65)."""

    failure_class = FailureClass.DATA


class ConfigurationError(StepError):
    """A setting, model.yaml or parameter is wrong: a person must change it (exit 78)."""

    failure_class = FailureClass.CONFIGURATION


class TemporaryError(StepError):
    """A server did not answer or a lock was held: the same request may succeed later (exit 75)."""

    failure_class = FailureClass.TEMPORARY


class Stopped(BaseException):
    """SIGTERM arrived: no step may catch it by catching Exception."""


def printable(text: str, longest: int = 500) -> str:
    """Return text that every log and manifest takes: cut, and writable."""
    cut = writable(text[:longest])
    return cut if len(text) <= longest else f"{cut}… ({len(text):,} characters)"


def described(error: BaseException) -> str:
    """Return an exception as ``Type: message``; the message is somebody's code too, and may itself fail."""
    try:
        text = str(error).strip().removesuffix(".")
    except BaseException as second:
        if is_stop(second):
            raise
        text = f"(its message cannot be shown: {type(second).__name__})"
    return printable(f"{printable(type(error).__name__, 100)}: {text}".removesuffix(": "))


def is_stop(error: BaseException) -> bool:
    """Tell whether an exception means that this process is to stop, whatever code it happens to come through."""
    if isinstance(error, SystemExit):  # Ray replaces the handler of SIGTERM by one that exits with the signal's number
        return error.code == signal.SIGTERM
    return isinstance(error, Stopped | KeyboardInterrupt)


class Frozen(BaseModel):
    """Base of what people write and steps are asked and answer: immutable, unknown fields refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class RunIdentity(Part):
    """Where a step runs: the Airflow run it belongs to, or ``dag_id="<model>.shell"`` outside Airflow."""

    dag_id: str = Field(min_length=1)
    run_id: str = Field(min_length=1)
    task_id: str = Field(min_length=1)

    @property
    def key(self) -> str:
        """The artifact key of this task's folder: ``runs/<dag_id>/<run_id>/<task_id>``, each part quoted."""
        return "/".join(["runs", *(folder_name(part) for part in (self.dag_id, self.run_id, self.task_id))])

    @property
    def manifest_key(self) -> str:
        """The artifact key of the manifest that this task leaves."""
        return f"{self.key}/result.json"

    @property
    def address(self) -> str:
        """One word that leads back to this task: ``<dag_id>/<run_id>/<task_id>``, each part quoted."""
        return "/".join(quote(part, safe=_PLAIN) for part in (self.dag_id, self.run_id, self.task_id))

    def sibling(self, task_id: str) -> RunIdentity:
        """Return the identity of another task of the same run."""
        return self.model_copy(update={"task_id": task_id})

    def resolve(self, reference: str) -> RunIdentity:
        """Return the task that a reference names: a task id of the same run, or the address of a task of any run.

        Raises
        ------
        ConfigurationError
            If it is neither.
        """
        if "/" not in reference:
            return self.sibling(reference)
        parts = [unquote(part) for part in reference.split("/")]
        if len(parts) != 3 or not all(parts):
            raise ConfigurationError(
                f"{reference!r} names no task.", "Write a task id of the same run, or <dag id>/<run id>/<task id>."
            )
        return RunIdentity(dag_id=parts[0], run_id=parts[1], task_id=parts[2])


_PLAIN = "+=@,:-"
"""What stands for itself in a quoted part of an identity, beside letters, digits and ``._~``."""
_LONGEST_FOLDER_NAME = 200
"""Bytes; file systems allow 255, and an S3 key 1,024 in all."""


def folder_name(part: str) -> str:
    """Quote a part of a run's identity: different parts stay different, and none is hidden or climbs out (``..``)."""
    quoted = quote(part, safe=_PLAIN).replace("~", "%7E")
    if quoted.startswith("."):
        quoted = "%2E" + quoted[1:]
    if len(quoted) <= _LONGEST_FOLDER_NAME:
        return quoted
    # "~" marks a shortened name: no unshortened one contains it
    return f"{quoted[:150]}~{hashlib.sha256(part.encode()).hexdigest()[:32]}"


class Window(Part):
    """A closed range of daily partitions: both ends are included."""

    start: date
    end: date

    @model_validator(mode="after")
    def _ordered(self) -> Window:
        if self.start > self.end:
            raise ValueError(f"window starts on {self.start} after it ends on {self.end}")
        return self

    @property
    def days(self) -> int:
        """Number of partitions in the window."""
        return (self.end - self.start).days + 1

    @property
    def partitions(self) -> list[date]:
        """The days, oldest first."""
        return [self.start + timedelta(days=offset) for offset in range(self.days)]

    def through(self, days: Iterable[str]) -> Window:
        """Return the window, longer if one of these days comes after it."""
        return Window(start=self.start, end=date.fromisoformat(max([str(self.end), *days])))

    def __contains__(self, day: str) -> bool:
        """Tell whether a partition, as the column ``ds`` writes it, is in the window."""
        return str(self.start) <= day <= str(self.end)

    def __str__(self) -> str:
        return f"{self.start}..{self.end}"


class Output(Part):
    """One versioned output: a table snapshot, a file or a registered model."""

    name: str
    uri: str
    version: str
    """The Iceberg snapshot id, model version, or content digest that pins this output."""
    digest: str = ""
    rows: int | None = Field(default=None, ge=0)


class Failure(Part):
    """Why a step failed, for a person (message, hint) and for the retry policy (class)."""

    failure_class: FailureClass
    message: str
    hint: str = ""


class Status(OpenEnum):
    """How a step ended. ``refused`` and ``skipped`` are answers, not failures."""

    OK = "ok"
    REFUSED = "refused"
    SKIPPED = "skipped"
    FAILED = "failed"


class Result(Frozen):
    """What a step function returns: its outputs and what it found out.

    ``facts`` are small values worth showing in Airflow (they become the XCom); ``metrics`` are
    finite or missing numbers; ``reason`` is required when the status is not ``ok``.
    """

    status: Literal[Status.OK, Status.REFUSED, Status.SKIPPED] = Status.OK
    reason: str = ""
    outputs: tuple[Output, ...] = ()
    inputs: tuple[Output, ...] = ()
    """The versioned inputs that were read: the lineage of the outputs."""
    metrics: dict[str, float] = Field(default_factory=dict)
    facts: dict[str, JsonValue] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _reasoned(self) -> Result:
        if self.status is not Status.OK and not self.reason:
            raise ValueError(f"a {self.status} result needs a reason")
        return self


class Manifest(Stored):
    """The record of one execution of one step, stored as ``<run key>/result.json``."""

    step: Name
    model: Name
    window: Window
    run: RunIdentity
    attempt: str
    """Which execution wrote this: the operator accepts only the attempt it launched."""
    params: dict[str, JsonValue] = Field(default_factory=dict)
    status: Status
    reason: str = ""
    outputs: tuple[Output, ...] = ()
    inputs: tuple[Output, ...] = ()
    metrics: dict[str, float] = Field(default_factory=dict)
    facts: dict[str, JsonValue] = Field(default_factory=dict)
    failure: Failure | None = None
    code_version: str
    config_digest: str
    image: str = ""
    started: datetime
    finished: datetime

    @model_validator(mode="after")
    def _consistent(self) -> Manifest:
        if self.status.known and (self.status is Status.FAILED) != (self.failure is not None):
            raise ValueError("a manifest carries a failure exactly when its status is failed")
        return self

    def output(self, name: str) -> Output:
        """Return the output called ``name``.

        Raises
        ------
        DataError
            If the step left no such output.
        """
        for output in self.outputs:
            if output.name == name:
                return output
        have = ", ".join(output.name for output in self.outputs) or "none"
        raise DataError(
            f"{self.run.manifest_key}: no output {name!r} (it has: {have}).",
            f"Run the task {self.run.task_id!r} again, or pass the manifest of the step that writes {name!r}.",
        )


class Request(Frozen):
    """What a step is asked to do. The same request gives the same outputs and one logical write."""

    step: Name
    model: Name
    window: Window
    run: RunIdentity
    upstream: dict[str, Manifest] = Field(default_factory=dict)
    """Manifests of the upstream tasks, by step name."""
    params: dict[str, JsonValue] = Field(default_factory=dict)
    attempt: str = "1"

    @property
    def partition(self) -> date:
        """The newest partition of the window: the one a daily step works on."""
        return self.window.end


def utc_now() -> datetime:
    """Return the current time, aware, in UTC."""
    return datetime.now(UTC)
