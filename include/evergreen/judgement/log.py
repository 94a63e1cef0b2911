"""A log of numbered files in the artifact store: written by any number of processes at once, and never rewritten."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from evergreen.contract import ConfigurationError
from evergreen.store import ArtifactStore, read_document
from evergreen.stored import Stored

_FILE = re.compile(r"\d+\.json")


class LogEntry(Stored):
    """What a log holds; it is never changed."""

    number: int = 0
    """Its place in the log."""


_Entry = TypeVar("_Entry", bound=LogEntry)
_Answer = TypeVar("_Answer")


@dataclass(frozen=True)
class Log(Generic[_Entry]):
    """The entries under one folder, ``000001.json`` and on.

    Nothing is locked, so nothing stays locked when a writer is killed. The next number can be created by one of many
    only: whoever loses reads again and judges again, so nothing is written that has not seen all that is before it.
    """

    store: ArtifactStore
    folder: str
    kind: type[_Entry]
    name: str
    """What to call an entry: ``"a claim"``."""
    hint: str
    """What to do about a file that is none."""

    def key(self, number: int) -> str:
        """Return the artifact key of an entry."""
        return f"{self.folder}/{number:06d}.json"

    def read(self) -> list[_Entry]:
        """Return all entries, oldest first.

        Raises
        ------
        ConfigurationError
            If a file is no entry.
        """
        entries, problems = self.survey()
        if problems:
            raise problems[0]
        return entries

    def survey(self) -> tuple[list[_Entry], list[ConfigurationError]]:
        """Return all entries that can be read, oldest first, and what is wrong with each of the others."""
        names = [key.rpartition("/")[2] for key in self.store.keys(f"{self.folder}/")]
        numbers = [int(name.removesuffix(".json")) for name in names if _FILE.fullmatch(name)]  # no editor's backup
        entries, problems = [], []
        # every number up to the newest: a listing that is made while files are may leave out one before it
        for number in range(1, max(numbers, default=0) + 1):
            try:
                entry = read_document(self.store, self.key(number), self.kind, self.name, self.hint)
            except ConfigurationError as error:
                problems.append(error)
                continue
            if entry is not None:  # else somebody deleted it
                entries.append(entry.model_copy(update={"number": number}))
        return entries, problems

    def append(self, judge: Callable[[Sequence[_Entry]], _Entry | _Answer]) -> _Entry | _Answer:
        """Write what a judge wants to add, and return it; or return what the judge says instead.

        Parameters
        ----------
        judge
            Told all entries there are. Returns a new one; or one of them, when what it would add is there already;
            or anything else, when there must be none.
        """
        while True:
            entries = self.read()
            answer = judge(entries)
            if not isinstance(answer, self.kind) or any(answer is entry for entry in entries):
                return answer
            number = max((entry.number for entry in entries), default=0) + 1
            entry = answer.model_copy(update={"number": number})
            if self.store.create(self.key(number), entry.model_dump_json(indent=2).encode()):
                return entry
