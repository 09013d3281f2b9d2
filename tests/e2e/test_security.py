"""Who may do what: the supervisor, the workers, the pods, and the policies that are offered.

No stage gets anywhere here: its pods ask for a node that does not exist.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from itertools import count
from typing import Any

import pytest

from tests.cluster.cluster import Cluster
from tests.cluster.commands import CommandError, Kubectl, wait_for
from tests.cluster.manifests import Object
from tests.e2e.digits import RUN
from tests.e2e.people import log_in, make_supervisor_account, read_rights
from tests.e2e.product import Product
from tests.e2e.remains import POLICY

NOWHERE = {"platform.nodeSelector": {"nowhere": "true"}}
EXTRACT, CLUSTER = f"pytorchjob/{RUN}-extract", f"job/{RUN}-cluster"


@pytest.fixture
def submitted(user: Product) -> Product:
    """A user whose step 1 has been submitted and waits for a node."""
    user.submit("step1", NOWHERE)
    user.wait_for_pods("extract", lambda pods: len(pods) == 2)
    return user


@pytest.fixture
def supervisor(submitted: Product) -> Kubectl:
    """What somebody could do who has the supervisor's token."""
    return log_in(submitted, f"{RUN}-step1-supervisor")


def patch(kubectl: Kubectl, job: str, change: dict[str, Any]) -> str:
    """Merge a change into a job, as the supervisor does."""
    return kubectl("patch", job, "--type=merge", f"--patch={json.dumps({'spec': change})}")


def mount_a_secret(submitted: Product, volume: str) -> dict[str, Any]:
    """Return the change that lets a stage show a secret to whatever it runs."""
    worker = submitted.namespace.kubectl.get(*EXTRACT.split("/"))["spec"]["pytorchReplicaSpecs"]
    changed = copy.deepcopy(worker)
    pod = changed["Worker"]["template"]["spec"]
    pod["volumes"].append({"name": volume, "secret": {"secretName": "password"}})
    return {"pytorchReplicaSpecs": changed}


def test_supervisor_may_do_what_it_must(supervisor: Kubectl) -> None:
    assert supervisor.get("pytorchjob", f"{RUN}-extract")["kind"] == "PyTorchJob"
    assert supervisor.get("pod", f"{RUN}-extract-worker-0")["kind"] == "Pod"
    assert "patched" in patch(supervisor, EXTRACT, {"runPolicy": {"suspend": True}})
    assert "patched" in patch(supervisor, CLUSTER, {"suspend": False})


def test_supervisor_may_do_nothing_else(submitted: Product, supervisor: Kubectl) -> None:
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "password"}}
    submitted.namespace.kubectl.create(secret)
    attempts = (
        "get secrets",
        "get secret password",
        "get configmaps",
        "get pods",
        "get pods --all-namespaces",
        f"get pod {RUN}-extract-worker-2",
        f"logs {RUN}-extract-worker-0",
        f"exec {RUN}-extract-worker-0 -- true",
        "get pytorchjobs",
        "get pytorchjob neighbour",
        f"get job {RUN}-step1-supervisor",
        f"delete {EXTRACT}",
        f"delete pod {RUN}-extract-worker-0",
        "create configmap mine",
        "create token default",
        "get roles",
    )
    for words in attempts:
        with pytest.raises(CommandError, match=r"Forbidden|forbidden"):
            supervisor(*words.split())
    assert read_rights(supervisor, submitted.namespace.name) == {
        *(("pytorchjobs", f"{RUN}-extract", verb) for verb in ("get", "patch")),
        *(("jobs", f"{RUN}-cluster", verb) for verb in ("get", "patch")),
        *(("pods", f"{RUN}-extract-worker-{node}", "get") for node in range(2)),
    }


def test_offered_policy_keeps_the_supervisor_from_mounting_a_secret(
    cluster: Cluster, submitted: Product, supervisor: Kubectl
) -> None:
    kubectl = cluster.kubectl  # ours: elsewhere the policy may be in force already
    theft = mount_a_secret(submitted, "stolen")
    # Why the policy is offered: without it the right to patch is enough.
    assert "patched" in patch(supervisor, EXTRACT, {**theft, "runPolicy": {"suspend": True}})
    own = patch(supervisor, EXTRACT, {"runPolicy": {"suspend": False}})
    assert "patched" in own
    submitted.succeed("submit", "step1", "-f", submitted.write(NOWHERE), "--replace")
    kubectl("apply", f"--filename={POLICY}")
    try:
        attempts = count()

        def attempt() -> str:
            # One that got through before the policy was in force would leave nothing to change.
            theft = mount_a_secret(submitted, f"stolen-{next(attempts)}")
            try:
                return patch(log_in(submitted, f"{RUN}-step1-supervisor"), EXTRACT, theft)
            except CommandError as error:
                return error.output

        refusal = "the supervisor may not change what a stage runs"
        wait_for("the policy is in force", attempt, lambda said: refusal in said)
        # A release's own, and the one that is offered to those who may not make Roles.
        accounts = (f"{RUN}-step1-supervisor", make_supervisor_account(submitted))
        renewed = [log_in(submitted, account) for account in accounts]
        for each in renewed:
            assert "patched" in patch(each, EXTRACT, {"runPolicy": {"suspend": True}})
            for change in (
                {"spec": {"nodeSelector": {"nowhere": "false"}}},
                {"metadata": {"annotations": {"injector": "enabled"}}},
            ):
                with pytest.raises(CommandError, match=refusal):
                    patch(each, CLUSTER, {"template": change})
        for each in renewed:
            assert "patched" in patch(each, CLUSTER, {"suspend": False})
        # The policy is the supervisor's alone.
        assert "patched" in patch(submitted.namespace.kubectl, EXTRACT, theft)
    finally:
        kubectl("delete", f"--filename={POLICY}")


def test_only_the_supervisor_has_a_token(submitted: Product) -> None:
    submitted.wait_for_pods("", lambda pods: len(pods) == 1, role="supervisor")
    pods = submitted.namespace.kubectl.get("pods", f"--selector=clusterfit.dev/run={RUN}")["items"]
    with_token = {
        pod["metadata"]["labels"]["app.kubernetes.io/component"]
        for pod in pods
        if any("projected" in volume or "secret" in volume for volume in pod["spec"]["volumes"])
    }
    assert {pod["metadata"]["labels"]["app.kubernetes.io/component"] for pod in pods} == {
        "worker", "supervisor",
    }  # fmt: skip
    assert with_token == {"supervisor"}


def test_restricted_refuses_none_of_our_pods_and_would_refuse_a_privileged_one(
    user: Product,
) -> None:
    run_file = user.write()
    rendered = json.loads(user.succeed("render", "pipeline", "-f", run_file, "-o", "json").stdout)
    specs = list(pod_specs(rendered["items"]))
    assert len(specs) == 7  # five stages, the supervisor, the pod of `put` and `get`
    for spec in specs:
        assert try_pod(user, spec) == ""
    # An account's token would be mounted in a pod that does not say no.
    assert [spec.get("automountServiceAccountToken") for spec in specs].count(False) == 6
    privileged: list[Object] = [
        {"privileged": True, "allowPrivilegeEscalation": True},
        {"runAsUser": 0},
        {"capabilities": {"drop": []}},
    ]
    for change in privileged:
        variant = copy.deepcopy(specs[0])
        variant["containers"][0]["securityContext"].update(change)
        assert 'violates PodSecurity "restricted' in try_pod(user, variant)


def pod_specs(manifests: list[Object]) -> Iterator[Object]:
    """Yield the spec of every pod that a release makes, without accounts that are not there yet."""
    for manifest in manifests:
        spec = manifest.get("spec", {})
        if manifest["kind"] == "PyTorchJob":
            yield spec["pytorchReplicaSpecs"]["Worker"]["template"]["spec"]
        elif manifest["kind"] == "Job":
            pod = spec["template"]["spec"]
            yield {key: value for key, value in pod.items() if key != "serviceAccountName"}
        elif manifest["kind"] == "ConfigMap":
            yield json.loads(manifest["data"]["files-pod.json"])["spec"]


def try_pod(user: Product, spec: Object) -> str:
    """Return why the cluster refuses a pod; nothing where it does not."""
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "tried"}, "spec": spec}
    try:
        user.namespace.kubectl(
            "create", "--dry-run=server", "--validate=strict", "--filename=-", stdin=json.dumps(pod)
        )
    except CommandError as error:
        return error.output
    return ""


def test_network_policy_is_valid_and_selects_exactly_the_releases_pods(user: Product) -> None:
    run_file = user.write({**NOWHERE, "platform.networkPolicy": True})
    tried = user.succeed("submit", "step1", "-f", run_file, "--dry-run=server").stdout
    assert f"NetworkPolicy   {RUN}-step1" in tried
    user.succeed("submit", "step1", "-f", run_file)
    user.wait_for_pods("extract", lambda pods: len(pods) == 2)
    user.wait_for_pods("", lambda pods: len(pods) == 1, role="supervisor")
    policy = user.namespace.kubectl.get("networkpolicy", f"{RUN}-step1")["spec"]
    assert policy["policyTypes"] == ["Ingress"]
    (rule,) = policy["ingress"]
    (peer,) = rule["from"]
    assert peer == {"podSelector": policy["podSelector"]}
    labels = ",".join(f"{key}={value}" for key, value in policy["podSelector"][
        "matchLabels"].items())  # fmt: skip
    stranger = user.namespace.pod("stranger", ["true"])
    stranger["metadata"]["labels"] = {
        "app.kubernetes.io/name": "clusterfit", "app.kubernetes.io/instance": "another",
    }  # fmt: skip
    user.namespace.kubectl.create(stranger)
    selected = user.namespace.kubectl("get", "pods", f"--selector={labels}", "--output=name")
    assert len(selected.split()) == 3
    assert "stranger" not in selected
