"""The corpus: documents of every schema version, as the code of their time wrote them.

A file that is once released is never changed. When the code writes a field that no document of the present version
has, or a new version, run ``PYTHONPATH=plugins .venv/bin/python tests/corpus_kit.py``: it adds documents that have
it.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import evergreen
import evergreen_airflow.alerts.delivery
import evergreen_airflow.attempts
import evergreen_airflow.replay
from evergreen.stored import Part, Stored

CORPUS = Path(__file__).parent / "corpus"
PACKAGES = (evergreen, evergreen_airflow.replay)
MODULES = (evergreen_airflow.attempts, evergreen_airflow.alerts.delivery)
"""Where documents are stored."""


def kinds() -> dict[str, type[Stored]]:
    """Return every kind of stored document, by the name of its folder in the corpus."""
    for package in PACKAGES:
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)
    names = (*(f"{package.__name__}." for package in PACKAGES), *(module.__name__ for module in MODULES))
    ours = [kind for kind in _subclasses(Stored) if kind.__module__.startswith(names)]  # tests have some of their own
    return {kind.__name__: kind for kind in ours if not kind.__subclasses__()}


def _subclasses(kind: type[Stored]) -> Iterator[type[Stored]]:
    for below in kind.__subclasses__():
        yield below
        yield from _subclasses(below)


def version_of(kind: type[Stored]) -> int:
    """Return the schema version that the present code writes."""
    return int(kind.model_fields["schema_version"].default)


def documents(kind: type[Stored], version: int) -> list[Path]:
    """Return the documents of a kind and version, as files."""
    return sorted((CORPUS / f"v{version}" / kind.__name__).glob("*.json"))


def parts_of(value: object) -> Iterator[Part]:
    """Yield a document and all it is made of."""
    if isinstance(value, Part):
        yield value
        found = {name: getattr(value, name) for name in type(value).model_fields}
        value = {name: one for name, one in found.items() if not isinstance(one, Stored)}  # they have their own folder
    if isinstance(value, dict):
        value = tuple(value.values())
    if isinstance(value, list | tuple):
        for one in value:
            yield from parts_of(one)


def unseen(kind: type[Stored]) -> dict[str, set[str]]:
    """Return the fields that the present code writes and no document of its version has, by class."""
    seen: dict[type[Part], set[str]] = defaultdict(set)
    seen[kind] = set()
    for path in documents(kind, version_of(kind)):
        for part in parts_of(kind.parse(path.read_bytes())):
            seen[type(part)] |= part.model_fields_set
    return {of.__name__: new for of, fields in seen.items() if (new := set(of.model_fields) - fields)}


def extend() -> None:
    """Write what is missing: the documents of the version before, as the present code writes them."""
    for kind in kinds().values():
        if not unseen(kind):
            continue
        version = version_of(kind)
        folder = CORPUS / f"v{version}" / kind.__name__
        folder.mkdir(parents=True, exist_ok=True)
        for path in documents(kind, version - 1) or documents(kind, version):
            count = len(list(folder.glob(f"{path.stem}*.json")))
            target = folder / (f"{path.stem}-{count + 1}.json" if count else path.name)
            target.write_text(kind.parse(path.read_bytes()).model_dump_json(indent=2) + "\n")


if __name__ == "__main__":
    extend()
