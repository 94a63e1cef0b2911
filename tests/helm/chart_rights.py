"""What the rendered Roles let each ServiceAccount do, beside what it really asks the Kubernetes API for."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import kmock
from chart_rendering import Object, of_kind, pick

DISCOVERY = ("/api", "/apis", "/version")
"""What every account may read in every cluster (ClusterRole system:discovery)."""


class Right(NamedTuple):
    """What one request needs, in the words of a Role."""

    namespace: str
    verb: str
    group: str
    resource: str
    """With its subresource, as in ``pods/log``."""


def granted(found: list[Object], account: str) -> set[Right]:
    """Return what the RoleBindings of a chart give to the ServiceAccount of a name."""
    rights = set()
    for binding in of_kind(found, "RoleBinding"):
        namespace = binding["metadata"]["namespace"]
        for subject in binding["subjects"]:
            if subject["name"] == account:
                rights |= _rights(pick(found, "Role", binding["roleRef"]["name"]), namespace)
    return rights


def _rights(role: Object, namespace: str) -> set[Right]:
    assert role["metadata"]["namespace"] == namespace, "a Role is looked for in the namespace of its binding"
    return {
        Right(namespace, verb, group, resource)
        for rule in role["rules"]
        for verb in rule["verbs"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }


def disagreements(found: list[Object], needed: dict[str, set[Right]]) -> list[str]:
    """What an account asks for and may not, and what it may and does not ask for."""
    accounts = {subject["name"] for one in of_kind(found, "RoleBinding") for subject in one["subjects"]}
    return [
        f"{account} {verdict} {right.verb} {right.resource}"
        for account in sorted(accounts | set(needed))
        for may, does in [(granted(found, account), needed.get(account, set()))]
        for verdict, rights in (("may not", does - may), ("need not", may - does))
        for right in sorted(rights)
    ]


def asked(requests: Iterable[kmock.Request]) -> dict[str, set[Right]]:
    """Return what requests need, by the token that they carry; those without one are the test's own."""
    needed: dict[str, set[Right]] = {}
    for request in requests:
        account = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if not account:
            continue
        if request.resource is not None and request.resource.plural:
            needed.setdefault(account, set()).add(_need(request))
        else:
            assert request.url.path.startswith(DISCOVERY), request.url.path
    return needed


def _need(request: kmock.Request) -> Right:
    """Translate a request as the API server does before it authorizes it."""
    watches = (request.params or {}).get("watch", "").lower() in {"true", "1"}
    verbs = {
        "GET": "get" if request.name else "watch" if watches else "list",
        "POST": "create",
        "PUT": "update",
        "PATCH": "patch",
        "DELETE": "delete" if request.name else "deletecollection",
    }
    resource = "/".join(filter(None, (request.resource.plural, request.subresource)))
    return Right(request.namespace or "", verbs[request.method.value.upper()], request.resource.group or "", resource)
