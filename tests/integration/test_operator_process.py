"""The process runtime: real steps in real processes, through the operator."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.cncf.kubernetes.pod_generator import PodGenerator
from airflow.sdk import Asset
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException, AirflowTaskTimeout
from airflow.sdk.execution_time.timeout import timeout
from airflow.sdk.log import mask_secret, redact
from kubernetes.client import models as k8s

from evergreen.contract import FailureClass
from evergreen.pipelines import STEPS
from evergreen.settings import Settings, get_settings
from evergreen_airflow.kubelet import as_process
from evergreen_airflow.placement import PROFILES, PodResources
from operator_kit import DAEMON, STAY, Kit, Lines, task_context
from process_kit import alive, eventually, pids

pytestmark = pytest.mark.integration


@pytest.fixture
def kit(tmp_path: Path, settings: Settings) -> Kit:
    return Kit(tmp_path, settings.state_dir)


def test_success(kit: Kit) -> None:
    operator = kit.operator(
        """
        return Result(
            facts={"rows": 3, "snapshot": "77"},
            metrics={"auc": 0.75},
            outputs=(Output(name="raw_things", uri="lake://things", version="77", rows=3),),
        )
        """,
        outlets=[Asset("tiny.published")],
    )
    context = task_context()
    value = operator.execute(context)
    assert value == {"rows": 3, "snapshot": "77", "auc": 0.75, "status": "ok", "reason": ""}
    assert context["ti"].pushed["return_value"] == value
    manifest = kit.manifest(context)
    assert manifest is not None
    assert manifest.attempt == f"1-{context['ti'].id}"
    assert manifest.image == get_settings().step_image
    assert str(manifest.window) == "2013-03-01..2013-03-01"
    event = context["outlet_events"][Asset("tiny.published")]
    assert (event.extra, event.partition_keys) == ({"snapshot": "77", "rows": 3}, set())


def test_run_without_partition_key_still_gives_its_events_their_partitions(kit: Kit) -> None:
    operator = kit.operator(outlets=[Asset("tiny.published")])
    context = task_context(partition_key=None, params={"start": "2013-02-28", "end": "2013-03-01"})
    operator.execute(context)
    assert context["outlet_events"][Asset("tiny.published")].partition_keys == {"2013-02-28", "2013-03-01"}


def test_a_try_beyond_those_that_are_allowed_is_refused(kit: Kit) -> None:
    """A scheduler that dies has its running tasks tried again, without asking how often they were."""
    operator = kit.operator('(here / "ran").touch(); return Result()')
    with pytest.raises(AirflowFailException, match="try 5 of a task that may be tried 4 times"):
        operator.execute(task_context(try_number=5))
    assert not (kit.folder / "ran").exists()
    assert operator.execute(task_context(try_number=4))["status"] == "ok"


def test_log_is_line_by_line(kit: Kit) -> None:
    log = Lines()
    body = """
    print("first", flush=True)
    while not (here / "go").exists():
        time.sleep(0.01)
    print("second é", file=sys.stderr)
    sys.stdout.buffer.write(b"\\xff third")
    return Result()
    """
    pod = kit.operator(body).build_pod_request_obj(task_context(), dry_run=True)
    process = as_process(PodGenerator.serialize_pod(pod), log, mask_secret)
    thread = threading.Thread(target=process.run, daemon=True)
    thread.start()
    try:
        assert eventually(lambda: "first" in log.lines), "seen while the step still runs"
    finally:
        (kit.folder / "go").touch()
        thread.join(60)
    assert log.lines.index("first") < log.lines.index("second é")
    assert any(line.startswith("\\xff third") for line in log.lines)


def test_step_sees_the_pods_environment_and_no_more(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_SECRET", "of the worker")
    kit.write_variables("secrets/evergreen-secrets.env", EVERGREEN_DATABASE_URL="postgresql://me:pa55word@host")
    body = """
    import tempfile
    Path(tempfile.gettempdir(), "left").write_text("behind")
    seen = {"variables": dict(os.environ), "folder": os.getcwd(), "params": request.params}
    (here / "seen.json").write_text(json.dumps(seen))
    return Result()
    """
    given = "$(HOME) \"quoted\" 'and' $$ ; * é"
    kit.operator(body, params_json={"text": given}).execute(task_context())
    seen = json.loads((kit.folder / "seen.json").read_text())
    variables = seen["variables"]
    assert seen["params"] == {"text": given}
    assert variables["EVERGREEN_DATABASE_URL"] == "postgresql://me:pa55word@host"
    assert variables["EVERGREEN_STATE_DIR"] == str(kit.state_dir)
    assert "AIRFLOW_CONN_SECRET" not in variables
    assert variables["EVERGREEN_MEMORY"] == str(2 << 30)  # the profile small, in bytes
    assert variables["TMPDIR"] == seen["folder"]
    assert not Path(seen["folder"]).exists()
    assert redact("cannot connect with pa55word") == "cannot connect with ***"


@pytest.mark.parametrize("given", [True, False])
def test_only_the_process_of_a_step_that_signs_is_told_the_key_and_no_log_shows_it(kit: Kit, given: bool) -> None:
    kit.write_variables("secrets/evergreen-secrets.env", MLFLOW_TRACKING_USERNAME="every-step")
    kit.write_variables("secrets/evergreen-signing.env", EVERGREEN_SIGNING_KEY=f"k3y-{given}")
    kit.write_variables("secrets/evergreen-registry.env", MLFLOW_TRACKING_USERNAME="registry")
    body = """
    from evergreen.settings import get_settings
    key = get_settings().signing_key
    seen = {"key": key and key.get_secret_value(), "variables": dict(os.environ)}
    (here / "seen.json").write_text(json.dumps(seen))
    return Result()
    """
    step = STEPS["register" if given else "ingest"]
    kit.operator(body, step=step.name, secrets=step.secrets).execute(task_context())
    seen = json.loads((kit.folder / "seen.json").read_text())
    assert seen["key"] == (f"k3y-{given}" if given else None)
    assert "EVERGREEN_SIGNING_KEY" not in seen["variables"]  # what it starts has none
    assert seen["variables"]["MLFLOW_TRACKING_USERNAME"] == ("registry" if given else "every-step")
    assert redact(f"k3y-{given}") == ("***" if given else "k3y-False")


@pytest.mark.parametrize(
    ("body", "retried", "message"),
    [
        ('raise DataError("No rows.", "Load them.")', False, "data: No rows. Load them."),
        ('raise ConfigurationError("Bad field.", "Mend it.")', False, "configuration: Bad field. Mend it."),
        ('raise TemporaryError("No answer.", "Wait.")', True, "temporary: No answer. Wait."),
        ('raise KeyError("x")', False, "bug: KeyError: 'x' This is a defect"),
        (
            'raise MemoryError("9 GiB")',
            True,
            "9 GiB. The next try runs on the next larger",
        ),
        ("os._exit(0)", False, "ended with exit code 0 but left no manifest"),
        ("os._exit(75)", True, "exit code 75"),
        ("os.kill(os.getpid(), 15)", True, "temporary: stopped by SIGTERM"),
        ("os.kill(os.getpid(), 9)", True, "exit code 137"),
        (
            "import ctypes; ctypes.string_at(0)",
            True,
            "exit code 139, SIGSEGV (Segmentation fault, called from ctypes/__init__.py:",
        ),
        ("os.abort()", True, "exit code 134, SIGABRT"),
        ("os._exit(70)", False, "exit code 70"),
        ('print("error: it says", flush=True); os._exit(65)', False, "exit code 65 (error: it says)"),
        ("import atexit; atexit.register(os._exit, 11); return Result()", True, "stored its result, then ended"),
    ],
)
def test_failure(kit: Kit, body: str, retried: bool, message: str) -> None:
    context = task_context()
    with pytest.raises(AirflowException) as caught:
        kit.operator(body).execute(context)
    assert message in str(caught.value)
    assert isinstance(caught.value, AirflowFailException) is not retried
    assert context["ti"].pushed == {}


@pytest.mark.parametrize("number", ["SIGSEGV", "SIGBUS", "SIGABRT", "SIGILL"])
def test_crashed_step_is_tried_once_more(kit: Kit, number: str) -> None:
    crash = f"import signal; os.kill(os.getpid(), signal.{number})"
    with pytest.raises(AirflowException, match=f"{number}.* After a crash it is tried once more") as first:
        kit.operator(crash).execute(task_context(try_number=1))
    assert not isinstance(first.value, AirflowFailException)
    with pytest.raises(AirflowException, match="No answer") as between:
        kit.operator('raise TemporaryError("No answer.", "Wait.")').execute(task_context(try_number=2))
    assert not isinstance(between.value, AirflowFailException)
    with pytest.raises(AirflowFailException, match=f"{number}.* An earlier try crashed too: report it"):
        kit.operator(crash).execute(task_context(try_number=3))


def test_crashed_step_that_recovers_is_well(kit: Kit) -> None:
    with pytest.raises(AirflowException, match="SIGSEGV"):
        kit.operator("os.kill(os.getpid(), 11)").execute(task_context(try_number=1))
    assert kit.operator().execute(task_context(try_number=2))["status"] == "ok"


def test_upstream_manifest_that_is_missing_fails_at_once(kit: Kit) -> None:
    with pytest.raises(AirflowFailException, match=r"exit code 65 \(error: .*the upstream manifest is missing"):
        kit.operator(step="evaluate", upstream={"train": "train_it"}).execute(task_context(task_id="evaluate"))


def test_stale_manifest_is_not_taken_for_this_attempts(kit: Kit) -> None:
    kit.operator().execute(task_context())
    again = task_context()  # e.g. the run was deleted and created again: the same name, the same try number
    assert kit.manifest(again) is not None
    with pytest.raises(AirflowFailException, match="only the manifest of another attempt"):
        kit.operator("os._exit(0)").execute(again)


def test_manifest_of_another_model_is_refused(kit: Kit) -> None:
    body = """
    from evergreen.store import get_store, write_manifest
    now = utc_now()
    write_manifest(get_store(), Manifest(
        step=request.step, model="other", window=request.window, run=request.run, attempt=request.attempt,
        status=Status.OK, code_version="1", config_digest="2", started=now, finished=now,
    ))
    os._exit(0)
    """
    with pytest.raises(AirflowFailException, match="is of step ingest of other"):
        kit.operator(body).execute(task_context())


def test_skipped_result_skips_the_task(kit: Kit) -> None:
    context = task_context()
    with pytest.raises(AirflowSkipException, match="nothing for that day"):
        kit.operator('return Result(status="skipped", reason="nothing for that day")').execute(context)
    assert context["ti"].pushed["return_value"] == {"status": "skipped", "reason": "nothing for that day"}


@pytest.mark.parametrize("how", ["reads", "follows"])
def test_refused_result_is_an_answer_and_skips_what_depends_on_it(kit: Kit, how: str) -> None:
    refused = kit.operator('return Result(status="refused", reason="not better")', step="gate")
    assert refused.execute(task_context(task_id="gate"))["status"] == "refused"
    started = kit.folder / "started"
    upstream = {"gate": "gate"} if how == "reads" else {}
    following = kit.operator(f"Path({str(started)!r}).touch(); return Result()", step="register", upstream=upstream)
    following.upstream_task_ids = set() if how == "reads" else {"gate"}  # as an arrow of the DAG makes it
    with pytest.raises(AirflowSkipException, match="gate: not better"):
        following.execute(task_context(task_id="register"))
    assert not started.exists()


def test_out_of_memory_is_tried_once_more_on_the_next_larger_profile(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    body = """
    held = bytearray(os.urandom(1)) * (int((here / "mebibytes").read_text()) << 20)
    time.sleep(float((here / "seconds").read_text()))
    return Result()
    """
    for name, limit in (("small", "150Mi"), ("medium", "300Mi")):
        bounds = {"memory": limit, "cpu": "1"}
        monkeypatch.setitem(PROFILES, name, PodResources(requests=bounds, limits=bounds))  # type: ignore[arg-type]
    operator = kit.operator(body)

    def needs(mebibytes: int, seconds: float) -> None:
        (kit.folder / "mebibytes").write_text(str(mebibytes))
        (kit.folder / "seconds").write_text(str(seconds))

    needs(200, 60)
    with pytest.raises(AirflowException, match=r"out of memory: \d+ MiB used, limit 150 MiB.*next larger") as first:
        operator.execute(task_context())
    assert not isinstance(first.value, AirflowFailException)
    needs(400, 60)
    with pytest.raises(AirflowFailException, match=r"limit 300 MiB.*Raise resources in model.yaml"):
        operator.execute(task_context(try_number=2))
    needs(200, 0.5)
    assert operator.execute(task_context(try_number=3))["status"] == "ok"
    attempts = [json.loads(file.read_text()) for file in sorted(kit.state_dir.rglob("attempts/*.json"))]
    assert [(entry["profile"], entry["failure_class"]) for entry in attempts] == [
        ("small", FailureClass.OUT_OF_MEMORY),
        ("medium", FailureClass.OUT_OF_MEMORY),
    ]


def limits(kit: Kit) -> Iterator[int]:
    """Yield time limits until a step whose code is DAEMON has come so far within one: a busy machine needs more."""
    for seconds in (2, 10, 60):
        yield seconds
        if (kit.folder / "step").exists():
            return


def test_time_limit(kit: Kit) -> None:
    for seconds in limits(kit):
        operator = kit.operator(DAEMON + STAY, execution_timeout=timedelta(seconds=seconds))
        with pytest.raises(AirflowException, match=f"stopped after {seconds} s, its time limit") as caught:
            operator.execute(task_context())
        assert not isinstance(caught.value, AirflowFailException)
    assert not any(map(alive, pids(kit.folder, "step", "daemon")))


def test_airflows_own_timeout_ends_the_whole_tree(kit: Kit) -> None:
    for seconds in limits(kit):
        with pytest.raises(AirflowTaskTimeout), timeout(seconds):
            kit.operator(DAEMON + STAY).execute(task_context())
    assert not any(map(alive, pids(kit.folder, "step", "daemon")))


def test_kill_ends_the_whole_tree(kit: Kit) -> None:
    kit.assert_on_kill_ends_the_whole_tree(kit.operator(DAEMON + STAY))


def test_nothing_is_left_of_a_step_whose_guardian_is_killed(kit: Kit) -> None:
    body = """
    (here / "scratch").write_text(os.environ["TMPDIR"])
    Path(os.environ["TMPDIR"], "ray").mkdir()
    (here / "step").write_text(str(os.getpid()))
    (here / "guardian").write_text(str(os.getppid()))
    time.sleep(600)
    """
    ended: list[BaseException] = []

    def execute() -> None:
        try:
            kit.operator(body).execute(task_context())
        except AirflowException as error:
            ended.append(error)

    thread = threading.Thread(target=execute, daemon=True)
    thread.start()
    step, guardian = pids(kit.folder, "step", "guardian")
    os.kill(guardian, signal.SIGKILL)
    thread.join(60)
    assert ended
    assert not alive(step)
    assert not Path((kit.folder / "scratch").read_text()).exists()


@pytest.mark.parametrize("victim", ["task", "supervisor"])
def test_nothing_is_left_of_a_killed_task(kit: Kit, victim: str) -> None:
    kit.assert_a_killed_task_leaves_nothing(victim, kit.command(DAEMON + STAY))


def _full(**spec: Any) -> k8s.V1Pod:
    return k8s.V1Pod(metadata=k8s.V1ObjectMeta(), spec=k8s.V1PodSpec(**{"containers": [], **spec}))


def _container(**fields: Any) -> k8s.V1Pod:
    return _full(containers=[k8s.V1Container(name="base", **fields)])


PROBE = k8s.V1Probe(_exec=k8s.V1ExecAction(command=["true"]))
SIDECAR = k8s.V1Container(name="sidecar", image="sidecar:1")
CLAIM = k8s.V1PersistentVolumeClaimVolumeSource(claim_name="data")


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"init_containers": [SIDECAR]}, "spec.initContainers"),
        ({"ports": [k8s.V1ContainerPort(container_port=80)]}, "spec.containers[0].ports"),
        ({"hostnetwork": True}, "spec.hostNetwork"),
        ({"hostname": "me"}, "spec.hostname"),
        ({"host_aliases": [k8s.V1HostAlias(ip="10.0.0.1", hostnames=["a"])]}, "spec.hostAliases"),
        ({"volumes": [k8s.V1Volume(name="d", persistent_volume_claim=CLAIM)]}, "spec.volumes[0].persistentVolumeClaim"),
        ({"volume_mounts": [k8s.V1VolumeMount(name="tmp", mount_path="/data")]}, "volumeMounts: /data"),
        (
            {"volume_mounts": [k8s.V1VolumeMount(name="tmp", mount_path="/tmp", sub_path="a")]},
            "volumeMounts[0].subPath",
        ),
        ({"env_from": [k8s.V1EnvFromSource(prefix="P_")]}, "spec.containers[0].envFrom[0].prefix"),
        ({"container_security_context": k8s.V1SecurityContext(privileged=True)}, "securityContext.privileged"),
        ({"full_pod_spec": _full(containers=[k8s.V1Container(name="base"), SIDECAR])}, "spec.containers[1]"),
        ({"full_pod_spec": _full(share_process_namespace=True)}, "spec.shareProcessNamespace"),
        ({"full_pod_spec": _container(liveness_probe=PROBE)}, "spec.containers[0].livenessProbe"),
        (
            {"full_pod_spec": _container(lifecycle=k8s.V1Lifecycle(stop_signal="SIGINT"))},
            "spec.containers[0].lifecycle",
        ),
        ({"full_pod_spec": _container(working_dir="/data")}, "spec.containers[0].workingDir"),
        ({"profile": "gpu"}, "nvidia.com/gpu: 1 (this machine has 0)"),
        ({"cmds": []}, "spec.containers[0].command"),
        (
            {
                "full_pod_spec": _container(
                    env=[
                        k8s.V1EnvVar(
                            name="MEMORY",
                            value_from=k8s.V1EnvVarSource(
                                resource_field_ref=k8s.V1ResourceFieldSelector(resource="limits.memory")
                            ),
                        )
                    ]
                )
            },
            "spec.containers[0].env: MEMORY, from {'resourceFieldRef': {'resource': 'limits.memory'}}",
        ),
    ],
)
def test_field_that_a_process_cannot_honour_is_refused(kit: Kit, options: dict[str, Any], field: str) -> None:
    if options.get("profile") == "gpu" and list(Path("/dev").glob("nvidia[0-9]*")):
        pytest.skip("this machine has a GPU")
    started = kit.folder / "started"
    operator = kit.operator(f"Path({str(started)!r}).touch(); return Result()", **options)
    with pytest.raises(AirflowFailException) as caught:
        operator.execute(task_context())
    assert field in str(caught.value)
    assert "cannot be honoured by the process runtime" in str(caught.value)
    assert not started.exists()


@pytest.mark.parametrize(
    "options",
    [
        {"node_selector": {"pool": "training"}, "tolerations": [k8s.V1Toleration(key="gpu", operator="Exists")]},
        {"service_account_name": "step", "priority_class_name": "batch", "annotations": {"a": "b"}},
        {"affinity": k8s.V1Affinity(node_affinity=k8s.V1NodeAffinity())},
        {"image_pull_secrets": [k8s.V1LocalObjectReference(name="registry")], "schedulername": "own"},
    ],
)
def test_field_that_only_places_a_pod_is_left_to_the_cluster(kit: Kit, options: dict[str, Any]) -> None:
    assert kit.operator(**options).execute(task_context())["status"] == "ok"


def test_missing_settings_file(kit: Kit) -> None:
    (kit.state_dir / "config" / "evergreen-settings.env").unlink()
    with pytest.raises(AirflowFailException, match=r"evergreen-settings.env: not found.*evergreen up"):
        kit.operator().execute(task_context())


def test_image_without_a_version_fails_at_once(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVERGREEN_STEP_IMAGE", "evergreen/step:latest")
    get_settings.cache_clear()
    with pytest.raises(AirflowFailException, match="names no version"):
        kit.operator().execute(task_context())
