"""Every rendered pod: accepted by the real schema and by the restricted standard, with negative twins."""

from __future__ import annotations

import copy
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import jinja2
import pytest
import yaml
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG

from documented import blocks
from evergreen.contract import ConfigurationError, RunIdentity
from evergreen.pipelines import StepSecret
from evergreen.settings import PROJECT_ROOT, Settings, get_settings
from evergreen_airflow import pod as pods
from evergreen_airflow.operator import StepOperator
from evergreen_airflow.placement import PROFILES, Placement, get_placement
from operator_kit import Kit, task_context
from pod_policy import restricted_violations, schema_errors, unbounded


@pytest.fixture
def kit(tmp_path: Path, settings: Settings) -> Kit:
    return Kit(tmp_path, settings.state_dir)


def rendered(operator: StepOperator, **context: Any) -> dict[str, Any]:
    operator.render_template_fields(task_context(**context), jinja2.Environment())  # type: ignore[arg-type]
    pod: dict[str, Any] = yaml.safe_load(operator.rendered_pod)
    return pod


@pytest.mark.parametrize("profile", list(PROFILES))
@pytest.mark.parametrize("run_id", ["manual__2013-03-02T06:00:00+00:00", "x" * 250])
def test_rendered_pod_is_valid_hardened_and_bounded(kit: Kit, profile: Any, run_id: str) -> None:
    pod = rendered(kit.operator(profile=profile), run_id=run_id)
    assert (schema_errors(pod), restricted_violations(pod), unbounded(pod)) == ([], [], [])


def _set(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(pod: dict[str, Any]) -> None:
        *folders, last = path.split(".")
        here: Any = pod
        for name in folders:
            here = here[int(name)] if name.isdigit() else here[name]
        here[last] = value

    return change


CONTAINER = "spec.containers.0"


@pytest.mark.parametrize(
    ("path", "value", "found"),
    [
        ("spec.unheard_of", 1, "schema"),
        (f"{CONTAINER}.args", "run-step", "schema"),
        ("spec.activeDeadlineSeconds", "1h", "schema"),
        ("spec.hostNetwork", True, "spec.hostNetwork"),
        ("spec.volumes", [{"name": "host", "hostPath": {"path": "/"}}], "spec.volumes: hostPath"),
        ("spec.securityContext.runAsNonRoot", False, "spec.containers[0].securityContext.runAsNonRoot"),
        ("spec.securityContext.runAsUser", 0, "spec.securityContext.runAsUser"),
        (
            "spec.securityContext.seccompProfile",
            {"type": "Unconfined"},
            "spec.containers[0].securityContext.seccompProfile",
        ),
        (f"{CONTAINER}.securityContext.privileged", True, "spec.containers[0].securityContext.privileged"),
        (f"{CONTAINER}.securityContext.capabilities", {}, "spec.containers[0].securityContext.capabilities.drop"),
        (f"{CONTAINER}.securityContext", {}, "spec.containers[0].securityContext.allowPrivilegeEscalation"),
        (f"{CONTAINER}.securityContext", {}, "spec.containers[0].securityContext.readOnlyRootFilesystem"),
        (f"{CONTAINER}.resources", {}, "spec.containers[0].resources.limits.memory"),
        (f"{CONTAINER}.image", "evergreen/step:latest", "spec.containers[0].image"),
        (f"{CONTAINER}.args", ["--param=$(HOME)"], "spec.containers[0].args: --param=$(HOME)"),
        ("spec.activeDeadlineSeconds", None, "spec.activeDeadlineSeconds"),
        ("spec.automountServiceAccountToken", True, "spec.automountServiceAccountToken"),
        ("spec.enableServiceLinks", True, "spec.enableServiceLinks"),
        ("spec.restartPolicy", "Always", "spec.restartPolicy"),
        (
            "spec.initContainers",
            [{"name": "x", "image": "x:1"}],
            "spec.initContainers[0].securityContext.capabilities.drop",
        ),
    ],
)
def test_policy_finds_what_it_should(kit: Kit, path: str, value: Any, found: str) -> None:
    pod = rendered(kit.operator())
    changed = copy.deepcopy(pod)
    _set(path, value)(changed)
    if found == "schema":
        assert schema_errors(changed)
    else:
        assert found in [*restricted_violations(changed), *unbounded(changed)]


def test_pod_says_what_to_run_and_where_its_settings_are(kit: Kit) -> None:
    operator = kit.operator(
        step="evaluate",
        task_id="judge",
        upstream={"train": "train_it"},
        params_json={"limit": "{{ params.limit }}", "plain": 3},
        execution_timeout=timedelta(minutes=5),
    )
    pod = rendered(
        operator, task_id="judge", partition_key=None, params={"start": "2013-01-01", "end": "2013-03-31", "limit": 7}
    )
    container = pod["spec"]["containers"][0]
    assert container["args"] == [
        "run-step",
        "evaluate",
        "--model=tiny",
        "--partition=2013-03-31",
        "--window-start=2013-01-01",
        "--dag-id=tiny.ingest",
        "--run-id=manual__2013-03-02",
        "--task-id=judge",
        "--upstream=train=train_it",
        '--param=limit="7"',
        "--param=plain=3",
    ]
    assert container["envFrom"] == [
        {"configMapRef": {"name": "evergreen-settings"}},
        {"secretRef": {"name": "evergreen-secrets"}},
    ]
    of_the_pod = {"resourceFieldRef": {"resource": "limits.cpu"}}
    assert {"name": "OMP_NUM_THREADS", "valueFrom": of_the_pod} in container["env"]
    assert pod["spec"]["activeDeadlineSeconds"] == 300
    assert pod["metadata"]["namespace"] == "evergreen-steps"
    labels = {"evergreen/model": "tiny", "evergreen/step": "evaluate", "dag_id": "tiny.ingest", "task_id": "judge"}
    assert labels.items() <= pod["metadata"]["labels"].items()
    assert "python" in kit.operator(cmds=pods.COMMAND).cmds


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ({"train": "tiny.other/a%2Fb/train_it"}, ["--upstream=train=tiny.other/a%2Fb/train_it"]),
        (None, []),  # the task was marked as successful by hand: the step says what it lacks
    ],
)
def test_a_task_may_say_which_manifests_are_read(kit: Kit, answer: Any, expected: list[str]) -> None:
    with DAG("tiny.ingest", schedule=None):
        source = EmptyOperator(task_id="source")
        operator = kit.operator(step="evaluate", task_id="judge", upstream=source.output)
    assert operator.upstream_task_ids == {"source"}
    context = task_context(task_id="judge")
    context["ti"].xcom_pull = lambda task_ids, **_: {"source": answer}[task_ids]
    operator.render_template_fields(context, jinja2.Environment())  # type: ignore[arg-type]
    args = yaml.safe_load(operator.rendered_pod)["spec"]["containers"][0]["args"]
    assert [argument for argument in args if argument.startswith("--upstream")] == expected


def test_rendered_field_fits_airflows_limit(kit: Kit) -> None:
    """Airflow cuts a rendered field off after core.max_templated_field_length characters, 4096 by default."""
    operator = kit.operator(upstream={"a_step": "a_task", "other_step": "other_task"}, params_json={"value": "x" * 100})
    rendered(operator, run_id="scheduled__2013-03-02T06:00:00.123456+00:00")
    assert len(operator.rendered_pod) < 3500


def test_rendered_pod_holds_no_secret(kit: Kit) -> None:
    kit.write_variables("secrets/evergreen-secrets.env", EVERGREEN_DATABASE_URL="postgresql://a:s3cr3t@host")
    get_settings.cache_clear()
    operator = kit.operator()
    rendered(operator)
    assert "s3cr3t" not in operator.rendered_pod


@pytest.mark.parametrize("secrets", [(), ("signing",), ("signing", "registry")])
def test_further_secrets_come_last_and_are_named_and_not_shown(kit: Kit, secrets: tuple[StepSecret, ...]) -> None:
    for name in ("signing", "registry"):
        kit.write_variables(f"secrets/evergreen-{name}.env", EVERGREEN_SIGNING_KEY="s3cr3t")
    operator = kit.operator(secrets=secrets)
    pod = rendered(operator)
    sources = pod["spec"]["containers"][0]["envFrom"]
    assert [source["secretRef"]["name"] for source in sources[1:]] == [
        "evergreen-secrets",
        *(f"evergreen-{name}" for name in secrets),
    ]
    assert "s3cr3t" not in operator.rendered_pod


def test_wrong_setting_is_shown_and_fails_the_task_only_when_it_executes(
    kit: Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVERGREEN_STEP_IMAGE", "evergreen/step")
    get_settings.cache_clear()
    operator = kit.operator()
    operator.render_template_fields(task_context(), jinja2.Environment())  # type: ignore[arg-type]
    assert operator.rendered_pod.startswith("# no pod: EVERGREEN_STEP_IMAGE='evergreen/step' names no version.")


PLACEMENT = """
imagePullSecrets: [registry]
priorityClassName: steps
nodeSelector: {pool: steps}
tolerations: [{key: spot, operator: Exists, effect: NoSchedule}]
profiles:
  large:
    requests: {cpu: "4", memory: 32Gi}
    limits: {cpu: "16", memory: 32Gi}
    nodeSelector: {size: large}
    tolerations: [{key: size, value: large}]
    priorityClassName: training
"""


def place(kit: Kit, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    (kit.folder / "pods.yaml").write_text(text)
    monkeypatch.setenv("EVERGREEN_POD_FILE", str(kit.folder / "pods.yaml"))
    get_settings.cache_clear()


@pytest.mark.parametrize("profile", ["small", "large"])
def test_the_cluster_s_operators_place_and_size_the_pods(
    kit: Kit, monkeypatch: pytest.MonkeyPatch, profile: Any
) -> None:
    place(kit, monkeypatch, PLACEMENT)
    monkeypatch.setenv("EVERGREEN_POD_SERVICE_ACCOUNT", "steps")
    get_settings.cache_clear()
    pod = rendered(kit.operator(profile=profile))
    assert (schema_errors(pod), restricted_violations(pod), unbounded(pod)) == ([], [], [])
    spec, large = pod["spec"], profile == "large"
    spot = {"key": "spot", "operator": "Exists", "effect": "NoSchedule"}
    assert spec["imagePullSecrets"] == [{"name": "registry"}]
    assert spec["serviceAccountName"] == "steps"
    assert spec["automountServiceAccountToken"] is False
    assert spec["nodeSelector"] == {"pool": "steps", **({"size": "large"} if large else {})}
    assert spec["tolerations"] == [spot, *([{"key": "size", "operator": "Equal", "value": "large"}] if large else [])]
    assert spec["priorityClassName"] == ("training" if large else "steps")
    memory = spec["containers"][0]["resources"]["limits"]["memory"]
    assert memory == ("32Gi" if large else PROFILES["small"].limits["memory"])


def test_without_a_file_a_pod_goes_anywhere(kit: Kit) -> None:
    spec = rendered(kit.operator())["spec"]
    assert not {"serviceAccountName", "priorityClassName"} & set(spec)
    assert not any(spec.get(name) for name in ("imagePullSecrets", "nodeSelector", "tolerations"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("tolerations: [{effect: Never}]", r"pods.yaml: tolerations, entry 1, effect: .*\(value: 'Never'\)"),
        ("profiles: {huge: {}}", "profiles.huge"),
        (
            "profiles: {small: {requests: {cpu: '1'}, limits: {cpu: '1', memory: 1Gi}}}",
            "profiles.small.requests: it lacks memory",
        ),
        (
            "profiles: {small: {requests: {cpu: lots, memory: 1Gi}, limits: {}}}",
            r"profiles.small.requests.cpu: .*\(value: 'lots'\)",
        ),
        ("imagePullSecret: [x]", "imagePullSecret: there is no such field"),
        ("{", "not valid YAML"),
        ("nodeSelector: {}\nnodeSelector: {}", "line 2, column 1: .* given twice"),
        ("- spot", "pods.yaml: expected a mapping of fields, found list. See docs/troubleshooting.md"),
    ],
)
def test_a_wrong_file_is_named(kit: Kit, monkeypatch: pytest.MonkeyPatch, text: str, said: str) -> None:
    place(kit, monkeypatch, text)
    with pytest.raises(ConfigurationError, match=said):
        get_placement()


def test_an_empty_file_places_nothing(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    place(kit, monkeypatch, "# as the chart writes it where nothing is set\n")
    assert get_placement() == Placement()


def test_the_documented_file_is_right_and_has_every_key() -> None:
    ((text, _),) = blocks((PROJECT_ROOT / "docs/troubleshooting.md").read_text(), "yaml")
    found = yaml.safe_load(text)
    assert Placement.model_validate(found)
    assert set(found) == set(Placement.model_fields)


def test_a_missing_file_is_named(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVERGREEN_POD_FILE", str(kit.folder / "none.yaml"))
    get_settings.cache_clear()
    with pytest.raises(ConfigurationError, match=r"EVERGREEN_POD_FILE=.*none\.yaml: No such file"):
        get_placement()


@pytest.mark.parametrize("image", ["step:1.0", "registry:5000/a/step:1", f"registry:5000/step@sha256:{'0' * 64}"])
def test_image_with_a_version(image: str) -> None:
    assert pods.checked_image(image) == image


@pytest.mark.parametrize("image", ["step", "step:latest", "registry:5000/step"])
def test_image_without_a_version(image: str) -> None:
    with pytest.raises(ConfigurationError, match="names no version"):
        pods.checked_image(image)


@pytest.mark.parametrize("text", ["plain", "$(HOME)", "$$(HOME)", "a$b", "$", "$$$", "$(", "é $(A) $"])
def test_escaped_text_arrives_unharmed(text: str) -> None:
    assert pods.expand(pods.escape(text), {"HOME": "/home", "A": "b"}) == text


def test_expand_is_the_kubelets() -> None:
    """Cases of kubernetes/third_party/forked/golang/expansion/expand_test.go."""
    variables = {"VAR_A": "A", "VAR_B": "B", "VAR_EMPTY": ""}
    cases = {
        "$(VAR_A)": "A",
        "___$(VAR_B)___": "___B___",
        "foo-$(VAR_A)-$(VAR_B)": "foo-A-B",
        "$(VAR_EMPTY)-": "-",
        "$$(VAR_B)_$(VAR_A)": "$(VAR_B)_A",
        "f000-$$VAR_A": "f000-$VAR_A",
        "$$$$$(BIG_MONEY)": "$$$(BIG_MONEY)",
        "$VAR_A": "$VAR_A",
        "$(DNE)": "$(DNE)",
        "foo$$VAR": "foo$VAR",
        "$(VAR_A": "$(VAR_A",
        "%$(VAR_A)%": "%A%",
    }
    assert {text: pods.expand(text, variables) for text in cases} == cases


def test_pod_name_is_that_of_the_attempt() -> None:
    run = RunIdentity(dag_id="d", run_id="r", task_id="t")
    name = pods.pod_name("flight_delay", "build_features", run, "1-a")
    assert name.startswith("flight-delay-build-features-")
    assert name == pods.pod_name("flight_delay", "build_features", run, "1-a")
    assert name != pods.pod_name("flight_delay", "build_features", run, "2-a")
    assert len(pods.pod_name("m" * 63, "build_features", run, "1")) <= 63
