"""Everything that can be known to be wrong with a model before it runs: what ``evergreen models validate`` says.

The checks are the ones the steps themselves make, run on empty tables: SQL, expectations and Feast definitions are
loaded for real. The model's own Python is only parsed.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from datetime import date, datetime, time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from evergreen.authoring.scaffold import check_name
from evergreen.catalog import SPEC_FILE, behaviours_in, behaviours_text, load_model, model_folders, survey
from evergreen.contract import ConfigurationError, StepError, Window, is_stop
from evergreen.mistakes import Mistake, Mistakes, errors_in, mistakes_in
from evergreen.settings import get_settings
from evergreen.spec import FeatureView, ModelSpec, Source, Task
from evergreen.yaml_files import read_yaml

if TYPE_CHECKING:
    import pyarrow as pa

Check = Callable[[], None]

_ROUNDS = 5
_TEXTS = ("owner", "team", "description")


def check_models(names: list[str] | None = None) -> Iterator[tuple[str, list[StepError]]]:
    """Check models (default: every folder of the models directory); yields each with what is wrong with it."""
    for name in names or model_folders():
        yield name, check_model(name)


def check_model(name: str) -> list[StepError]:
    """Return everything that is wrong with a model: file, field, value and what to do."""
    problems: list[StepError] = []
    spec: ModelSpec | None = None
    try:
        spec = load_model(name)
    except ConfigurationError as error:
        problems += _each(error)
        if isinstance(error, Mistakes):
            spec, more = _without_mistakes(get_settings().models_dir / name / SPEC_FILE)
            problems += _each(Mistakes(more, error.hint))
    if spec:
        problems += [problem for check in _checks(spec) for problem in _failures(check)]
    return list({problem.message: problem for problem in problems}.values())


def _failures(check: Check) -> list[StepError]:
    try:
        check()
    except StepError as error:
        return _each(error)
    return []


def _each(error: StepError) -> list[StepError]:
    """Return the problems of a file one by one, each with what to do."""
    hint = error.hint or "Correct it there; docs/models.md says what belongs there."
    problems: list[StepError] = [*error.mistakes] if isinstance(error, Mistakes) else [error]
    for problem in problems:
        problem.hint = hint
    return problems


def _without_mistakes(path: Path) -> tuple[ModelSpec | None, list[Mistake]]:
    """Return a model as far as it can be judged, and the mistakes that came to light when others were taken out.

    A wrong value with a default is replaced by it, and a field that does not exist is left out; where neither is
    possible, e.g. for a list of columns, nothing more can be said.
    """
    try:
        content = read_yaml(path)
    except ConfigurationError:
        return None, []
    mistakes: list[Mistake] = []
    taken: set[tuple[int | str, ...]] = set()
    for _ in range(_ROUNDS):
        try:
            spec = ModelSpec.model_validate(content)
        except ValidationError as error:
            wrong = errors_in(error, ModelSpec, content)
            mistakes += mistakes_in(path, [item for item in wrong if item["loc"] not in taken])
            if [item["loc"] for item in wrong] == [()] and isinstance(content, dict):
                spec = _without_comparing(content)
            elif all(_repair(content, item, path.parent.name, taken) for item in wrong):
                continue
            else:
                return None, mistakes
        spec._folder = path.parent
        return spec, mistakes
    return None, mistakes


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


def _checks(spec: ModelSpec) -> Iterator[Check]:
    yield partial(check_name, spec.name)
    yield partial(_beside_the_others, spec)
    for source in spec.sources:
        if source.reader:
            yield partial(_function, spec, f"sources.{source.name}.reader", source.reader)
        else:
            yield partial(_source_type, spec, source)
    yield partial(_function, spec, "training.network", spec.training.network)
    for source in spec.sources:
        yield partial(_expectations, spec, source.name)
    yield from _sql_checks(spec)
    yield partial(_feast, spec)
    yield partial(_behaviours, spec)


def _behaviours(spec: ModelSpec) -> None:
    behaviours_in(behaviours_text(spec.folder), spec)


def _beside_the_others(spec: ModelSpec) -> None:
    if problem := survey().problems.get(spec.name):
        raise problem


def _function(spec: ModelSpec, field: str, reference: str) -> None:
    """Find a function of one argument without running the file it is in."""
    file, _, name = reference.partition(":")
    path = spec.folder / file
    where = f"{spec.folder / SPEC_FILE}: {field}: {reference!r}"
    if not path.is_file():  # a pipe would be waited for
        raise ConfigurationError(f"{where}: there is no file {path}.", "Create it, or correct the name.")
    try:
        tree = ast.parse(path.read_bytes(), filename=str(path))
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:  # the last two: 10,000 brackets
        line = f"line {error.lineno}: " if isinstance(error, SyntaxError) else ""
        raise ConfigurationError(f"{path}: {line}not valid Python: {error}.", "Correct that line.") from error
    definitions = [node for node in tree.body if name in _names(node)]
    if not definitions:
        raise ConfigurationError(f"{where}: {path} defines no {name!r}.", "Write it, or correct the name.")
    if isinstance(last := definitions[-1], ast.FunctionDef) and not _takes_one_argument(last.args):
        hint = f"It is called with one: def {name}({'day' if field.startswith('sources') else 'schema'}): …"
        raise ConfigurationError(f"{path}: line {last.lineno}: {name} does not take one argument.", hint)


def _source_type(spec: ModelSpec, source: Source) -> None:
    from evergreen.data.source_types import reader_of

    reader_of(spec, source)


def _names(node: ast.stmt) -> set[str]:
    """Return the names that a statement at the top of a file gives a value to."""
    match node:
        case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
            return {name}
        case ast.Import(names=aliases) | ast.ImportFrom(names=aliases):
            return {alias.asname or alias.name for alias in aliases}
        case ast.Assign(targets=targets):
            return {target.id for target in targets if isinstance(target, ast.Name)}
    return set()


def _takes_one_argument(arguments: ast.arguments) -> bool:
    positional = len(arguments.posonlyargs) + len(arguments.args)
    required = positional - len(arguments.defaults) + sum(default is None for default in arguments.kw_defaults)
    return required <= 1 and (positional >= 1 or arguments.vararg is not None)


def _expectations(spec: ModelSpec, name: str) -> None:
    """Load a suite, and judge a made-up day by it, for what Great Expectations has no way to compute here."""
    from evergreen.data.expectations import NotOnPandas, judge, load_suite

    source = spec.source(name)
    suite = load_suite(source, spec)
    day = spec.schedule.start
    frame = _made_up(source, day, spec.schedule.timezone).to_pandas()
    for number, expectation in enumerate(suite, start=1):
        try:
            judge([expectation], frame, [str(day)])
        except NotOnPandas as error:
            raise ConfigurationError(
                f"{spec.folder / source.expectations}: entry {number}: {error.message}", error.hint
            ) from error
        except ConfigurationError:  # a made-up value may be the reason; a real day will tell
            continue


def _sql_checks(spec: ModelSpec) -> Iterator[Check]:
    """Run every SQL file over empty tables of the declared columns; then look at the types of the inputs."""
    from evergreen.data.tables import published_schema
    from evergreen.data.transform import build_examples, build_view

    empty = {source.name: published_schema(source).empty_table() for source in spec.sources}
    day = Window(start=spec.schedule.start, end=spec.schedule.start)
    built: dict[str, pa.DataType] = {}

    def build(table: Callable[[], pa.Table]) -> None:
        built.update({field.name: field.type for field in table().schema})

    for view in spec.features.views:
        yield partial(build, partial(build_view, spec, view, empty, day))
        yield partial(_known_in_time, spec, view)
    yield partial(build, partial(build_examples, spec, empty, day))
    yield partial(_input_types, spec, built)


def _known_in_time(spec: ModelSpec, view: FeatureView) -> None:
    """Refuse a view whose row of a made-up day claims to be known before that day is ingested.

    The day has one row in each source, at its very beginning; what the SQL says of it else is no fault of the SQL.
    """
    from evergreen.data.transform import KnownTooEarly, build_view

    day = spec.schedule.start
    try:
        sources = {source.name: _made_up(source, day, spec.schedule.timezone) for source in spec.sources}
        build_view(spec, view, sources, Window(start=day, end=day))
    except KnownTooEarly:
        raise
    except StepError:
        return


def _made_up(source: Source, day: date, zone: str) -> pa.Table:
    import pyarrow as pa

    from evergreen.data.lake import PARTITION
    from evergreen.data.tables import published_schema

    begin = datetime.combine(day, time(), ZoneInfo(zone))
    values = {"string": "a", "int64": 1, "double": 1.0, "boolean": True, "date": day, "timestamp": begin}
    row = {PARTITION: str(day), **{name: values[kind] for name, kind in source.columns.items()}}
    return pa.Table.from_pylist([row], published_schema(source))


def _input_types(spec: ModelSpec, built: dict[str, pa.DataType]) -> None:
    """Refuse numeric inputs and labels that are not numbers, as far as their SQL could be run."""
    from pyarrow import types

    wanted = dict.fromkeys(spec.features.numeric, "features.numeric")
    if spec.task is not Task.MULTICLASS:
        wanted[spec.features.examples.label] = "features.examples.label"
    wrong = [
        f"{field}: {name!r} has the type {built[name]}, not a number's"
        for name, field in wanted.items()
        if name in built
        and not (types.is_integer(built[name]) or types.is_floating(built[name]) or types.is_boolean(built[name]))
    ]
    if wrong:
        raise ConfigurationError(
            "\n".join(f"{spec.folder / SPEC_FILE}: {line}." for line in wrong),
            "Cast it in its SQL, or make it a categorical input.",
        )


def _feast(spec: ModelSpec) -> None:
    path: Path = get_settings().feature_repo / f"{spec.name}.py"
    try:
        from evergreen.features.feast_repo import definitions

        definitions(spec)
    except StepError:
        raise
    except BaseException as error:  # whatever the file, or Feast, raises
        if is_stop(error):
            raise
        raise ConfigurationError(
            f"{path}: {type(error).__name__}: {error}.", "The file must import without an error."
        ) from error
