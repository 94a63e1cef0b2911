"""The chart and the code agree: names of variables, labels, users, and what MLflow lets in."""

from __future__ import annotations

import base64
import json
from urllib.parse import urlsplit

import pytest
import yaml
from chart_policies import references
from chart_rendering import CASES, STEPS, TRIAL, Object, containers, objects, of_kind, parse, pick, pods, render
from cryptography.fernet import Fernet
from mlflow.server.security_utils import is_allowed_host_header

from evergreen.settings import SIGNING_KEY, VERIFICATION_KEYS, Settings
from evergreen.trust import keys
from evergreen_airflow import placement, pod


def _settings(case: str) -> dict[str, str]:
    data: dict[str, str] = pick(objects(case), "ConfigMap", pod.SETTINGS)["data"]
    return data


def _secret(found: list[Object], name: str) -> dict[str, str]:
    data = pick(found, "Secret", name)["data"]
    return {key: base64.b64decode(value).decode() for key, value in data.items()}


@pytest.mark.parametrize("case", CASES)
def test_every_variable_for_the_steps_is_a_setting(case: str) -> None:
    fields = {f"EVERGREEN_{name.upper()}" for name in Settings.model_fields}
    assert {name for name in _settings(case) if name.startswith("EVERGREEN_")} <= fields


def test_the_settings_of_a_trial_load(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (_settings("trial") | _secret(objects("trial"), pod.SECRETS)).items():
        monkeypatch.setenv(name, value)
    loaded = Settings(_env_file=None)  # type: ignore[call-arg]
    assert (loaded.runtime, loaded.namespace, loaded.lake_root) == (
        "kubernetes",
        STEPS,
        "s3://evergreen/evergreen/lake",
    )
    assert pod.checked_image(loaded.step_image) == "evergreen/step:0.1.0"
    lake = urlsplit(loaded.database("lake"))
    assert (lake.username, lake.hostname, lake.port, lake.path) == (
        "evergreen_steps",
        "evergreen-postgres.evergreen.svc",
        5432,
        "/lake",
    )


def test_the_step_pods_of_the_operator_are_those_the_network_policy_means() -> None:
    selector = pick(objects("trial"), "NetworkPolicy", "evergreen-steps")["spec"]["podSelector"]["matchLabels"]
    assert selector.items() <= pod.labels("flight_delay", "train").items()


def test_all_containers_run_as_the_user_of_the_step_pods() -> None:
    for one in pods(objects("trial")):
        assert one["spec"]["securityContext"]["runAsUser"] == pod.USER


def test_git_sync_runs_as_the_user_that_its_image_knows() -> None:
    found = [one for pod_ in pods(objects("git-sync")) for one in containers(pod_) if one["name"].startswith("git-")]
    assert len(found) > 4
    assert {one["securityContext"]["runAsUser"] for one in found} == {65533}
    assert all(one["securityContext"]["readOnlyRootFilesystem"] for one in found)


def test_every_profile_of_a_step_fits_into_the_limits_of_the_namespace() -> None:
    (limits,) = pick(objects("trial"), "LimitRange", "evergreen-steps")["spec"]["limits"]
    for resources in placement.PROFILES.values():
        assert int(resources.limits["cpu"]) <= int(limits["max"]["cpu"])
        assert int(resources.limits["memory"].removesuffix("Gi")) <= int(limits["max"]["memory"].removesuffix("Gi"))


@pytest.mark.parametrize("case", CASES)
def test_the_operator_understands_what_every_step_pod_gets_of_the_cluster(case: str) -> None:
    for one in of_kind(objects(case), "ConfigMap"):
        if one["metadata"]["name"] == "evergreen-pods":
            found = placement.Placement.model_validate(yaml.safe_load(one["data"]["pods.yaml"]))
            assert found.priorityClassName == "evergreen-steps"


def test_a_cluster_s_own_places_and_profiles_reach_the_step_pods() -> None:
    text = pick(objects("everything"), "ConfigMap", "evergreen-pods")["data"]["pods.yaml"]
    found = placement.Placement.model_validate(yaml.safe_load(text))
    arguments = found.pod_arguments("gpu")
    assert [each.key for each in arguments["tolerations"]] == ["spot", "nvidia.com/gpu"]
    assert arguments["node_selector"] == {"pool": "steps"}
    assert arguments["container_resources"].limits["nvidia.com/gpu"] == "2"
    assert [each.name for each in arguments["image_pull_secrets"]] == ["registry"]
    for name in ("scheduler", "triggerer"):
        spec = pick(objects("everything"), "Deployment", f"evergreen-{name}")["spec"]["template"]["spec"]
        (variable,) = [one["value"] for one in spec["containers"][0]["env"] if one["name"] == "EVERGREEN_POD_FILE"]
        (mount,) = [one["mountPath"] for one in spec["containers"][0]["volumeMounts"] if one["name"] == "pods"]
        assert variable == f"{mount}/pods.yaml"


def test_step_pods_find_the_authorities_where_their_variables_say() -> None:
    found = objects("everything")
    text = pick(found, "ConfigMap", "evergreen-pods")["data"]["pods.yaml"]
    arguments = placement.Placement.model_validate(yaml.safe_load(text)).pod_arguments("small")
    (volume,) = [one for one in arguments["volumes"] if one.name == "ca"]
    (mount,) = [one for one in arguments["volume_mounts"] if one.name == "ca"]
    assert {"tmp", "shm"} <= {one.name for one in arguments["volumes"]}
    (there,) = [
        one["data"]
        for one in of_kind(found, "ConfigMap")
        if one["metadata"]["name"] == volume.config_map.name and one["metadata"]["namespace"] == STEPS
    ]
    files = {f"{mount.mount_path}/{name}" for name in there}
    settings = _settings("everything")
    assert {
        settings[name] for name in ("AWS_CA_BUNDLE", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "PGSSLROOTCERT")
    } == files
    assert "volumes" not in placement.Placement().pod_arguments("small")


def test_step_pods_run_as_the_account_that_the_chart_makes() -> None:
    found = objects("trial")
    account = pick(found, "ServiceAccount", _settings("trial")["EVERGREEN_POD_SERVICE_ACCOUNT"])
    assert account["metadata"]["namespace"] == STEPS
    assert not [one for one in of_kind(found, "RoleBinding") for s in one["subjects"] if s["name"] == "evergreen-step"]


def test_secrets_of_a_trial_fit_together() -> None:
    found = objects("trial")
    platform, steps = _secret(found, "evergreen-platform"), _secret(found, pod.SECRETS)
    Fernet(platform["airflow-fernet-key"])  # raises on a key that is none
    assert urlsplit(steps["EVERGREEN_DATABASE_URL"]).password == platform["steps-database-password"]
    assert steps["MLFLOW_TRACKING_PASSWORD"] == platform["mlflow-steps-password"]
    assert _secret(found, "evergreen-database-admin")["password"] == platform["database-admin-password"]
    assert json.loads(platform["airflow-passwords.json"]) == {"admin": platform["airflow-admin-password"]}
    identities = json.loads(_secret(found, "evergreen-seaweedfs")["s3.json"])["identities"]
    keys = {one["name"]: (one["credentials"][0]["accessKey"], one["credentials"][0]["secretKey"]) for one in identities}
    assert keys["platform"] == (platform["s3-access-key-id"], platform["s3-secret-access-key"])
    assert keys["steps"] == (steps["AWS_ACCESS_KEY_ID"], steps["AWS_SECRET_ACCESS_KEY"])
    serving = _secret(found, "evergreen-serving")
    address = urlsplit(serving["EVERGREEN_DATABASE_URL"])
    assert (address.username, address.password) == ("evergreen_serving", platform["serving-database-password"])
    assert address.netloc.partition("@")[2] == urlsplit(steps["EVERGREEN_DATABASE_URL"]).netloc.partition("@")[2]
    assert serving["MLFLOW_TRACKING_PASSWORD"] == platform["mlflow-serving-password"]
    assert keys["serving"] == (serving["AWS_ACCESS_KEY_ID"], serving["AWS_SECRET_ACCESS_KEY"])
    assert serving[VERIFICATION_KEYS] == steps[VERIFICATION_KEYS]
    assert len(set(platform.values())) == len(platform)


def test_each_user_of_a_trial_has_a_password_of_its_own() -> None:
    platform = _secret(
        parse(render({**TRIAL, "airflow": {"users": "admin:admin,user:user,op:op"}})), "evergreen-platform"
    )
    passwords = json.loads(platform["airflow-passwords.json"])
    assert list(passwords) == ["admin", "op", "user"]
    assert passwords["admin"] == platform["airflow-admin-password"]
    assert len(set(passwords.values())) == 3


def test_what_a_trial_signs_with_is_believed_and_only_steps_that_sign_are_given_it() -> None:
    found = objects("trial")
    private = _secret(found, pod.further_secret("signing").secret_ref.name)
    believed = _secret(found, pod.SECRETS)[VERIFICATION_KEYS]
    assert private.keys() == {SIGNING_KEY}
    assert keys.published(private[SIGNING_KEY], believed) == keys.published(private[SIGNING_KEY])
    login = _secret(found, pod.further_secret("registry").secret_ref.name)
    assert login["MLFLOW_TRACKING_USERNAME"] == "evergreen-registry"
    assert login["MLFLOW_TRACKING_PASSWORD"] == _secret(found, "evergreen-platform")["mlflow-registry-password"]
    for case in CASES:
        for one in pods(objects(case)):
            named = {name for kind, name in references(one) if kind == "Secret"}
            assert not named & {"evergreen-signing", "evergreen-registry"}, one["metadata"]["name"]


def test_secrets_of_a_trial_are_random() -> None:
    first, second = (_secret(parse(render(TRIAL)), "evergreen-platform") for _ in range(2))
    assert not set(first.values()) & set(second.values())


def test_nobody_in_the_step_namespace_is_given_a_key_of_the_platform() -> None:
    platform = set(_secret(objects("trial"), "evergreen-platform").values())
    steps = _secret(objects("trial"), pod.SECRETS)
    own = {"MLFLOW_TRACKING_PASSWORD", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "RAY_AUTH_TOKEN"}
    own |= {VERIFICATION_KEYS}  # a public one
    assert {name for name, value in steps.items() if value in platform} == own
    for case in CASES:
        for one in pods(objects(case)):
            if one["metadata"]["namespace"] == STEPS:
                assert ("Secret", "evergreen-platform") not in set(references(one))


def _mlflow_hosts(case: str) -> list[str]:
    (container,) = pick(objects(case), "Deployment", "evergreen-mlflow")["spec"]["template"]["spec"]["containers"]
    (value,) = [one["value"] for one in container["env"] if one["name"] == "MLFLOW_SERVER_ALLOWED_HOSTS"]
    return str(value).split(",")


def test_mlflow_answers_to_its_own_names_only() -> None:
    address = urlsplit(_settings("trial")["EVERGREEN_MLFLOW_TRACKING_URI"]).netloc
    for case, host in (("trial", address), ("trial", "localhost:5000"), ("everything", "mlflow.example.com")):
        assert is_allowed_host_header(_mlflow_hosts(case), host), host
    for host in ("evil.example.com", "mlflow.example.com", ""):
        assert not is_allowed_host_header(_mlflow_hosts("trial"), host), host


def test_airflow_s_options_exist() -> None:
    from airflow.configuration import conf

    for case in CASES:
        for one in pods(objects(case)):
            for container in containers(one):
                for variable in container.get("env", ()):
                    if variable["name"].startswith("AIRFLOW__"):
                        section, option = variable["name"].removeprefix("AIRFLOW__").lower().split("__")
                        # options of a provider are unknown where it is not installed
                        assert option in conf.configuration_description.get(section, {}).get("options", {}), variable


def test_every_config_map_key_is_a_variable_or_a_file() -> None:
    for case in CASES:
        for one in of_kind(objects(case), "ConfigMap"):
            assert all(isinstance(value, str) for value in one["data"].values()), one["metadata"]["name"]
