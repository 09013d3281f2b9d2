"""The doors into a cluster: `clusterfit submit`, and `helm install` alone.

The door that needs none, `clusterfit run`, is the reference for both.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from itertools import pairwise

import pytest

from clusterfit.artifacts.layout import RunDirectory
from clusterfit.logline import parse_line
from tests.cluster.commands import wait_for
from tests.cluster.manifests import Object, phase
from tests.cluster.namespace import STORAGE_CLAIM
from tests.cluster.paths import CHECKOUT
from tests.e2e.artifacts import (
    check_same_results,
    check_same_step1,
    check_same_training,
    check_whole,
)
from tests.e2e.digits import RUN, RUN_FILE
from tests.e2e.helm import RUN_CHART, helm
from tests.e2e.product import Product

pytestmark = pytest.mark.core

# Step 1 with the reference's network: everything after it is comparable.
SAME_WEIGHTS = {"extract.weights": {"from": "path", "path": "weights/pretext.safetensors"}}


RELEASE = "of-an-administrator"
"""A name that says nothing of the run."""


def put_weights(product: Product, reference: RunDirectory) -> None:
    """Bring the reference's pre-trained network onto the storage claim."""
    product.put(reference.backbone("pretext"), "storage:weights/pretext.safetensors")


def started(pod: Object) -> str:
    """When a pod was made; the time of a stage's first one is when it was released."""
    return str(pod["metadata"]["creationTimestamp"])


def ended(pod: Object) -> str:
    """When a pod's container ended well."""
    end = pod["status"]["containerStatuses"][0]["state"]["terminated"]
    assert end["exitCode"] == 0
    return str(end["finishedAt"])


def test_pipeline_is_submitted_and_its_stages_run_in_order(
    product: Product, reference: RunDirectory
) -> None:
    stages = RUN_FILE["stages"]
    answer = product.submit("pipeline")
    assert answer.stdout.startswith(f"submitted {RUN}-pipeline to namespace")
    product.wait_for_success(*stages)
    assert product.succeed("wait", RUN).stdout == ""

    pods = {stage: product.pods(stage) for stage in stages}
    assert {stage: len(found) for stage, found in pods.items()} == dict(
        zip(stages, (2, 2, 1, 2, 2), strict=True)
    )
    for before, after in pairwise(stages):
        assert max(map(ended, pods[before])) <= min(map(started, pods[after]))
    supervisor, = product.wait_for_pods(
        "", lambda pods: [pod["status"]["phase"] for pod in pods] == ["Succeeded"],
        role="supervisor",
    )  # fmt: skip
    assert "over" in product.log(supervisor["metadata"]["name"])
    code, said = product.status()
    assert (code, {stage: item["phase"] for stage, item in said.items()}) == (
        0, dict.fromkeys(stages, "succeeded"),
    )  # fmt: skip

    # In an image without a compiler k-means would fall back to slower loops, and say no more.
    assert "loops: compiled by " in product.log(pods["cluster"][0]["metadata"]["name"])
    ours = product.fetch()
    check_whole(ours)
    check_same_training(ours, reference, "pretext")
    check_same_step1(ours, reference)
    check_same_training(ours, reference, "train")
    versions = json.loads(ours.run_file.read_text())["versions"]
    lock = (CHECKOUT / "requirements" / "gpu.lock").read_text()
    locked = set(re.findall(r"^([\w-]+)==(\S+)", lock, re.MULTILINE))
    for name in ("torch", "torchvision", "numpy", "safetensors", "faiss-gpu-cuvs"):
        assert (name, versions[name]) in locked
    check_same_results(ours, reference)


def test_step1_and_step2_are_submitted_one_after_the_other(
    product: Product, reference: RunDirectory
) -> None:
    put_weights(product, reference)
    product.submit("step1", SAME_WEIGHTS)
    product.wait_for_success("extract", "cluster")
    product.submit("step2", SAME_WEIGHTS)
    product.wait_for_success("train")
    ours = product.fetch()
    check_whole(ours)
    check_same_step1(ours, reference)
    listed = json.loads(product.succeed("list", "--output=json").stdout)
    assert [(item["release"], item["phase"]) for item in listed] == [
        (f"{RUN}-step1", "succeeded"),
        (f"{RUN}-train", "succeeded"),
    ]
    # To whoever asks they are one run.
    code, stages = product.status()
    assert (code, [(stage, item["phase"]) for stage, item in stages.items()]) == (
        0, [(stage, "succeeded") for stage in ("extract", "cluster", "train")],
    )  # fmt: skip
    assert product.succeed("wait", RUN).stdout == ""
    deleted = product.succeed("delete", RUN).stdout.splitlines()
    results = f"its results stay on the claim, below {RUN}"
    assert deleted == [f"deleted {RUN}-{step}; {results}" for step in ("step1", "train")]
    wait_until_nothing_is_left(product)


def test_step1_is_installed_by_helm_alone_and_its_results_stay(
    product: Product, reference: RunDirectory
) -> None:
    put_weights(product, reference)
    run_file = product.write({**SAME_WEIGHTS, "stages": ["extract", "cluster"]})
    install = ("install", RELEASE, RUN_CHART, "-f", run_file)
    assert f"clusterfit status {RUN}" in helm(product, *install)
    with product.begin("logs", RUN, "--follow") as follow:
        product.wait_for_success("extract", "cluster")
        followed = follow.wait(60).expect(0)
    lines = [fields for fields in map(parse_line, followed.stdout.splitlines()) if fields]
    finished = [fields["stage"] for fields in lines if fields.get("msg") == "finished"]
    assert list(dict.fromkeys(finished)) == ["extract", "cluster"]  # extract: for each partition
    extract, cluster = (product.pods(stage) for stage in ("extract", "cluster"))
    assert max(map(ended, extract)) <= min(map(started, cluster))
    _, stages = product.status()
    assert {stage: (item["release"], item["phase"]) for stage, item in stages.items()} == {
        "extract": (RELEASE, "succeeded"), "cluster": (RELEASE, "succeeded"),
    }  # fmt: skip
    (listed,) = json.loads(product.succeed("list", "--output=json").stdout)
    assert (listed["run"], listed["release"], listed["phase"]) == (RUN, RELEASE, "succeeded")

    tested = helm(product, "test", RELEASE, "--logs")
    assert "ok: storage claim: written, synced, renamed, linked and read back" in tested
    assert "ok: data claim: 1 entries, read-only" in tested
    assert re.search("ok: libraries: torch [0-9.]+.*, faiss [0-9.]+", tested)
    selftest = product.namespace.kubectl.get("pod", f"{RELEASE}-test")
    (worker, _) = product.pods("extract")
    assert selftest["spec"]["securityContext"] == worker["spec"]["securityContext"]

    helm(product, "uninstall", RELEASE)
    product.namespace.kubectl("delete", "pod", f"{RELEASE}-test")  # which Helm leaves
    wait_until_nothing_is_left(product)
    claim = product.namespace.kubectl.get("pvc", STORAGE_CLAIM)
    assert claim["status"]["phase"] == "Bound"
    assert "deletionTimestamp" not in claim["metadata"]
    ours = product.fetch()
    check_whole(ours)
    check_same_step1(ours, reference)

    helm(product, *install)
    assert helm_records(product)
    assert f"deleted {RELEASE}; its results stay" in product.succeed("delete", RUN).stdout
    wait_until_nothing_is_left(product)
    assert helm_records(product) == ""
    assert RELEASE not in helm(product, "list")


def helm_records(product: Product) -> str:
    """Return the names of the secrets in which Helm keeps what it has installed."""
    selector = f"--selector=owner=helm,name={RELEASE}"
    return product.namespace.kubectl("get", "secrets", selector, "--output=name")


def wait_until_nothing_is_left(product: Product) -> None:
    """Wait until no object of the run is left."""
    wait_for(
        "nothing of the release is left",
        lambda: product.namespace.kubectl(
            "get", "pytorchjobs,jobs,pods,configmaps,roles,serviceaccounts",
            f"--selector=clusterfit.dev/run={RUN}", "--output=name",
        ),
        lambda names: not names,
    )  # fmt: skip


def test_image_runs_as_nobody_in_particular_and_compiles(user: Product) -> None:
    """As any pod may run it, and not only ours, which name a user."""
    namespace = replace(user.namespace, image=user.image)
    look = (
        "import os, pathlib, shutil, sysconfig\n"
        "header = pathlib.Path(sysconfig.get_path('include'), 'Python.h')\n"
        "print(os.getuid(), header.exists(), bool(shutil.which('g++')))\n"
    )
    pod = namespace.pod("image", ["python", "-c", look])
    for key in ("runAsUser", "runAsGroup", "fsGroup"):
        del pod["spec"]["securityContext"][key]
    namespace.kubectl.create(pod)
    namespace.wait_for_pod("image", lambda pod: phase(pod) in ("Succeeded", "Failed"))
    assert namespace.kubectl("logs", "image") == "1000 True True\n"
