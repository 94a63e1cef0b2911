"""From how a step ended to how its Airflow task ends."""

from __future__ import annotations

from typing import Any

from airflow.sdk.exceptions import AirflowException, AirflowFailException

from evergreen.contract import ConfigurationError, Failure, FailureClass, Manifest, RunIdentity, StepError
from evergreen.store import ArtifactStore, NewerDocument, read_manifest
from evergreen_airflow.ending import Ending


class StepFailed(StepError):
    """A failed step: what its manifest says, or what can be told without one."""

    def __init__(self, failure_class: FailureClass, message: str, hint: str = "") -> None:
        super().__init__(message, hint)
        self.failure_class = failure_class


def accept(manifest: Manifest | None, ending: Ending, *, attempt: str, model: str, step: str) -> Manifest:
    """Return the manifest of a step that gave an answer.

    Raises
    ------
    StepFailed
        If it reports a failure, is missing, was left by another attempt, model or step, or the process failed after
        it was written. Exit 0 is no proof of anything (apache/airflow #41867: failed pods marked success).
    """
    ended = f"step {step} of {model} {ending}"
    if manifest is None or manifest.attempt != attempt:
        if not ending.ran:
            raise StepFailed(ending.cause, f"{ended}.", ending.hint)
        left = "no manifest" if manifest is None else f"only the manifest of another attempt, {manifest.attempt}"
        if ending.exit_code == 0:
            hint = "Its output is not to be trusted: read its log, then clear the task."
            raise StepFailed(FailureClass.BUG, f"{ended} but left {left}.", hint)
        raise StepFailed(ending.cause, f"{ended} and left {left}.", ending.hint)
    if (manifest.model, manifest.step) != (model, step):
        raise StepFailed(
            FailureClass.BUG,
            f"{manifest.run.manifest_key} is of step {manifest.step} of {manifest.model}, not of {step} of {model}.",
            "Two tasks write to one place: check the arguments of the step's command.",
        )
    failure = manifest.failure
    if failure and not (ending.failure_class and failure.failure_class is FailureClass.TEMPORARY):
        raise StepFailed(failure.failure_class, f"{failure.failure_class}: {failure.message}", _hint(failure))
    if failure:  # it was stopped, and can only say so; its surroundings know why
        raise StepFailed(ending.cause, f"{ended}.")
    if ending.exit_code:  # the answer was stored, but something went wrong after: repeating a step is always safe
        cause = FailureClass.TEMPORARY if ending.cause is FailureClass.BUG else ending.cause
        raise StepFailed(cause, f"step {step} of {model} stored its result, then {ending}.")
    return manifest


def _hint(failure: Failure) -> str:
    if failure.failure_class.known:
        return failure.hint
    unknown = f"No retry: this Airflow does not know the class {failure.failure_class.value!r}. Update its image."
    return f"{failure.hint} {unknown}".strip()


def xcom_value(manifest: Manifest) -> dict[str, Any]:
    """Return what later tasks may ask: the step's facts and metrics, its status and the reason for it."""
    return {**manifest.metrics, **manifest.facts, "status": manifest.status.value, "reason": manifest.reason}


def airflow_error(
    error: StepError, *, larger_profile_left: bool = False, crash: str = "", crashed_before: bool = False
) -> AirflowException:
    """Return the exception that makes Airflow retry what a retry can help, and nothing else.

    Parameters
    ----------
    error
        Why the attempt failed.
    larger_profile_left
        Whether the next try of a step that ran out of memory gets more.
    crash, crashed_before
        The signal that this attempt died by, and whether an earlier one died so too: a race or a bad moment of the
        machine is gone with the next try, a defect is not.
    """
    text = f"{str(error).rstrip('.')}."
    if error.failure_class is FailureClass.OUT_OF_MEMORY:
        if larger_profile_left:
            return AirflowException(f"{text} The next try runs on the next larger resource profile.")
        return AirflowFailException(f"{text} Raise resources in model.yaml, or shorten its windows.")
    if error.failure_class is not FailureClass.TEMPORARY:
        return AirflowFailException(text)
    if crash and crashed_before:
        return AirflowFailException(f"{text} An earlier try crashed too: report it with the log above.")
    return AirflowException(f"{text} After a crash it is tried once more." if crash else text)


def read_task_manifest(store: ArtifactStore, run: RunIdentity) -> Manifest | None:
    """Return the manifest of this very task; an unreadable one is the step's defect, not the reader's setting."""
    try:
        return read_manifest(store, run)
    except NewerDocument:
        raise
    except ConfigurationError as error:
        raise StepFailed(FailureClass.BUG, error.message, error.hint) from error
