"""The project's Feast repository: its connection, its definitions, and their registration."""

from __future__ import annotations

import contextlib
import os
import runpy
import sys
import warnings
from collections.abc import Iterator
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evergreen.contract import ConfigurationError
from evergreen.environment import add, feast_variables
from evergreen.features.exclusive import exclusive
from evergreen.settings import get_settings
from evergreen.spec import FeatureView, ModelSpec

if TYPE_CHECKING:
    from feast import FeatureStore


@lru_cache(maxsize=1)
def get_feature_store() -> FeatureStore:
    """Return Feast's store of the project, configured by feature_repo/feature_store.yaml."""
    settings = get_settings()
    add(feast_variables(settings))
    import_feast()
    from feast import FeatureStore

    with exclusive("feast registry"):  # the first one creates the registry's tables, and cannot do so beside another
        store = FeatureStore(repo_path=str(settings.feature_repo))
        _ = store.registry  # opened by its first use
        return store


def run_feast(arguments: list[str]) -> None:
    """Run Feast's command line in the feature repository, connected to the configured databases."""
    settings = get_settings()
    if arguments and "--help" not in arguments:  # help needs no database
        add(feast_variables(settings))
    os.chdir(settings.feature_repo)
    import_feast()
    from feast.cli.cli import cli

    cli.main(arguments, prog_name="evergreen feast")


def import_feast() -> None:
    """Import Feast in a fifth of its time.

    Measured with -X importtime: of 6.2 s, 3.3 s are typeguard rewriting Feast's classes so that they check their
    arguments at run time, and 1.5 s are torch, which Feast needs for nothing but ``to_tensor``. Without both: 1.3 s.
    """
    if "feast" in sys.modules:
        return
    import typeguard

    original = typeguard.typechecked
    without_torch = "torch" not in sys.modules
    try:
        typeguard.typechecked = _unchanged
        if without_torch:
            sys.modules["torch"] = None  # type: ignore[assignment]  # makes "import torch" fail, which Feast expects
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import feast  # noqa: F401
    finally:
        typeguard.typechecked = original
        if without_torch:
            del sys.modules["torch"]


def _unchanged(target: Any = None, **_: Any) -> Any:
    """Stand in for typeguard's decorator, with or without arguments."""
    return _unchanged if target is None else target


def definitions(spec: ModelSpec) -> list[Any]:
    """Load the Feast objects of feature_repo/<model>.py, and check them against model.yaml.

    Raises
    ------
    ConfigurationError
        If the file is missing, a view's entities or features are not those of model.yaml, or its ttl is negative.
    """
    import_feast()
    from feast import Entity, FeatureService
    from feast import FeatureView as FeastView

    path = get_settings().feature_repo / f"{spec.name}.py"
    if not path.is_file():
        raise ConfigurationError(
            f"{path}: there is no such file.", "It holds the Feast definitions of the model; copy another model's."
        )
    names = runpy.run_path(str(path), run_name=f"evergreen_features.{spec.name}")
    objects = [value for value in names.values() if isinstance(value, (Entity, FeatureService, FeastView))]
    views = {value.name: value for value in objects if isinstance(value, FeastView)}
    for view in spec.features.views:
        _check_definition(str(path), views.get(spec.feast_name(view)), view, spec)
    return objects


def _check_definition(path: str, feast_view: Any, view: FeatureView, spec: ModelSpec) -> None:
    name = spec.feast_name(view)
    if feast_view is None:
        raise ConfigurationError(f"{path}: there is no FeatureView(name={name!r}), but model.yaml has the view.")
    entities, features = sorted(feast_view.join_keys), [field.name for field in feast_view.features]
    if entities != sorted(view.entities):
        raise ConfigurationError(
            f"{path}: {name} is looked up by {', '.join(entities)}, in model.yaml by {', '.join(view.entities)}."
        )
    if sorted(features) != sorted(view.features):
        raise ConfigurationError(
            f"{path}: {name} has the features {', '.join(features)}, in model.yaml it has {', '.join(view.features)}."
        )
    if feast_view.ttl is not None and feast_view.ttl < timedelta():
        raise ConfigurationError(
            f"{path}: {name}: ttl is {feast_view.ttl!r}: no row would ever be young enough.",
            "Say how old a row may be; no ttl at all is no limit.",
        )


def apply(spec: ModelSpec) -> bool:
    """Register the model's definitions, if they are not registered already; tells whether anything changed."""
    objects = definitions(spec)
    store = get_feature_store()
    if _are_registered(store, objects):
        return False
    with exclusive("feast apply"):
        if _are_registered(store, objects):
            return False  # another process was faster
        with quiet():
            store.apply(objects)
    return True


def _are_registered(store: FeatureStore, objects: list[Any]) -> bool:
    if not all(_is_registered(store, wanted) for wanted in objects):
        return False
    store.refresh_registry()  # reads of features look into what the store has read before, when they may have been new
    return True


def _is_registered(store: FeatureStore, wanted: Any) -> bool:
    from feast import Entity, FeatureService
    from feast.errors import FeastObjectNotFoundException

    getters = {Entity: store.get_entity, FeatureService: store.get_feature_service}
    try:
        registered = getters.get(type(wanted), store.get_feature_view)(wanted.name)
    except FeastObjectNotFoundException:
        return False
    if type(wanted) not in getters:  # what was materialized is no part of a view's definition, but Feast compares it
        wanted.materialization_intervals = registered.materialization_intervals
    return bool(registered == wanted)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep Feast's progress bars and coloured prints out of the log."""
    with (
        Path(os.devnull).open("w") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        yield
