"""What is signed of a model: every file of its folder, and what these files are bound to.

An in-toto statement (https://in-toto.io/Statement/v1) in a DSSE envelope. Its subjects are the files with their
SHA-256. Its predicate says whose they are: which training they come from, and from the registration on which version.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Self

from pydantic import Field, ValidationError

from evergreen.contract import Window
from evergreen.stored import Part
from evergreen.trust.keys import ChangedError, UntrustedError, sign, verify

PAYLOAD_TYPE = "application/vnd.in-toto+json"
PREDICATE_TYPE = "urn:evergreen:model:1"
_STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
_MOST_NAMES = 3


class MisplacedError(UntrustedError):
    """It is signed and unchanged, but as something else: it was put in place of the right one."""


class Bound(Part):
    """What a model's files are bound to."""

    model: str
    run_id: str
    """MLflow's run that they come from."""
    logged_model: str
    """MLflow's id of the folder."""
    version: str = ""
    """The number of the registered version; empty: what ``train`` signs has none yet."""
    facts: dict[str, str] = Field(default_factory=dict)
    """Training window, data set, snapshots, digests, code, image; of a version also the decision and the scores."""

    @property
    def training(self) -> Window:
        """The window it learned from."""
        return Window.model_validate({side: self.facts[f"training_{side}"] for side in ("start", "end")})


class Statement(Part):
    """A signed statement, taken out of its envelope."""

    files: dict[str, str]
    """Path below the folder -> SHA-256."""
    bound: Bound

    @classmethod
    def of(cls, folder: Path, bound: Bound) -> Self:
        """Return the statement about a folder as it is."""
        return cls(files=dict(_digests(folder)), bound=bound)

    def signed(self) -> str:
        """Return it in an envelope, signed.

        Raises
        ------
        ConfigurationError
            If this process was not given the key.
        """
        subjects = [{"name": name, "digest": {"sha256": digest}} for name, digest in sorted(self.files.items())]
        document = {
            "_type": _STATEMENT_TYPE,
            "subject": subjects,
            "predicateType": PREDICATE_TYPE,
            "predicate": self.bound.model_dump(),
        }
        return sign(json.dumps(document).encode(), PAYLOAD_TYPE)

    @classmethod
    def verified(cls, envelope: bytes | None, what: str) -> Self:
        """Return the statement in an envelope, once its signature is found to be good.

        Raises
        ------
        UnsignedError, WrongKeyError, ChangedError
            If it is not signed, not by a key that is believed, or is not what was signed.
        MisplacedError
            If it states something else.
        """
        document = json.loads(verify(envelope, PAYLOAD_TYPE, what))  # by somebody with the key, so it is JSON
        kind = document.get("predicateType")
        if kind != PREDICATE_TYPE:
            raise MisplacedError(
                f"{what} is signed as a statement of the kind {kind!r}, not {PREDICATE_TYPE!r}.",
                "A newer Evergreen may have written it: update this one.",
            )
        try:
            files = {subject["name"]: subject["digest"]["sha256"] for subject in document["subject"]}
            return cls(files=files, bound=Bound.model_validate(document["predicate"]))
        except (KeyError, TypeError, ValidationError) as error:
            raise ChangedError(f"{what} cannot be read: {error}.", "Make it again: train again.") from error

    def check_files(self, folder: Path, what: str) -> None:
        """Refuse a folder that is not, file by file, the one that was signed.

        Raises
        ------
        ChangedError
            If a file was changed, is missing, or was not there.
        """
        found = dict(_digests(folder))
        changed = sorted(name for name in self.files.keys() & found if self.files[name] != found[name])
        for names, problem in (
            (changed, "was changed after it was signed"),
            (sorted(self.files.keys() - found), "is missing: it was there when the model was signed"),
            (sorted(found.keys() - self.files), "was not there when the model was signed"),
        ):
            if names:
                listed = ", ".join(names[:_MOST_NAMES]) + (", ..." if len(names) > _MOST_NAMES else "")
                raise ChangedError(
                    f"{what}: the file {listed} {problem}.",
                    "Nothing of it was loaded. Restore the model's folder from a backup, or roll back and train again.",
                )

    def check_bound(self, what: str, **expected: str) -> None:
        """Refuse a statement that is about another model, run or version.

        Raises
        ------
        MisplacedError
            If it is; the message says about which.
        """
        for name, value in expected.items():
            stated = getattr(self.bound, name)
            if stated != value:
                raise MisplacedError(
                    f"{what}: its signature is that of {_named(self.bound)}: {name.replace('_', ' ')} {stated!r}, not "
                    f"{value!r}.",
                    "It was put in place of the right one: restore that from a backup.",
                )

    def check_facts(self, what: str, told: Mapping[str, str]) -> None:
        """Refuse facts that are told elsewhere and are not those that were signed.

        Raises
        ------
        ChangedError
            If one is another, or is not told.
        """
        for name, signed in self.bound.facts.items():
            if told.get(name) != signed:
                raise ChangedError(
                    f"{what}: {name} is {told.get(name)!r}, but {signed!r} was signed.",
                    "Set it back in MLflow, or train again.",
                )


def _named(bound: Bound) -> str:
    return f"version {bound.version} of {bound.model}" if bound.version else f"the run {bound.run_id} of {bound.model}"


def _digests(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield path and SHA-256 of every file below a folder; a link is no file, whatever it leads to."""
    for place, folders, names in os.walk(folder):
        links = [name for name in folders if Path(place, name).is_symlink()]
        for name in (*names, *links):
            path = Path(place, name)
            relative = path.relative_to(folder).as_posix()
            if path.is_symlink() or not path.is_file():
                yield relative, "a link or no plain file"
                continue
            with path.open("rb") as file:
                yield relative, hashlib.file_digest(file, "sha256").hexdigest()
