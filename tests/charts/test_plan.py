"""What `clusterfit plan` says of pods is what the chart renders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from clusterfit.config.forecast.figures import Pods
from clusterfit.config.forecast.run import forecast_run
from clusterfit.launch.helm import Helm
from clusterfit.launch.manifests import Manifest
from clusterfit.launch.render import render_run
from clusterfit.launch.submission import load_submission

EXAMPLES = Path(__file__).parents[2] / "examples"
COUNTS = {"train": 1_281_167, "val": 50_000}
UNITS = {"Gi": 1.0, "Mi": 1 / 1024}


def read_pods(manifest: Manifest) -> dict[str, Any]:
    """Return what a job asks for, in a plan's words."""
    spec = manifest["spec"]
    is_gang = manifest["kind"] == "PyTorchJob"
    replicas = spec["pytorchReplicaSpecs"]["Worker"] if is_gang else spec
    pod = replicas["template"]["spec"]
    (container,) = pod["containers"]
    requests, limits = container["resources"]["requests"], container["resources"]["limits"]
    (shm,) = (volume["emptyDir"] for volume in pod["volumes"] if volume["name"] == "shm")
    environment = {variable["name"]: variable.get("value") for variable in container["env"]}
    processes = spec["nprocPerNode"] if is_gang else environment["PET_NPROC_PER_NODE"]
    assert requests["memory"] == limits["memory"]
    return {
        "count": replicas["replicas"] if is_gang else 1,
        "processes": int(processes),
        "gpus": int(requests.get("nvidia.com/gpu", 0)),
        "cpus": read_cpus(requests["cpu"]),
        "memory_gib": read_gib(requests["memory"]),
        "shm_gib": read_gib(shm["sizeLimit"]),
    }


def read_cpus(text: str) -> float:
    return float(text.removesuffix("m")) / (1000 if text.endswith("m") else 1)


def read_gib(text: str) -> float:
    return float(text[:-2]) * UNITS[text[-2:]]


@pytest.mark.parametrize("name", ["digits", "imagenet", "rotnet"])
@pytest.mark.parametrize("gpus", [0, 1, 4, 8, 32])
def test_pods_and_requests_are_those_of_the_objects(helm: Helm, name: str, gpus: int) -> None:
    cpu = ['device="cpu"'] if gpus == 0 else []
    run = load_submission("pipeline", [EXAMPLES / f"{name}.yaml"], cpu, gpus)
    manifests = render_run(helm, run, "somewhere").manifests
    jobs = {
        item["metadata"]["labels"]["clusterfit.dev/stage"]: item
        for item in manifests
        if "clusterfit.dev/stage" in item["metadata"]["labels"]
        and item["kind"] in {"Job", "PyTorchJob"}
    }
    # Enough images for any of these batches.
    planned = {stage.stage: stage.pods for stage in forecast_run(run, COUNTS)}
    assert planned.keys() == jobs.keys()
    for stage, pods in planned.items():
        assert describe(pods) == pytest.approx(read_pods(jobs[stage])), stage


def describe(pods: Pods) -> dict[str, Any]:
    return {
        "count": pods.count,
        "processes": pods.processes,
        "gpus": pods.gpus,
        "cpus": pods.cpus,
        "memory_gib": pods.memory_gib,
        "shm_gib": pods.shm_gib,
    }
