"""Every installation that people make of the chart satisfies every policy."""

from __future__ import annotations

import re
from collections.abc import Callable

import chart_policies as policies
import helm_python
import pytest
from chart_rendering import (
    CASES,
    CHART,
    EXTERNAL,
    PLATFORM,
    STEPS,
    TRIAL,
    Object,
    containers,
    objects,
    of_kind,
    parse,
    pick,
    pods,
    render,
)

README = (CHART / "README.md").read_text()
POLICIES: list[Callable[[list[Object]], list[str]]] = [
    policies.restricted,
    policies.tokens,
    policies.rights,
    policies.literals,
    policies.unlimited,
    policies.floating_images,
    policies.unhealthy,
    policies.uncovered,
    policies.unmounted,
]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("version", policies.VERSIONS)
def test_the_api_server_would_take_every_object(case: str, version: str) -> None:
    assert policies.schema_errors(objects(case), version) == []


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.__name__)
def test_every_policy_holds(case: str, policy: Callable[[list[Object]], list[str]]) -> None:
    assert policy(objects(case)) == []


@pytest.mark.parametrize("case", CASES)
def test_what_pods_need_is_rendered_or_documented(case: str) -> None:
    values = CASES[case]
    external: set[tuple[str, str, str]] = set()
    if not values.get("trial", {}).get("enabled"):
        external |= {("Secret", PLATFORM, "evergreen-platform"), ("Secret", STEPS, "evergreen-secrets")}
    if values["database"].get("create") if "database" in values else False:
        external.add(("Secret", PLATFORM, "evergreen-database-admin"))
    if "dags" in values:
        external |= {("Secret", PLATFORM, "key"), ("Secret", STEPS, "key")}
    if values.get("images", {}).get("pullSecrets"):
        external |= {("Secret", PLATFORM, "registry"), ("Secret", STEPS, "registry")}
    if values.get("serving"):
        external.add(("Secret", PLATFORM, "evergreen-serving"))
    if values.get("serving", {}).get("tlsSecret"):
        external.add(("Secret", PLATFORM, "serving-tls"))
    if values.get("tls"):
        external |= {("Secret", PLATFORM, "evergreen-tls"), ("Secret", STEPS, "feast-tls")}
        external.add(("Secret", STEPS, "evergreen-feast-online"))
    assert policies.dangling(objects(case), external) == []


@pytest.mark.parametrize("case", CASES)
def test_every_key_of_a_secret_is_generated_or_documented(case: str) -> None:
    found = objects(case)
    made = {(secret["metadata"]["name"], key) for secret in of_kind(found, "Secret") for key in secret["data"]}
    used = {pair for pod in pods(found) for pair in policies.secret_keys(pod)}
    assert used
    for name, key in used:
        assert (name, key) in made if made else f"`{key}`" in README, (name, key)


def test_nothing_runs_in_another_namespace() -> None:
    cluster_wide = {"Namespace", "PriorityClass"}
    for case in CASES:
        for found in objects(case):
            namespace = found["metadata"].get("namespace")
            assert (namespace is None) == (found["kind"] in cluster_wide), found
            assert namespace in {None, PLATFORM, STEPS}


def test_without_keys_no_pod_is_given_any() -> None:
    names = {
        variable["name"]
        for pod in pods(objects("cloud-identity"))
        for container in containers(pod)
        for variable in container.get("env", ())
    }
    assert names
    assert not {name for name in names if name.startswith("AWS_") and "KEY" in name}


def test_only_who_launches_steps_may_create_pods() -> None:
    for case, launchers in (
        ("production", {"scheduler"}),
        ("kubernetes-executor", {"scheduler", "worker"}),
    ):
        found = objects(case)
        creating = {
            role["metadata"]["name"] for role in of_kind(found, "Role") if "create" in role["rules"][0]["verbs"]
        }
        bound = {
            subject["name"].removeprefix("evergreen-")
            for binding in of_kind(found, "RoleBinding")
            if binding["roleRef"]["name"] in creating
            for subject in binding["subjects"]
        }
        assert bound == launchers


def test_with_servers_of_ones_own_the_databases_are_ready_before_anything_starts() -> None:
    hooks = {
        (one["kind"], one["metadata"]["name"]): int(one["metadata"]["annotations"]["helm.sh/hook-weight"])
        for one in objects("everything")
        if one["metadata"].get("annotations", {}).get("helm.sh/hook") == "pre-install,pre-upgrade"
    }
    assert sorted(hooks, key=lambda key: hooks[key])[-1] == ("Job", "evergreen-bootstrap")
    # a hook runs before the release's own objects: all that it needs is a hook too, or a Secret of yours
    (pod,) = pods([pick(objects("everything"), "Job", "evergreen-bootstrap")])
    needed = {pair for pair in policies.references(pod) if pair[0] != "Secret"}
    assert needed <= set(hooks)
    assert {("ExternalSecret", "evergreen-platform"), ("ExternalSecret", "evergreen-database-admin")} <= set(hooks)


def test_a_bootstrap_that_cannot_succeed_says_so_before_helm_gives_up() -> None:
    page = (CHART.parents[1] / "docs" / "kubernetes.md").read_text()
    (patience,) = re.findall(r"^PATIENCE = ([\d.]+)", (CHART / "files" / "databases.py").read_text(), flags=re.M)
    spec = pick(objects("everything"), "Job", "evergreen-bootstrap")["spec"]
    tries = spec["backoffLimit"] + 1
    pauses = sum(10 * 2**number for number in range(spec["backoffLimit"]))
    assert tries * float(patience) + pauses < 60 * min(map(int, re.findall(r"--timeout (\d+)m", page)))
    assert spec["template"]["spec"]["restartPolicy"] == "Never"  # else the job deletes the pod, and its log, at the end
    assert pick(objects("trial"), "Job", "evergreen-bootstrap-1")["spec"]["ttlSecondsAfterFinished"]


def test_in_a_trial_nothing_is_a_hook_and_everything_waits() -> None:
    # `helm install --wait` waits for pods that would wait for a post-install hook
    found = objects("trial")
    assert not [one for one in found if "helm.sh/hook" in one["metadata"].get("annotations", {})]
    for name in ("api-server", "scheduler", "dag-processor", "triggerer", "mlflow"):
        waits = [
            one["name"]
            for one in pick(found, "Deployment", f"evergreen-{name}")["spec"]["template"]["spec"]["initContainers"]
        ]
        assert set(waits) & {"wait-for-migrations", "wait-for-bootstrap"}, name


def test_in_a_trial_airflow_waits_for_the_server_before_it_asks_for_its_tables() -> None:
    # without a server `airflow db check-migrations` ends at once, and the kubelet waits longer before each next start
    for case, waits in (("trial", True), ("production", False)):
        (container,) = [
            one
            for one in pick(objects(case), "Deployment", "evergreen-scheduler")["spec"]["template"]["spec"][
                "initContainers"
            ]
            if one["name"] == "wait-for-migrations"
        ]
        command = " ".join(container["command"])
        assert command.endswith("airflow db check-migrations --migration-wait-timeout=600")
        assert ("airflow db check --retry=" in command) == waits


def test_a_trial_s_server_that_could_not_start_is_replaced_by_a_corrected_one() -> None:
    # with OrderedReady a StatefulSet waits for the broken pod before it updates it
    for one in of_kind(objects("trial"), "StatefulSet"):
        assert one["spec"]["podManagementPolicy"] == "Parallel"


def test_what_reads_the_settings_at_its_start_starts_anew_when_they_change() -> None:
    def reading(values: Object) -> dict[str, Object]:
        return {
            pod["metadata"]["name"]: pod["metadata"].get("annotations", {})
            for pod in pods(parse(render(values)))
            if any("envFrom" in container for container in containers(pod))
        }

    values = {**TRIAL, "feastOnline": {"enabled": True}}
    before, same = reading(values), reading(values)
    after = reading({**values, "settings": {"EVERGREEN_SQL_SECONDS": "90"}})
    assert set(before) == {"evergreen-ray-head", "evergreen-ray-worker", "evergreen-feast-online"}
    assert before == same
    assert all(before[name]["checksum/settings"] != after[name]["checksum/settings"] for name in before)


@pytest.mark.parametrize("case", CASES)
def test_nothing_is_named_twice_in_a_pod(case: str) -> None:
    # a server-side apply, which is what Helm 4 does, refuses two entries with one key
    for pod in pods(objects(case)):
        spec = pod["spec"]
        keys = [[one["name"] for one in spec.get("volumes", ())], [one["name"] for one in containers(pod)]]
        for container in containers(pod):
            keys.append([one["name"] for one in container.get("env", ())])
            keys.append([one["mountPath"] for one in container.get("volumeMounts", ())])
            keys.append([one["containerPort"] for one in container.get("ports", ())])
        assert all(len(found) == len(set(found)) for found in keys), pod["metadata"]["name"]


def test_a_digest_wins_over_the_tag_and_reaches_the_steps() -> None:
    image = f"evergreen/step@sha256:{'0' * 64}"
    found = objects("everything")
    settings = pick(found, "ConfigMap", "evergreen-settings")["data"]
    assert settings["EVERGREEN_STEP_IMAGE"] == image
    (container,) = pick(found, "Deployment", "evergreen-mlflow")["spec"]["template"]["spec"]["containers"]
    assert container["image"] == image


def test_kuberay_runs_the_same_pods() -> None:
    def members(case: str) -> dict[str, Object]:
        components = (
            (pod["metadata"]["labels"]["app.kubernetes.io/component"], pod["spec"]) for pod in pods(objects(case))
        )
        return {name: spec for name, spec in components if name.startswith("ray-")}

    plain, operated = members("production"), members("kuberay")
    assert set(plain) == set(operated) == {"ray-head", "ray-worker"}
    address = {"evergreen-ray-head.evergreen-steps.svc": "evergreen-ray-head-svc.evergreen-steps.svc"}
    for kind, spec in plain.items():
        command = [
            next((part.replace(old, new) for old, new in address.items()), part)
            for part in spec["containers"][0]["command"]
        ]
        assert operated[kind]["containers"][0] == {**spec["containers"][0], "command": command}


def test_what_kuberay_lets_wait_for_the_head_may_ask_it() -> None:
    # its container wait-gcs-ready has the worker's env and not its envFrom; `ray health-check` is refused without both
    (group,) = pick(objects("kuberay"), "RayCluster", "evergreen-ray")["spec"]["workerGroupSpecs"]
    (worker,) = group["template"]["spec"]["containers"]
    environment = {one["name"]: one.get("value") for one in worker["env"]}
    assert environment["RAY_AUTH_MODE"] == "token"
    assert "RAY_AUTH_TOKEN" in environment


def test_the_chart_passes_the_linter() -> None:
    for values in (TRIAL, EXTERNAL):
        report = helm_python.lint(CHART, values, strict=True, namespace=PLATFORM)
        assert report["errors"] == []
        assert [found for found in report["messages"] if found["severity"] >= 2] == []


def test_the_notes_name_every_secret_that_is_expected() -> None:
    notes = next(text for path, text in render(CASES["everything"]).items() if path.endswith("NOTES.txt"))
    for name in (
        "evergreen/evergreen-platform",
        "evergreen/evergreen-database-admin",
        "evergreen-steps/evergreen-secrets",
    ):
        assert name in notes
    assert not re.search(r"\{\{|<no value>|<nil>", notes)
