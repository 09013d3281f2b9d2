"""The manifests for people who only have kubectl: judged by schemas, by the server, and created."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.cluster import programs
from tests.cluster.cluster import Cluster
from tests.cluster.commands import CommandError, Kubectl, run, wait_for
from tests.cluster.kubeconform import Kubeconform
from tests.cluster.paths import CHECKOUT, Cache
from tests.e2e.remains import sign

K8S = CHECKOUT / "k8s"
GOLDEN = sorted((K8S / "manifests").glob("*.yaml"))
NAMESPACE = "clusterfit"
# Of what it only warns of, the server says that it has accepted it.
TRY = ("apply", "--dry-run=server", "--validate=strict", "--warnings-as-errors")
CLUSTERFIT = Path(sys.executable).with_name("clusterfit")


@pytest.fixture(scope="module")
def team(cluster: Cluster) -> Iterator[Kubectl]:
    """The namespace of k8s/prerequisites, made as its README says.

    Only in a cluster of our own: elsewhere somebody may work in a namespace of that name.
    """
    kubectl = cluster.kubectl
    try:
        kubectl(
            "apply",
            f"--filename={K8S / 'prerequisites/namespace.yaml'}",
            f"--filename={K8S / 'prerequisites/claim.yaml'}",
        )
        sign(kubectl, NAMESPACE)
        yield Kubectl(kubectl.kubeconfig, kubectl.program, NAMESPACE)
    finally:
        kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found", timeout_seconds=180)


@pytest.fixture(scope="module")
def kubeconform(kubectl: Kubectl, tmp_path_factory: pytest.TempPathFactory) -> Kubeconform:
    return Kubeconform(Cache.from_environment(), kubectl, tmp_path_factory.mktemp("schemas"))


def count(path: Path) -> int:
    return sum(item is not None for item in yaml.safe_load_all(path.read_text()))


def test_there_are_golden_manifests() -> None:
    assert len(GOLDEN) == 11


def test_kubeconform_accepts_all(kubeconform: Kubeconform) -> None:
    files = [*GOLDEN, *(K8S / "prerequisites").glob("[!k]*.yaml")]  # Kueue's kinds: with Kueue
    wanted = {"valid": sum(map(count, files)), "invalid": 0, "errors": 0, "skipped": 0}
    assert kubeconform(*files) == wanted


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("nprocPerNode:", "nprocsPerNode:"),
        ("parallelism: 1", "parallelism: one"),
        ("enableServiceLinks:", "enableServicelinks:"),
    ],
)
def test_kubeconform_would_refuse(
    kubeconform: Kubeconform, tmp_path: Path, right: str, wrong: str
) -> None:
    text = (K8S / "manifests/imagenet-step1-8gpu.yaml").read_text()
    assert right in text
    wrong_file = tmp_path / "wrong.yaml"
    wrong_file.write_text(text.replace(right, wrong))
    with pytest.raises(CommandError, match="statusInvalid"):
        kubeconform(wrong_file)


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_the_server_accepts_every_object(team: Kubectl, path: Path) -> None:
    said = team(*TRY, f"--filename={path}")
    assert len(said.splitlines()) == count(path), said


def test_what_the_server_only_warns_of_would_be_refused(team: Kubectl, tmp_path: Path) -> None:
    text = (K8S / "manifests/imagenet-step1-8gpu.yaml").read_text()
    assert "runAsNonRoot: true" in text
    warned_of = tmp_path / "warned-of.yaml"
    warned_of.write_text(text.replace("runAsNonRoot: true", "runAsNonRoot: false"))
    with pytest.raises(CommandError, match="would violate PodSecurity"):
        team(*TRY, f"--filename={warned_of}")


def test_the_namespace_refuses_a_privileged_pod(team: Kubectl) -> None:
    container = {"name": "main", "image": "any", "securityContext": {"privileged": True}}
    named = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "privileged"}}
    pod = {**named, "spec": {"containers": [container]}}
    with pytest.raises(CommandError, match='violates PodSecurity "restricted'):
        team("create", "--dry-run=server", "--filename=-", stdin=json.dumps(pod))


def test_created_with_kubectl_it_is_a_run_like_any_other(team: Kubectl, tmp_path: Path) -> None:
    text = (K8S / "manifests/imagenet-step1-8gpu.yaml").read_text()
    assert 'cpu: "64"' in text
    manifest = tmp_path / "imagenet.yaml"
    manifest.write_text(text.replace('cpu: "64"', 'cpu: "4096"'))
    team("create", f"--filename={manifest}")
    access = [f"--kubeconfig={team.kubeconfig}", f"--namespace={NAMESPACE}"]
    status: list[str | Path] = [CLUSTERFIT, "status", "imagenet", *access]
    said = wait_for("status names the cause", lambda: run(status), lambda out: "no node" in out)
    assert "imagenet-extract-worker-0: no node has 4096 cpu" in said
    assert "cluster: waits for extract" in said
    deleted = run([CLUSTERFIT, "delete", "imagenet", *access])
    assert "deleted imagenet-step1" in deleted
    kinds = "pytorchjobs,jobs,pods,configmaps,serviceaccounts,roles,rolebindings"
    assert team("get", kinds, "--selector=clusterfit.dev/run", "--output=name") == ""
    assert "Bound" in team("get", "pvc", "clusterfit")


def test_removed_with_kubectl_alone(team: Kubectl) -> None:
    team("create", f"--filename={K8S / 'manifests/imagenet-step1-8gpu.yaml'}")
    begin = f"    kubectl -n {NAMESPACE} "
    lines = (K8S / "README.md").read_text().splitlines()
    (command,) = (line.removeprefix(begin) for line in lines if line.startswith(begin))
    team(*command.split())
    everything = "pytorchjobs,jobs,configmaps,serviceaccounts,roles,rolebindings,networkpolicies"
    assert team("get", everything, "--selector=clusterfit.dev/run", "--output=name") == ""


def test_every_helm_renders_the_same_bytes(cluster: Cluster, tmp_path: Path) -> None:
    programs.build(cluster.cache, programs.HELM_3, programs.HELM_4)
    command: list[str | Path] = [CLUSTERFIT, "render", "pipeline", "--gpus=32", "--namespace=team"]
    command += [f"--file={CHECKOUT / 'examples/imagenet.yaml'}"]
    rendered = {}
    for name, helm in {
        "helm3": programs.HELM_3,
        "helm4": programs.HELM_4,
        "bundled": None,
    }.items():
        folder = tmp_path / name
        folder.mkdir()
        if helm is not None:
            (folder / "helm").symlink_to(helm.path(cluster.cache))
        assert shutil.which("helm", path=str(folder)) is not None or helm is None
        rendered[name] = run(command, env={"PATH": str(folder)})
    assert rendered["helm3"] == rendered["helm4"] == rendered["bundled"]
    assert rendered["bundled"].count("kind: PyTorchJob") == 2
