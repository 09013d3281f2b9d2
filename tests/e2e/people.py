"""People with fewer rights than the administrator's, each with a kubeconfig of their own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import yaml

from tests.cluster.commands import Kubectl
from tests.cluster.paths import CHECKOUT
from tests.e2e.product import Product

Rule = dict[str, Any]
RBAC = "rbac.authorization.k8s.io"


def read_team_rules() -> list[Rule]:
    """Return the rights that k8s/prerequisites gives to a member of the team."""
    text = (CHECKOUT / "k8s/prerequisites/namespace.yaml").read_text()
    (role,) = (item for item in yaml.safe_load_all(text) if item["kind"] == "Role")
    rules: list[Rule] = role["rules"]
    return rules


def make_supervisor_account(admin: Product) -> str:
    """Make the account of k8s/prerequisites for the supervisors of a namespace; return its name."""
    text = (CHECKOUT / "k8s/prerequisites/supervisor-account.yaml").read_text()
    text = text.replace("namespace: clusterfit\n", f"namespace: {admin.namespace.name}\n")
    made = list(yaml.safe_load_all(text))
    admin.namespace.kubectl.create(*made)
    return str(made[0]["metadata"]["name"])


def become(admin: Product, name: str, rules: Sequence[Rule]) -> Product:
    """Return a user of the same namespace and folder who has these rights there and no others."""
    kubectl, namespace = admin.namespace.kubectl, admin.namespace.name
    subject = {"kind": "ServiceAccount", "name": name, "namespace": namespace}
    role = {"apiGroup": RBAC, "kind": "Role", "name": name}
    kubectl.create(
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}},
        {
            "apiVersion": f"{RBAC}/v1",
            "kind": "Role",
            "metadata": {"name": name},
            "rules": list(rules),
        },
        {
            "apiVersion": f"{RBAC}/v1",
            "kind": "RoleBinding",
            "metadata": {"name": name},
            "roleRef": role,
            "subjects": [subject],
        },
    )
    return replace(admin, namespace=replace(admin.namespace, kubectl=log_in(admin, name)))


def log_in(admin: Product, account: str) -> Kubectl:
    """Return kubectl with a fresh token of a service account of the namespace."""
    kubectl = admin.namespace.kubectl
    token = kubectl("create", "token", account).strip()
    config = json.loads(kubectl("config", "view", "--raw", "--output=json"))
    (context,) = (item for item in config["contexts"] if item["name"] == config["current-context"])
    context["context"]["user"] = account
    config["users"] = [{"name": account, "user": {"token": token}}]
    path = admin.folder / f"{account}.kubeconfig"
    path.write_text(json.dumps(config))
    return Kubectl(path, kubectl.program, admin.namespace.name)


def read_rights(person: Kubectl, namespace: str) -> set[tuple[str, str, str]]:
    """Return all that somebody may do in a namespace, as the API server sees it.

    Resource, name of the only object (empty: any) and verb. What everybody may, to ask who one is,
    is left out.
    """
    review = {"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectRulesReview"}
    asked = json.dumps({**review, "spec": {"namespace": namespace}})
    said = person("create", "--validate=false", "--filename=-", "--output=json", stdin=asked)
    return {
        (resource, name, verb)
        for rule in json.loads(said)["status"]["resourceRules"]
        for resource in rule["resources"]
        for name in rule.get("resourceNames", [""])
        for verb in rule["verbs"]
        if not resource.startswith("selfsubject")
    }
