"""A model.yaml with mistakes, without them: so that what else is wrong with the model can be said at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from evergreen.contract import ConfigurationError
from evergreen.spec import ModelSpec
from evergreen.yaml_files import Mistake, mistakes_in, read_yaml

_ROUNDS = 5
_TEXTS = ("owner", "team", "description")


def without_mistakes(path: Path) -> tuple[ModelSpec | None, list[Mistake]]:
    """Return a model as far as it can be judged, and the mistakes that came to light when others were taken out.

    A wrong value with a default is replaced by it, and a field that does not exist is left out; where neither is
    possible, e.g. for a list of columns, nothing more can be said.
    """
    try:
        content = read_yaml(path)
    except ConfigurationError:
        return None, []
    found: list[Mistake] = []
    taken: set[tuple[int | str, ...]] = set()
    for _ in range(_ROUNDS):
        try:
            spec = ModelSpec.model_validate(content)
        except ValidationError as error:
            wrong = error.errors(include_url=False)
            found += mistakes_in(path, [item for item in wrong if item["loc"] not in taken])
            if [item["loc"] for item in wrong] == [()] and isinstance(content, dict):
                spec = _without_comparing(content)
            elif all(_repair(content, item, path.parent.name, taken) for item in wrong):
                continue
            else:
                return None, found
        spec._folder = path.parent
        return spec, found
    return None, found


def _without_comparing(content: dict[str, Any]) -> ModelSpec:
    """Return a model whose sections are right, but do not fit together."""
    fields = {name: field for name, field in ModelSpec.model_fields.items() if name in content}
    sections: dict[str, Any] = {
        name: TypeAdapter(field.rebuild_annotation()).validate_python(content[name]) for name, field in fields.items()
    }
    return ModelSpec.model_construct(**sections)


def _repair(content: Any, item: ErrorDetails, folder: str, taken: set[tuple[int | str, ...]]) -> bool:
    place = item["loc"]
    if not place or place in taken or "[key]" in place:
        return False
    *parents, last = place
    section = content
    for part in parents:
        section = section[part]
    if not isinstance(section, dict) or not isinstance(last, str):
        return False
    taken.add(place)
    if place == ("name",):
        section[last] = folder
    elif len(place) == 1 and last in _TEXTS:
        section[last] = "unknown"
    elif item["type"] == "missing":
        return False
    else:
        del section[last]
    return True
