"""How earlier attempts of a task ended: what decides whether the next one is worth trying, and with how much memory."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass

from evergreen.contract import ConfigurationError, FailureClass, RunIdentity, StepError
from evergreen.store import ArtifactStore, read_document
from evergreen.stored import Stored

log = logging.getLogger(__name__)


class AttemptDocument(Stored):
    """How one attempt failed."""

    attempt: str
    profile: str
    """The resource profile it had."""
    failure_class: FailureClass
    message: str
    hint: str = ""
    crash: str = ""
    """The signal it died by."""


@dataclass(frozen=True)
class Attempts:
    """The failed attempts of a task, kept beside its manifest so that the next attempt knows of them."""

    store: ArtifactStore
    run: RunIdentity

    def record(self, try_number: int, attempt: str, profile: str, error: StepError, crash: str = "") -> None:
        """Keep how an attempt failed; ``crash`` is the signal that it died by."""
        document = AttemptDocument(
            attempt=attempt,
            profile=profile,
            failure_class=error.failure_class,
            message=error.message,
            hint=error.hint,
            crash=crash,
        )
        self.store.write(f"{self.run.key}/attempts/{try_number}.json", document.model_dump_json(indent=2).encode())

    def ran_out_of_memory(self) -> bool:
        """Tell whether an earlier attempt did."""
        return any(failed.failure_class is FailureClass.OUT_OF_MEMORY for failed in self._recorded())

    def crashed(self) -> bool:
        """Tell whether an earlier attempt died by a signal."""
        return any(failed.crash for failed in self._recorded())

    def _recorded(self) -> Iterator[AttemptDocument]:
        for key in self.store.keys(f"{self.run.key}/attempts/"):
            try:
                document = read_document(self.store, key, AttemptDocument, "the record of an attempt", "")
            except ConfigurationError as error:  # a damaged record must not hide how this attempt ended
                log.warning("%s It is left out.", error)
                continue
            if document is not None:
                yield document
