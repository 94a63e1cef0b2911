"""Who may speak to whom, computed from the rendered network policies as Kubernetes evaluates them."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache

import pytest
from chart_rendering import EXTERNAL, PLATFORM, STEPS, TRIAL, Object, label, objects, of_kind, parse, pick, render

OUTSIDE = "203.0.113.7"


@dataclass(frozen=True)
class Peer:
    """A pod (namespace and labels) or an address outside the cluster."""

    namespace: str = ""
    labels: dict[str, str] = field(default_factory=dict, hash=False)
    address: str = ""


def platform(component: str) -> Peer:
    return Peer(PLATFORM, _labels(component))


def steps(component: str) -> Peer:
    return Peer(STEPS, _labels(component))


def _labels(component: str) -> dict[str, str]:
    labels = {"part-of": "evergreen", "instance": "evergreen", "component": component}
    return {f"app.kubernetes.io/{name}": value for name, value in labels.items()}


STEP = Peer(STEPS, {"app.kubernetes.io/name": "evergreen-step", "app.kubernetes.io/component": "train"})
STRANGER = Peer("elsewhere", {"app": "anything"})
NEIGHBOUR = Peer(STEPS, {"app": "anything"})
DNS = Peer("kube-system", {"k8s-app": "kube-dns"})
INGRESS = Peer("ingress", {})
WORLD = Peer(address=OUTSIDE)


@cache
def _policies(case: str) -> tuple[Object, ...]:
    return tuple(of_kind(objects(case), "NetworkPolicy"))


def allowed(case: str, source: Peer, target: Peer, port: int, protocol: str = "TCP") -> bool:
    """Return whether both ends' policies let a connection pass."""
    return passes(_policies(case), source, target, port, protocol)


def passes(policies: Iterable[Object], source: Peer, target: Peer, port: int, protocol: str = "TCP") -> bool:
    """Return whether these policies let a connection pass, at both ends."""
    ends = (("Egress", "egress", "to", source, target), ("Ingress", "ingress", "from", target, source))
    return all(_lets(policies, *end, port=port, protocol=protocol) for end in ends)


def _lets(
    policies: Iterable[Object],
    kind: str,
    section: str,
    direction: str,
    subject: Peer,
    other: Peer,
    *,
    port: int,
    protocol: str,
) -> bool:
    selecting = [one for one in policies if kind in one["spec"]["policyTypes"] and _selects(one, subject)]
    return not selecting or any(
        _is_peer(rule.get(direction), other) and _has_port(rule.get("ports"), port, protocol)
        for one in selecting
        for rule in one["spec"].get(section, ())
    )


def _selects(policy: Object, peer: Peer) -> bool:
    labels = policy["spec"]["podSelector"].get("matchLabels", {})
    return policy["metadata"]["namespace"] == peer.namespace and labels.items() <= peer.labels.items()


def _is_peer(peers: list[Object] | None, other: Peer) -> bool:
    if peers is None:
        return True
    for peer in peers:
        if "ipBlock" in peer:
            if other.address and ipaddress.ip_address(other.address) in ipaddress.ip_network(peer["ipBlock"]["cidr"]):
                return True
        elif not other.address:
            namespace = {"kubernetes.io/metadata.name": other.namespace, "team": other.namespace}
            in_namespace = peer["namespaceSelector"]["matchLabels"].items() <= namespace.items()
            if in_namespace and peer.get("podSelector", {}).get("matchLabels", {}).items() <= other.labels.items():
                return True
    return False


def _has_port(ports: list[Object] | None, port: int, protocol: str) -> bool:
    return ports is None or any(
        one["protocol"] == protocol and one["port"] <= port <= one.get("endPort", one["port"]) for one in ports
    )


AIRFLOW = ("api-server", "scheduler", "dag-processor", "triggerer")
NEEDED = [
    *[("trial", platform(name), platform("postgres"), 5432) for name in (*AIRFLOW, "mlflow", "bootstrap")],
    *[("trial", platform(name), platform("seaweedfs"), 8333) for name in ("api-server", "scheduler", "triggerer")],
    ("trial", platform("bootstrap"), platform("seaweedfs"), 8333),
    ("trial", platform("mlflow"), platform("seaweedfs"), 8333),
    ("trial", STEP, platform("postgres"), 5432),
    ("trial", STEP, platform("seaweedfs"), 8333),
    ("trial", STEP, platform("mlflow"), 5000),
    ("trial", STEP, steps("ray-head"), 10001),
    ("trial", steps("ray-worker"), steps("ray-head"), 6379),
    ("trial", steps("ray-head"), steps("ray-worker"), 45001),
    ("trial", steps("ray-worker"), steps("ray-worker"), 45001),
    ("trial", steps("ray-worker"), platform("seaweedfs"), 8333),
    ("trial", platform("scheduler"), platform("api-server"), 8080),
    ("trial", platform("loop"), platform("api-server"), 8080),
    ("trial", platform("loop"), platform("seaweedfs"), 8333),
    ("trial", platform("api-server"), platform("scheduler"), 8793),
    ("trial", platform("api-server"), platform("triggerer"), 8794),
    ("trial", platform("scheduler"), WORLD, 6443),
    ("trial", platform("triggerer"), WORLD, 443),
    ("production", STEP, WORLD, 5432),
    ("production", STEP, WORLD, 443),
    ("production", platform("mlflow"), WORLD, 5432),
    ("production", platform("scheduler"), WORLD, 4318),
    ("kubernetes-executor", steps("worker"), platform("api-server"), 8080),
    ("kubernetes-executor", steps("worker"), WORLD, 6443),
    ("kubernetes-executor", platform("dag-processor"), WORLD, 22),
    ("trial-with-features", steps("feast-online"), platform("postgres"), 5432),
    ("encrypted", Peer("scoring", {}), steps("feast-online"), 6566),
    ("encrypted", steps("feast-online"), WORLD, 5432),
    ("everything", STEP, Peer("databases", {}), 5432),
    ("everything", STEP, WORLD, 8333),
    ("everything", STEP, WORLD, 443),
    ("everything", INGRESS, platform("api-server"), 8080),
    ("everything", INGRESS, platform("mlflow"), 5000),
    ("trial", platform("serving"), platform("postgres"), 5432),
    ("trial", platform("serving"), platform("seaweedfs"), 8333),
    ("trial", platform("serving"), platform("mlflow"), 5000),
    ("serving", platform("serving"), WORLD, 5432),
    ("everything", INGRESS, platform("serving"), 8090),
    ("everything", Peer("monitoring", {}), platform("serving"), 8090),
    ("everything", platform("serving"), Peer("observers", {}), 4318),
    *[("everything", platform(name), WORLD, 587) for name in ("scheduler", "dag-processor")],
    ("everything", platform("scheduler"), Peer("observers", {}), 9093),
]
FORBIDDEN = [
    ("trial", STEP, platform("api-server"), 8080),  # a step must not speak to Airflow
    ("trial", STEP, WORLD, 443),  # nor to the Internet, nor to the Kubernetes API
    ("trial", STEP, WORLD, 6443),
    ("trial", STEP, STEP, 8080),
    ("trial", STEP, steps("ray-head"), 6379),
    ("trial", STEP, platform("postgres"), 22),
    ("trial", platform("mlflow"), platform("api-server"), 8080),
    ("trial", platform("mlflow"), WORLD, 6443),
    ("trial", platform("dag-processor"), platform("seaweedfs"), 8333),
    ("trial", platform("dag-processor"), WORLD, 6443),
    ("trial", steps("ray-worker"), platform("postgres"), 5432),
    ("trial", steps("ray-worker"), WORLD, 443),
    ("trial", platform("seaweedfs"), WORLD, 443),
    ("trial", platform("loop"), WORLD, 443),
    ("trial", platform("loop"), platform("postgres"), 5432),
    ("trial", platform("postgres"), platform("seaweedfs"), 8333),
    ("trial", STRANGER, platform("postgres"), 5432),
    ("trial", STRANGER, platform("seaweedfs"), 9333),
    ("trial", STRANGER, platform("api-server"), 8080),
    ("trial", STRANGER, steps("ray-head"), 10001),
    ("trial", NEIGHBOUR, platform("postgres"), 5432),
    ("trial", NEIGHBOUR, steps("ray-head"), 10001),
    ("trial-with-features", STRANGER, steps("feast-online"), 6566),
    ("trial-with-features", STEP, steps("feast-online"), 6566),
    ("trial-with-features", steps("feast-online"), platform("seaweedfs"), 8333),
    ("encrypted", STRANGER, steps("feast-online"), 6566),
    ("production", STEP, WORLD, 6443),
    ("everything", STEP, WORLD, 5432),
    ("everything", STEP, Peer("databases", {}), 22),
    ("everything", STEP, WORLD, 587),  # alerts are Airflow's
    ("everything", platform("triggerer"), WORLD, 587),  # what it ends has no callback
    ("everything", platform("dag-processor"), WORLD, 8333),
    ("production", platform("scheduler"), WORLD, 587),
    ("production", INGRESS, platform("api-server"), 8080),
    ("kubernetes-executor", steps("worker"), WORLD, 5432),  # a task needs no database
    ("trial", STRANGER, platform("serving"), 8090),
    ("trial", STEP, platform("serving"), 8090),
    ("trial", platform("serving"), platform("api-server"), 8080),
    ("trial", platform("serving"), WORLD, 443),
    ("serving", INGRESS, platform("serving"), 8090),
    ("serving", platform("serving"), WORLD, 6443),
    ("everything", STRANGER, platform("serving"), 8090),
    ("everything", platform("serving"), WORLD, 4318),
    ("trial-without-serving", platform("serving"), platform("mlflow"), 5000),
]


@pytest.mark.parametrize(("case", "source", "target", "port"), NEEDED)
def test_what_is_needed_passes(case: str, source: Peer, target: Peer, port: int) -> None:
    assert allowed(case, source, target, port)


@pytest.mark.parametrize(("case", "source", "target", "port"), FORBIDDEN)
def test_the_rest_does_not(case: str, source: Peer, target: Peer, port: int) -> None:
    assert not allowed(case, source, target, port)


@pytest.mark.parametrize("case", ["production", "trial"])
def test_everyone_may_ask_for_names(case: str) -> None:
    for pod in (STEP, NEIGHBOUR, platform("mlflow"), steps("ray-head"), platform("anything")):
        assert allowed(case, pod, DNS, 53, "UDP")
        assert not allowed(case, pod, STRANGER, 53, "UDP")


def test_names_may_be_asked_for_where_a_distribution_answers() -> None:
    there = Peer("openshift-dns", {"dns.operator.openshift.io/daemonset-dns": "default"})
    assert allowed("openshift", STEP, there, 5353, "UDP")
    assert allowed("openshift", STEP, DNS, 53, "UDP")
    assert not allowed("trial", STEP, there, 5353, "UDP")
    assert not allowed("openshift", STEP, there, 8080)


def test_statsd_is_udp() -> None:
    assert allowed("everything", platform("scheduler"), WORLD, 8125, "UDP")
    assert not allowed("everything", platform("scheduler"), WORLD, 8125, "TCP")


def test_every_service_is_somebody_s_port() -> None:
    for case in ("production", "trial"):
        found = objects(case)
        for service in of_kind(found, "Service"):
            name = service["metadata"]["name"]
            deployed = {"evergreen-api-server", "evergreen-mlflow", "evergreen-serving"}
            kind = "Deployment" if name in deployed else "StatefulSet"
            template = pick(found, kind, name)["spec"]["template"]
            assert service["spec"]["selector"].items() <= template["metadata"]["labels"].items()
            ports = {
                port["name"] for container in template["spec"]["containers"] for port in container.get("ports", ())
            }
            assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports


def test_cilium_lets_exactly_those_reach_the_kubernetes_api_who_may() -> None:
    found = of_kind(objects("everything"), "CiliumNetworkPolicy")
    selected = {one["spec"]["endpointSelector"]["matchLabels"]["app.kubernetes.io/component"] for one in found}
    assert selected == {name for name in (*AIRFLOW, "mlflow") if allowed("everything", platform(name), WORLD, 6443)}
    assert selected == {"scheduler", "triggerer"}
    assert not of_kind(objects("production"), "CiliumNetworkPolicy")


def _during_an_upgrade(wrong: Object, right: Object) -> list[Object]:
    """Return the policies while the bootstrap of an upgrade runs: its hooks, and all else of the revision before."""
    before, after = (
        {label(one): one for one in of_kind(parse(render({**EXTERNAL, "networkPolicies": values})), "NetworkPolicy")}
        for values in (wrong, right)
    )
    hooks = {
        name: one
        for name, one in after.items()
        if "pre-upgrade" in one["metadata"].get("annotations", {}).get("helm.sh/hook", "")
    }
    return list({**before, **hooks}.values())


WRONG: Object = {"databaseCidrs": ["192.0.2.0/24"], "dnsPorts": [54]}


@pytest.mark.parametrize("right", [{"databaseCidrs": ["203.0.113.0/24"]}, {"enabled": False}])
def test_an_upgrade_corrects_the_policies_that_its_bootstrap_runs_under(right: Object) -> None:
    bootstrap = platform("bootstrap")
    assert not passes(_during_an_upgrade(WRONG, WRONG), bootstrap, WORLD, 5432)
    assert not passes(_during_an_upgrade(WRONG, WRONG), bootstrap, DNS, 53, "UDP")
    during = _during_an_upgrade(WRONG, right)
    assert passes(during, bootstrap, WORLD, 5432)
    assert passes(during, bootstrap, DNS, 53, "UDP")
    assert not passes(during, platform("scheduler"), WORLD, 5432)


def test_the_bootstrap_s_policy_is_there_before_its_job() -> None:
    found = objects("production")
    weights = [
        int(pick(found, kind, "evergreen-bootstrap")["metadata"]["annotations"]["helm.sh/hook-weight"])
        for kind in ("NetworkPolicy", "Job")
    ]
    assert weights[0] < weights[1]


def test_without_policies_a_trial_has_none() -> None:
    assert of_kind(parse(render({**TRIAL, "networkPolicies": {"enabled": False}})), "NetworkPolicy") == []
