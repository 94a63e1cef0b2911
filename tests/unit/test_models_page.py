"""docs/models.md knows every field of both files, default and metric, and no other."""

from __future__ import annotations

import json
import re
import typing
from collections.abc import Iterator

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from evergreen.settings import PROJECT_ROOT
from evergreen.spec import METRICS, Behaviours, ModelSpec

PAGE = (PROJECT_ROOT / "docs/models.md").read_text(encoding="utf-8")


def _fields(section: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield every field's path, as the page writes it, and its default."""
    for name, field in section.model_fields.items():
        inner = [kind for kind in (field.annotation, *typing.get_args(field.annotation)) if isinstance(kind, type)]
        nested = [kind for kind in inner if issubclass(kind, BaseModel)]
        path = f"{prefix}{name}{'[]' if typing.get_origin(field.annotation) is tuple and nested else ''}"
        default = field.get_default(call_default_factory=True)
        if nested:
            yield from _fields(nested[0], f"{path}.")
        else:
            yield path, "required" if default is PydanticUndefined else f"`{json.dumps(default)}`"


def _table(page: str) -> dict[str, str]:
    return dict(re.findall(r"^\| `([a-z0-9_.\[\]]+)` \| ([^|]+?) \| [^|]+ \|$", page, flags=re.M))


def test_the_table_is_the_specification() -> None:
    assert _table(PAGE) == dict(_fields(ModelSpec)) | dict(_fields(Behaviours))


def test_a_field_that_is_missing_or_changed_would_be_noticed() -> None:
    without = "\n".join(line for line in PAGE.splitlines() if "| `drift.psi_threshold` |" not in line)
    assert dict(_fields(ModelSpec)).keys() - _table(without).keys() == {"drift.psi_threshold"}
    without = PAGE.replace("| `request[].answer` |", "")
    assert dict(_fields(Behaviours)).keys() - _table(without).keys() == {"request[].answer"}
    assert _table(PAGE.replace("| `0.2` |", "| `0.3` |"))["drift.psi_threshold"] == "`0.3`"


def test_every_metric_is_named_with_its_tasks_and_direction() -> None:
    listed = PAGE[PAGE.index("Metrics: ") :]
    found: dict[str, tuple[set[str], str]] = {}
    for names, tasks, direction in re.findall(r"((?:`\w+`,?\s*)+)\(([^,]+),\s*(\w+)\)", listed):
        for name in re.findall(r"`(\w+)`", names):
            found[name] = (set(re.split(r"\s+and\s+", tasks)), direction)
    expected = {name: ({task.value for task in tasks}, way.value) for name, (tasks, way) in METRICS.items()}
    assert found == expected
