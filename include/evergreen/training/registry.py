"""The MLflow registry: a version per training run, and the aliases that say which one serves."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date
from typing import TYPE_CHECKING, Any, Self

from evergreen.contract import ConfigurationError, DataError, Output, TemporaryError, Window
from evergreen.environment import add_constants, complete
from evergreen.settings import get_settings
from evergreen.store.base import PLAIN, UNTRUSTED

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from urllib3.util import Retry

CHAMPION = "champion"
CHALLENGER = "challenger"
TAG = "evergreen."
"""Prefix of every tag this project sets."""
REPLACED = "replaced"
"""Tag of a promoted version: the version that was champion before it, ``0`` for none."""
REFIT_REFUSED = "refit_refused"
"""Tag: why the challenger itself was registered, and not what `refit` has made of it."""


@dataclass(frozen=True)
class Version:
    """A registered version of a model; ``tags`` without their prefix."""

    model: str
    number: str
    run_id: str
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def uri(self) -> str:
        """Where MLflow loads it from."""
        return f"models:/{self.model}/{self.number}"

    @property
    def training(self) -> Window:
        """The window it learned from.

        Raises
        ------
        DataError
            If it was not registered by Evergreen.
        """
        try:
            start, end = (date.fromisoformat(self.tags[f"training_{side}"]) for side in ("start", "end"))
        except (KeyError, ValueError) as error:
            raise DataError(
                f"{self.uri}: the tags {TAG}training_start and {TAG}training_end do not say what it learned from.",
                f"evergreen rollback {self.model} --to none takes the alias away.",
            ) from error
        return Window(start=start, end=end)

    @property
    def challenger(self) -> str:
        """The MLflow run of the challenger that was judged for it: its own, unless it was fitted again since."""
        return self.tags.get("refit_of") or self.run_id

    def output(self, name: str) -> Output:
        """Return this version as an input or output of a step."""
        return Output(name=name, uri=self.uri, version=self.number)


def connect() -> MlflowClient:
    """Return a client of the configured MLflow server."""
    complete()
    import_mlflow()
    import mlflow

    uri = get_settings().mlflow_tracking_uri
    mlflow.set_tracking_uri(uri)  # what logs and loads models asks for it in the process
    mlflow.set_registry_uri(uri)
    return mlflow.MlflowClient(uri, uri)


def import_mlflow() -> None:
    """Import MLflow and what it asks for request headers, but not Feast.

    Before its first request MLflow loads every plugin that may have headers to add. Feast is one, for a data source
    that is not used here, and costs each process that talks to MLflow 4.6 s.
    """
    module = "mlflow.tracking.request_header.registry"
    if module in sys.modules:
        return
    add_constants()
    from mlflow.utils import plugins, request_utils

    request_utils.Retry = retrying_what_may_pass()

    every = plugins.get_entry_points
    plugins.get_entry_points = lambda group: [plugin for plugin in every(group) if plugin.name != "feast"]
    try:
        importlib.import_module(module)
    finally:
        plugins.get_entry_points = every


def retrying_what_may_pass() -> type[Retry]:
    """Return urllib3's rule for asking again, without what a person must mend.

    MLflow takes a certificate that nobody trusts for a server that is away, and goes on asking for as long as a
    restart may take.
    """
    from urllib3.exceptions import MaxRetryError, SSLError
    from urllib3.util import Retry

    class RetryWhatMayPass(Retry):
        def increment(self, *arguments: Any, **options: Any) -> Self:
            error = options.get("error")
            if isinstance(error, SSLError) and (UNTRUSTED.search(str(error)) or PLAIN.search(str(error))):
                raise MaxRetryError(options["_pool"], arguments[1], error) from error
            return super().increment(*arguments, **options)

    return RetryWhatMayPass


@contextmanager
def mlflow_errors() -> Iterator[None]:
    """Name the class of what MLflow raises: a wrong password is not a server that does not answer.

    Raises
    ------
    ConfigurationError
        If the server does not accept user and password, or refuses them the right; if its certificate is not trusted,
        or it has none.
    TemporaryError
        If the server does not answer, or answers with an error of its own.
    """
    from mlflow.exceptions import MlflowException
    from requests.exceptions import RequestException

    where = f"MLflow at {get_settings().mlflow_tracking_uri}"
    try:
        yield
    except MlflowException as error:
        status, text = error.get_http_status_code(), str(error)
        if UNTRUSTED.search(text):
            raise ConfigurationError(
                f"{where}: {text}",
                "Name the authority of its certificate in REQUESTS_CA_BUNDLE, and in EVERGREEN_MLFLOW_TRACKING_URI a "
                "host that the certificate is for.",
            ) from error
        if PLAIN.search(text):
            raise ConfigurationError(
                f"{where}: it speaks no TLS: {text}", "Write http:// in EVERGREEN_MLFLOW_TRACKING_URI, or give it TLS."
            ) from error
        if status in {401, 403} or "code 401" in text or "code 403" in text:
            raise ConfigurationError(
                f"{where}: {text}", "Check MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD."
            ) from error
        if status >= 500 or status == 429:
            raise TemporaryError(f"{where}: {text}", "Is the server up?") from error
        raise
    except RequestException as error:
        raise TemporaryError(f"{where}: {error}", "Is the server up?") from error


def by_alias(model: str, alias: str) -> Version | None:
    """Return the version an alias points at, or None if there is no such model or alias."""
    number = alias_number(model, alias)
    return None if number is None else by_number(model, number)


def alias_number(model: str, alias: str) -> str | None:
    """Return the number of the version an alias points at, or None if there is no such model or alias."""
    from mlflow.exceptions import MlflowException

    client = connect()
    with mlflow_errors():
        try:
            # not get_model_version_by_alias: who is no administrator is forbidden to ask it about an unknown model
            number = client.get_registered_model(model).aliases.get(alias)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise
        return None if number is None else str(number)


def by_run(model: str, run_id: str) -> Version | None:
    """Return the version registered from a run, the oldest if there are several, or None."""
    client = connect()
    with mlflow_errors():
        versions = client.search_model_versions(f"name = '{model}' and run_id = '{run_id}'")
    return version_of(min(versions, key=lambda version: int(version.version))) if versions else None


def by_challenger(model: str, run_id: str) -> Version | None:
    """Return the version of a challenger's run, or of what was fitted again once it had won; the oldest, or None."""
    client = connect()
    with mlflow_errors():
        found = client.search_model_versions(f"name = '{model}' and tags.`{TAG}refit_of` = '{run_id}'")
    return version_of(min(found, key=lambda version: int(version.version))) if found else by_run(model, run_id)


def by_number(model: str, number: str) -> Version:
    """Return a version by its number."""
    client = connect()
    with mlflow_errors():
        return version_of(client.get_model_version(model, number))


def named_version(model: str, number: str) -> Version:
    """Return a version that a person has named.

    Raises
    ------
    ConfigurationError
        If there is none of that number; the message names those there are.
    """
    client = connect()
    with mlflow_errors():
        numbers = [int(version.version) for version in client.search_model_versions(f"name = '{model}'")]
    if number not in map(str, numbers):
        registered = ", ".join(map(str, sorted(numbers))) or "none"
        raise ConfigurationError(f"{model} has no version {number!r}.", f"Name one of those registered: {registered}.")
    return by_number(model, number)


def champion_before(model: str, run_id: str) -> Version | None:
    """Return the champion that a run's challenger is compared with.

    It is the champion, but never the run's own version: once that is promoted, the one it replaced counts, so
    that an evaluation run again finds what it found the first time.
    """
    champion = by_alias(model, CHAMPION)
    if champion is None or champion.challenger != run_id:
        return champion
    replaced = champion.tags.get(REPLACED, "0")
    return None if replaced == "0" else by_number(model, replaced)


def set_tags(version: Version, tags: Mapping[str, Any]) -> None:
    """Set tags of a version; a tag that already has its value is not written again."""
    client = connect()
    with mlflow_errors():
        for name, value in tags.items():
            if version.tags.get(name) != str(value):
                client.set_model_version_tag(version.model, version.number, f"{TAG}{name}", str(value))


def remove_alias(model: str, alias: str) -> None:
    """Take an alias away, if it is there."""
    client = connect()
    with mlflow_errors():
        client.delete_registered_model_alias(model, alias)


def set_alias(version: Version, alias: str) -> None:
    """Point an alias at a version; the move is one write."""
    client = connect()
    with mlflow_errors():
        client.set_registered_model_alias(version.model, alias, version.number)


def project_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """Return the tags that this project has set, without their prefix."""
    return {name.removeprefix(TAG): value for name, value in tags.items() if name.startswith(TAG)}


def version_of(registered: Any) -> Version:
    """Return a version as MLflow knows it."""
    return Version(registered.name, str(registered.version), registered.run_id, project_tags(registered.tags))
