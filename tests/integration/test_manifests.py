"""What an upstream manifest says of its outputs is compared with what the lake and the files themselves say."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from data_steps import MODEL, day, run
from evergreen.contract import FailureClass, Manifest, Output, RunIdentity
from evergreen.data.lake import get_lake
from evergreen.pipelines import STEPS
from evergreen.store import get_store, read_manifest, write_manifest
from isolation import own_settings

pytestmark = pytest.mark.integration
DAY = day("2013-02-12")
OTHER = day("2013-02-11")
READ = [
    ("validate", "ingest", "raw_flights"),
    ("publish", "ingest", "raw_weather"),
    ("publish", "validate", "validation"),
    ("materialize", "build_features", "airport_weather"),
]


@pytest.fixture(scope="module", autouse=True)
def two_days(tmp_path_factory: pytest.TempPathFactory, postgres_url: str) -> Iterator[None]:
    """Two days of every data step."""
    with own_settings(tmp_path_factory.mktemp("manifests"), postgres_url):
        for window in (OTHER, DAY):
            for step in ("ingest", "validate", "publish", "build_features", "materialize"):
                done = run(step, window, {name: name for name in STEPS[step].reads})
                assert done.failure is None, done.failure
        yield


def _after(step: str, upstream: str, changed: Output | None) -> Manifest:
    """Run a step again after an output of an upstream manifest was changed; the manifests are put back."""
    before, own = _manifest(upstream), read_manifest(get_store(), _identity(step))
    outputs = tuple(changed if changed and output.name == changed.name else output for output in before.outputs)
    write_manifest(get_store(), before.model_copy(update={"outputs": outputs}))
    try:
        return run(step, DAY, {name: name for name in STEPS[step].reads})
    finally:
        for manifest in (before, own):
            if manifest:
                write_manifest(get_store(), manifest)


def _output(upstream: str, name: str) -> Output:
    return _manifest(upstream).output(name)


def _manifest(step: str) -> Manifest:
    manifest = read_manifest(get_store(), _identity(step))
    assert manifest is not None
    return manifest


def _identity(step: str) -> RunIdentity:
    return RunIdentity(dag_id="test", run_id=str(DAY), task_id=step)


@pytest.mark.parametrize(("step", "upstream", "name"), READ)
@pytest.mark.parametrize(
    ("field", "wrong"),
    [("uri", "elsewhere"), ("version", "4711"), ("digest", "0" * 16), ("digest", ""), ("rows", 4711)],
)
def test_a_changed_manifest_is_refused_with_both_values_and_the_task_to_run_again(
    step: str, upstream: str, name: str, field: str, wrong: str | int
) -> None:
    right = _output(upstream, name)
    changed = right.model_copy(update={field: f"{right.uri}/{wrong}" if field == "uri" else wrong})
    done = _after(step, upstream, changed)
    assert done.failure is not None
    assert done.failure.failure_class is FailureClass.DATA
    assert f"run the task {upstream!r} of test" in done.failure.hint
    assert f"test/{DAY}/{upstream}/result.json: outputs: {name}.{field} is " in done.failure.message
    assert repr(getattr(changed, field)) in done.failure.message
    assert str(getattr(right, field)) in done.failure.message


@pytest.mark.parametrize(("step", "upstream", "name"), [entry for entry in READ if entry[2] != "validation"])
def test_another_day_s_snapshot_is_refused(step: str, upstream: str, name: str) -> None:
    right = _output(upstream, name)
    other = next(str(found.snapshot_id) for found in get_lake().load(MODEL, name).snapshots())
    assert other != right.version
    done = _after(step, upstream, right.model_copy(update={"version": other}))
    assert done.failure is not None
    assert f"{name}.version is {other!r}" in done.failure.message


@pytest.mark.parametrize(("step", "upstream"), sorted({entry[:2] for entry in READ}))
def test_an_untouched_manifest_passes(step: str, upstream: str) -> None:
    assert _after(step, upstream, None).failure is None
