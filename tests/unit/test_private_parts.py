"""What this project uses of other libraries that is not theirs to keep: each use ends with the version it was read in.

A private name may change its meaning in any release. So each has a row here, with the version in which somebody has
read its code: a new version fails the tests until the row has been looked at again. The libraries' sources are read and
not imported: that takes milliseconds, and Ray must not be imported before a step has said how it is to be set up.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib import import_module
from importlib.metadata import distribution, version
from pathlib import Path
from pkgutil import resolve_name

import pytest

from evergreen.settings import PROJECT_ROOT

TRAINING = "include/evergreen/training"
FEATURES = "include/evergreen/features"
AIRFLOW = "plugins/evergreen_airflow"
PYTHON = "python"
SUPPORTED = "3.11, 3.12, 3.13"
SDK = ("apache-airflow-task-sdk", "1.3.2")
RAY, FEAST, MLFLOW = ("ray", "2.60.0"), ("feast", "0.67.0"), ("mlflow-skinny", "3.17.2")
CNCF = ("apache-airflow-providers-cncf-kubernetes", "10.25.0")
POD, POD_TRIGGER, HOOK = (
    f"airflow/providers/cncf/kubernetes/{file}"
    for file in ("operators/pod.py", "triggers/pod.py", "hooks/kubernetes.py")
)
CLIENT, ASYNC_CLIENT = ("kubernetes", "36.0.3"), ("kubernetes-asyncio", "36.1.0")


@dataclass(frozen=True)
class Private:
    """A part of a library that it has not promised to keep.

    Parameters
    ----------
    library, version
        As in requirements.lock; for Python itself its releases, ``3.11, 3.12``.
    file, name
        Where it is defined: a file of the library, and the dotted name in it. What follows ``:`` is a text of that
        file: the key of a dictionary, say.
    used_in
        Our files that use it.
    why
        What it is used for, and so what to look at again in another version.
    parameters
        Those that a function must have; None: not called by us, or not worth a look.
    issue
        The report upstream, if there is one.
    """

    library: str
    version: str
    file: str
    name: str
    used_in: tuple[str, ...]
    why: str
    parameters: tuple[str, ...] | None = None
    issue: str = ""

    @property
    def short(self) -> str:
        """The name as our code writes it."""
        return re.split(r"[.:]", self.name)[-1]

    def again(self, trouble: str) -> str:
        """Return what a person reads when it is not as it was."""
        issue = f" See {self.issue}." if self.issue else ""
        return (
            f"{trouble} {self.name} of {self.library} is private; {', '.join(self.used_in)} uses it: {self.why}{issue} "
            f"Look whether that still holds, or is needed any more, then correct the row in {Path(__file__).name}."
        )


PRIVATE = (
    Private(
        *SDK,
        "airflow/sdk/execution_time/xcom.py",
        "XCom",
        (f"{AIRFLOW}/pod_trigger.py",),
        "a trigger that ends its task leaves the value of the task.",
    ),
    Private(
        *SDK,
        "airflow/sdk/execution_time/hitl.py",
        "update_hitl_detail_response",
        (f"{AIRFLOW}/approval_trigger.py",),
        "a question that a newer challenger made obsolete is closed.",
    ),
    Private(
        *SDK,
        "airflow/sdk/execution_time/context.py",
        "InletEventsAccessor",
        (f"{AIRFLOW}/reconciler.py", f"{AIRFLOW}/alerts/watch.py"),
        "the events of an asset that is no inlet of the task.",
    ),
    *(
        Private(
            *MLFLOW,
            "mlflow/store/db/utils.py",
            name,
            ("helm/evergreen/files/mlflow_bootstrap.py",),
            "the tables of experiments and registry are made as MLflow's own server makes them.",
            ("engine",),
        )
        for name in ("_all_tables_exist", "_upgrade_db", "_initialize_tables")
    ),
    Private(
        *MLFLOW,
        "mlflow/server/auth/sqlalchemy_store.py",
        "SqlAlchemyStore",
        ("helm/evergreen/files/mlflow_bootstrap.py",),
        "MLflow's users are made in its database: its server is not up yet.",
    ),
    Private(
        *RAY,
        "ray/train/torch/config.py",
        "_TorchBackend",
        (f"{TRAINING}/private_ray.py",),
        "workers meet through a file: the store that Ray has torch open listens on every interface. TorchConfig takes "
        "no file:// address as init_method.",
    ),
    Private(
        *RAY,
        "ray/train/torch/config.py",
        "_setup_torch_process_group",
        (f"{TRAINING}/private_ray.py",),
        "the same.",
        ("backend", "world_rank", "world_size", "init_method", "timeout_s"),
    ),
    Private(
        *RAY,
        "ray/train/torch/config.py",
        "_set_torch_distributed_env_vars",
        (f"{TRAINING}/private_ray.py",),
        "the same; torch looks for ranks in the environment.",
        (),
    ),
    Private(
        *RAY,
        "ray/_private/worker.py",
        "init:_temp_dir",
        (f"{TRAINING}/private_ray.py",),
        "Ray's files are in a folder that goes with the step, also when it is killed.",
    ),
    Private(
        *RAY,
        "ray/train/v2/_internal/callbacks/placement_group_callback.py",
        "PlacementGroupCleanerCallback",
        (f"{TRAINING}/ray_training.py",),
        "a training without the process that frees what a dead controller held, and stays in the cluster itself.",
    ),
    Private(
        *RAY,
        "ray/train/v2/api/data_parallel_trainer.py",
        "DataParallelTrainer._create_default_callbacks",
        (f"{TRAINING}/ray_training.py",),
        "where that callback is left out.",
        ("self",),
    ),
    Private(
        *FEAST,
        "feast/infra/offline_stores/duckdb.py",
        "_write_data_source",
        (f"{FEATURES}/feast_offline.py",),
        "the functions of feast.infra.offline_stores.ibis ask for a writer; nothing is written through them.",
        ("table", "data_source", "repo_path", "mode", "allow_overwrite"),
    ),
    Private(
        *FEAST,
        "feast/data_source.py",
        "DataSource._to_proto_impl",
        (f"{FEATURES}/feast_lake.py",),
        "every data source overrides it, as Feast's own do: there is no other way to be kept in the registry.",
        ("self",),
    ),
    Private(
        "typeguard",
        "4.6.0",
        "typeguard/__init__.py",
        "typechecked",
        (f"{FEATURES}/feast_repo.py",),
        "it is replaced while Feast is imported: the checks it adds to Feast's classes cost every step 3.3 s.",
    ),
    Private(
        *FEAST,
        "feast/torch_wrapper.py",
        ":torch",
        (f"{FEATURES}/feast_repo.py",),
        "torch cannot be imported while Feast is: Feast does without, and every step saves 1.5 s.",
    ),
    Private(
        *MLFLOW,
        "mlflow/utils/plugins.py",
        "get_entry_points",
        (f"{TRAINING}/registry.py",),
        "MLflow imports Feast before its first request, for a header: 4.6 s of every process that talks to it.",
        ("group",),
    ),
    Private(
        *MLFLOW,
        "mlflow/tracking/request_header/registry.py",
        "get_entry_points",
        (f"{TRAINING}/registry.py",),
        "the module that reads those entry points, once, when it is imported.",
    ),
    Private(
        *MLFLOW,
        "mlflow/utils/request_utils.py",
        "Retry",
        (f"{TRAINING}/registry.py",),
        "MLflow asks a server for minutes whose certificate nobody trusts; it has no setting that tells these apart.",
    ),
    Private(
        "urllib3",
        "2.8.0",
        "urllib3/util/retry.py",
        "Retry.increment:_pool",
        (f"{TRAINING}/registry.py",),
        "the pool is named in the error by which a certificate that nobody trusts ends a request at once.",
    ),
    Private(
        "pyiceberg",
        "0.12.0",
        "pyiceberg/catalog/sql.py",
        "SqlCatalog.engine",
        ("include/evergreen/data/commit.py",),
        "its sessions are opened on it: a connection in its place makes several commits one transaction.",
    ),
    Private(
        *CNCF,
        POD,
        "KubernetesPodOperator._build_find_pod_label_selector",
        (f"{AIRFLOW}/cluster_runtime.py",),
        "pods of earlier tries are found by the labels that the provider gives them.",
        ("self", "context", "exclude_checked"),
    ),
    Private(
        *CNCF,
        POD,
        "KubernetesPodOperator._config_dict",
        (f"{AIRFLOW}/cluster_runtime.py",),
        "left empty, the trigger is told the cluster's address once, and not twice.",
    ),
    Private(
        *CNCF,
        HOOK,
        "KubernetesHook._get_field",
        (f"{AIRFLOW}/cluster_runtime.py",),
        "whether the connection says where the cluster is.",
        ("self", "field_name"),
    ),
    Private(
        *CNCF,
        POD_TRIGGER,
        "KubernetesPodTrigger._wait_for_pod_start",
        (f"{AIRFLOW}/pod_trigger.py",),
        "it returns at once: start and end are one wait.",
        ("self",),
    ),
    Private(
        *CNCF,
        POD_TRIGGER,
        "KubernetesPodTrigger._wait_for_container_completion",
        (f"{AIRFLOW}/pod_trigger.py",),
        "all triggers of a triggerer share one watch, where the provider's polls for each (docs/decisions/waiting.md).",
        ("self",),
    ),
    Private(
        *CNCF,
        POD,
        ":_execution_deadline",
        (f"{AIRFLOW}/pod_trigger.py",),
        "the operator tells its trigger so until when a task may wait.",
    ),
    Private(
        "apache-airflow-providers-standard",
        "1.21.0",
        "airflow/providers/standard/triggers/hitl.py",
        "HITLTrigger._handle_response",
        (f"{AIRFLOW}/approval_trigger.py",),
        "it is called every few seconds: where an obsolete question can be withdrawn.",
        ("self",),
    ),
    Private(
        "apache-airflow-core",
        "3.3.2",
        "airflow/jobs/job.py",
        "Job.latest_heartbeat",
        ("config/airflow_local_settings.py",),
        "Job.heartbeat sets it whether the database answers or not; there is no listener for it.",
    ),
    Private(
        *CLIENT,
        "kubernetes/client/models/v1_list_meta.py",
        "V1ListMeta._continue",
        (f"{AIRFLOW}/reaper.py",),
        "the generated client's name for `continue`, a word of Python.",
    ),
    Private(
        *CLIENT,
        "kubernetes/client/api/core_v1_api.py",
        ":_preload_content",
        (f"{AIRFLOW}/predecessor.py",),
        "bytes, and not the text that the client makes an object of.",
    ),
    Private(
        *CLIENT,
        "kubernetes/client/api/core_v1_api.py",
        ":_request_timeout",
        (f"{AIRFLOW}/predecessor.py",),
        "no request lasts for ever; the generated client has no other name for it.",
    ),
    Private(
        *ASYNC_CLIENT,
        "kubernetes_asyncio/client/api/core_v1_api.py",
        ":_continue",
        (f"{AIRFLOW}/pod_api.py",),
        "the next page of a list.",
    ),
    Private(
        *ASYNC_CLIENT,
        "kubernetes_asyncio/client/api/core_v1_api.py",
        ":_preload_content",
        (f"{AIRFLOW}/pod_api.py",),
        "answers are parsed, or streamed, as they are: objects of the client's classes cost more than the rest.",
    ),
    Private(
        *ASYNC_CLIENT,
        "kubernetes_asyncio/client/api/core_v1_api.py",
        ":_request_timeout",
        (f"{AIRFLOW}/pod_api.py",),
        "no request lasts for ever.",
    ),
    Private(
        "evidently",
        "0.7.23",
        "evidently/legacy/utils/sync.py",
        "_loop",
        (f"{AIRFLOW}/kubelet/warm_server.py",),
        "it is made when the module evidently.legacy.utils.sync is imported; each fork reloads that to have its own.",
    ),
    Private(
        "torch",
        "2.13.0",
        "torch/_dynamo/__init__.py",
        "",
        (f"{AIRFLOW}/kubelet/warm_server.py",),
        "optimizers import torch._dynamo in their first step, for seconds; warm steps have it.",
    ),
    Private(
        PYTHON,
        SUPPORTED,
        "threading",
        "_shutdown",
        ("include/evergreen/__main__.py",),
        "a step ends as an interpreter does, but without taking its modules apart (docs/decisions/warm-steps.md).",
        (),
    ),
    Private(
        PYTHON,
        SUPPORTED,
        "atexit",
        "_run_exitfuncs",
        ("include/evergreen/__main__.py",),
        "the same: exit handlers.",
        (),
    ),
)
DOCUMENTED = frozenset(
    {
        "_env_file",  # of pydantic-settings
        "_exit",  # of os
        "_missing_",  # of enum, as are the next two
        "_name_",
        "_value_",
        "argv",  # of sys
        "tempdir",  # of tempfile
    }
)
"""Names that look private, or assignments to a module's attribute, which its documentation allows."""
OUR_PACKAGES = frozenset({"evergreen", "evergreen_airflow", "evergreen_laptop"})
UNIMPORTED = frozenset({"ray"})
"""Libraries that no test may import: what is private in a class of ours on one of theirs counts as theirs."""
INTERNAL = ("airflow.sdk.execution_time.", "mlflow.server.auth.")
"""Modules that are no part of what their libraries promise, though their names have no underscore."""


# --- a library is the one that was read, and has the name -----------------------------------------------------------


def _installed(library: str) -> str:
    if library == PYTHON:
        return ".".join(map(str, sys.version_info[:2]))
    return version(library).partition("+")[0]


def check_version(row: Private) -> None:
    """Fail if another version is installed, or pinned, than the one that was read."""
    installed = _installed(row.library)
    assert installed in row.version.split(", "), row.again(
        f"{row.library} is {installed}; what follows was read in {row.version}."
    )
    if row.library != PYTHON:
        lock = (PROJECT_ROOT / "requirements.lock").read_text(encoding="utf-8")
        assert f"\n{row.library}=={row.version} " in lock, row.again(f"requirements.lock pins another {row.library}.")


def _source(row: Private) -> str:
    path = Path(str(distribution(row.library).locate_file(row.file)))
    assert path.is_file(), row.again(f"{row.library} has no file {row.file}.")
    return path.read_text(encoding="utf-8")


_parsed = lru_cache(ast.parse)


def _defined(body: list[ast.stmt], name: str) -> ast.AST | None:
    """Return what defines a name directly in a module or a class; of a class also what its methods set on ``self``."""
    for statement in body:
        if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) and statement.name == name:
            return statement
    for node in (inner for statement in body for inner in ast.walk(statement)):
        match node:
            case ast.alias() if (node.asname or node.name) == name:
                return node
            case ast.Name(id=found, ctx=ast.Store()) | ast.Attribute(attr=found, ctx=ast.Store()) if found == name:
                return node
    return None


def check_exists(row: Private) -> None:
    """Fail if the library's code does not have the name any more, or a function has other parameters."""
    if row.library == PYTHON:
        function = getattr(import_module(row.file), row.name, None)
        assert callable(function), row.again(f"Python {_installed(PYTHON)} has no {row.file}.{row.name}.")
        return
    text = _source(row)
    name, _, inside = row.name.partition(":")
    if name:
        definition: ast.AST | None = _parsed(text)
        for part in name.split("."):
            definition = _defined(getattr(definition, "body", []), part)
            assert definition is not None, row.again(f"{row.file} has no {name}.")
        text = ast.unparse(definition)
    assert inside in text, row.again(f"{row.file}: there is no {inside} in {name or 'it'}.")
    if row.parameters is not None:
        assert isinstance(definition, (ast.FunctionDef, ast.AsyncFunctionDef)), row.again(f"{name} is no function.")
        arguments = definition.args
        parameters = tuple(argument.arg for argument in (*arguments.args, *arguments.kwonlyargs))
        assert parameters == row.parameters, row.again(f"{name} takes {parameters}, not {row.parameters}.")


def _row_name(row: Private) -> str:
    return f"{row.library}-{row.name or row.file}"


@pytest.mark.parametrize("row", PRIVATE, ids=_row_name)
def test_the_library_is_the_one_whose_private_part_was_read(row: Private) -> None:
    check_version(row)


@pytest.mark.parametrize("row", PRIVATE, ids=_row_name)
def test_the_library_still_has_its_private_part(row: Private) -> None:
    check_exists(row)


@pytest.mark.parametrize("row", PRIVATE, ids=_row_name)
def test_the_files_that_use_a_private_part_name_it(row: Private) -> None:
    for file in row.used_in:
        module = row.file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        text = (PROJECT_ROOT / file).read_text(encoding="utf-8")
        assert row.short in text if row.short and row.library != "evidently" else module in text, file


SETUP = next(row for row in PRIVATE if row.name == "_setup_torch_process_group")


@pytest.mark.parametrize(
    ("check", "wrong", "trouble"),
    [
        (check_version, {"version": "2.59.0"}, "ray is 2.60.0; what follows was read in 2.59.0"),
        (check_exists, {"file": "ray/train/gone.py"}, "ray has no file ray/train/gone.py"),
        (check_exists, {"name": "_gone"}, "ray/train/torch/config.py has no _gone"),
        (check_exists, {"name": "TorchConfig._gone"}, "ray/train/torch/config.py has no TorchConfig._gone"),
        (check_exists, {"name": "TorchConfig:_gone"}, "there is no _gone in TorchConfig"),
        (check_exists, {"name": "TorchConfig"}, "TorchConfig is no function"),
        (check_exists, {"parameters": ("backend",)}, "'init_method', 'timeout_s'.*, not .'backend',."),
        (check_exists, {"library": PYTHON, "file": "threading", "name": "_gone"}, r"has no threading\._gone"),
    ],
)
def test_a_row_that_is_not_true_says_what_to_look_at_again(check, wrong, trouble) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(AssertionError, match=trouble) as raised:
        check(replace(SETUP, **wrong))
    assert f"{TRAINING}/private_ray.py uses it: the same. Look whether that still holds" in str(raised.value)


# --- every private part that is used has a row ------------------------------------------------------------------------


_PRIVATE_NAME = re.compile(r"_(?!_)\w+")
_PRIVATE_MODULE = re.compile(r"[a-z]\w*(\.\w+)*\._[a-z]\w*")
Use = tuple[str, str]
"""A file of ours, and the private name that it uses."""


def _functions_and_fields(tree: ast.AST) -> Iterator[str]:
    """Yield what a module of ours defines itself."""
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield name
            case ast.Name(id=name, ctx=ast.Store()):
                yield name
            case ast.Attribute(value=ast.Name(id="self"), attr=name, ctx=ast.Store()):
                yield name


def _imports(tree: ast.AST) -> dict[str, str]:
    """Return the dotted name behind each name that a module imports, anywhere in it."""
    imported: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {alias.asname or alias.name.partition(".")[0]: alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return imported


def _is_ours(dotted: str) -> bool:
    return dotted.partition(".")[0] in OUR_PACKAGES


def uses(tree: ast.AST, ours: frozenset[str]) -> Iterator[str]:
    """Yield the names that a module of ours uses of others' private parts, and of modules that it changes.

    Parameters
    ----------
    tree
        The module.
    ours
        Every name that this project defines itself.
    """
    imported = {name: dotted for name, dotted in _imports(tree).items() if not _is_ours(dotted)}
    private = [dotted for dotted in imported.values() if any(map(_PRIVATE_NAME.fullmatch, dotted.split(".")))]
    internal = [dotted for dotted in imported.values() if dotted.startswith(INTERNAL)]
    yield from (dotted.rpartition(".")[2] for dotted in (*private, *internal))
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=ast.Name(id=name), attr=attribute, ctx=ast.Store()) if name in imported:
                yield attribute
            case ast.Attribute(value=value, attr=attribute) if _PRIVATE_NAME.fullmatch(attribute):
                if attribute not in ours or ast.unparse(value) == "super()":
                    yield attribute
            case ast.Subscript(value=ast.Attribute(attr="modules"), slice=ast.Constant(value=name), ctx=ast.Store()):
                yield str(name)
            case ast.Call(func=ast.Name(id="setattr"), args=[ast.Name(id=name), ast.Constant(value=attribute), *_]):
                yield from [str(attribute)] if name in imported else []
            case ast.keyword(arg=str(argument)) if _PRIVATE_NAME.fullmatch(argument) and argument not in ours:
                yield argument
            case ast.Constant(value=str(text)) if _PRIVATE_MODULE.fullmatch(text):
                yield text.rpartition(".")[2]


def _overridden(tree: ast.AST) -> Iterator[str]:
    """Yield the private names of others' classes that classes of ours define anew."""
    imported = _imports(tree)
    for node in ast.walk(tree):
        if not isinstance(node, ast.ClassDef):
            continue
        private = {name for name in _functions_and_fields(node) if _PRIVATE_NAME.fullmatch(name)}
        for base in node.bases:
            dotted = imported.get(ast.unparse(base).partition(".")[0], "")
            if not private or not dotted:
                continue
            if dotted.partition(".")[0] in UNIMPORTED:
                yield from private
            elif isinstance(parent := resolve_name(dotted), type):
                yield from private & _private_names_of(parent)


def _private_names_of(parent: type) -> set[str]:
    """Return the private names that other people's part of a class defines, and those it sets on ``self``."""
    names: set[str] = set()
    for ancestor in parent.__mro__:
        if ancestor is object or _is_ours(ancestor.__module__):
            continue
        names |= set(vars(ancestor))
        try:
            names |= set(re.findall(r"self\.(_\w+)", inspect.getsource(ancestor)))
        except (OSError, TypeError):  # a class of C
            continue
    return names


def _modules() -> dict[str, ast.Module]:
    folders = ("include", "plugins", "config", "dags", "feature_repo", "helm/evergreen/files", "docker", "tools")
    files = [file for folder in folders for file in (PROJECT_ROOT / folder).rglob("*.py")]
    return {str(file.relative_to(PROJECT_ROOT)): ast.parse(file.read_text(encoding="utf-8")) for file in files}


def test_every_private_part_that_is_used_has_a_row() -> None:
    from evergreen.features.feast_repo import import_feast

    import_feast()  # or its classes would be imported in five times the time
    modules = _modules()
    ours = frozenset(name for tree in modules.values() for name in _functions_and_fields(tree))
    used: set[Use] = {
        (file, name)
        for file, tree in modules.items()
        for name in (*uses(tree, ours), *_overridden(tree))
        if name not in DOCUMENTED
    }
    rows: set[Use] = {(file, row.short or "_dynamo") for row in PRIVATE for file in row.used_in}
    assert used - rows == set(), "private parts of other libraries: give each a row above, or do without"
    assert any(name == "_handle_response" for _, name in used)


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("from lib.x import _hidden", "_hidden"),
        ("import lib._internal.x as x", "x"),
        ("def f():\n    from lib._internal import x", "x"),
        ("import lib\nlib._f()", "_f"),
        ("def f(pod): return pod.metadata._continue", "_continue"),
        ("class A:\n    def f(self): return self._theirs", "_theirs"),
        ("class A:\n    def _f(self): return super()._f()", "_f"),
        ("import lib\nlib.public = 1", "public"),
        ("from lib import x\nx.public = 1", "public"),
        ("import lib\nsetattr(lib, 'public', 1)", "public"),
        ("import sys\nsys.modules['torch'] = None", "torch"),
        ("import lib\nlib.f(_hidden=1)", "_hidden"),
        ("names = ['torch._dynamo']", "_dynamo"),
    ],
)
def test_a_use_without_a_row_is_found(source: str, name: str) -> None:
    tree = ast.parse(source)
    assert name in set(uses(tree, frozenset(_functions_and_fields(tree))))


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("from threading import Thread\nclass A(Thread):\n    def _bootstrap(self): ...", {"_bootstrap"}),
        ("from threading import Thread\nclass A(Thread):\n    def f(self): self._target = None", {"_target"}),
        ("from threading import Thread\nclass A(Thread):\n    def _our_own(self): ...", set()),
        ("from ray.train import X\nclass A(X):\n    def _anything(self): ...", {"_anything"}),
        ("class A(Exception):\n    def _f(self): ...", set()),
    ],
)
def test_an_override_of_a_private_method_is_found(source: str, names: set[str]) -> None:
    assert set(_overridden(ast.parse(source))) == names


def test_what_is_ours_needs_no_row() -> None:
    tree = ast.parse("from evergreen import x\nclass A:\n    def _f(self): self._g = self._f(); x._f(_g=1)")
    assert set(uses(tree, frozenset(_functions_and_fields(tree)))) == set()
