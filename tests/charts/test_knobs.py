"""No dead knob: each setting changes what is rendered. No ghost knob: each that is read exists."""

from __future__ import annotations

import copy
import json
import re
from typing import Any

import pytest

from clusterfit.config.platform.resources import Resources
from clusterfit.config.schema import find_schema, walk_leaves
from clusterfit.config.stages import STAGES
from clusterfit.launch.charts import RUN_CHART, find_chart
from clusterfit.launch.helm import Values
from clusterfit.launch.manifests import Manifest

from .rendering import Render, deep_merge, load

KUEUE = {"queue": {"gang": "kueue", "name": "gpu"}}

# Another value for each setting, and what else must be set for it to mean anything.
CHANGES: dict[str, tuple[Any, Values]] = {
    "gpus": (32, {}),
    "gpusPerNode": (4, {}),
    "gpuResource": ("amd.com/gpu", {}),
    "nodesWithoutGpus": (3, {"gpus": 0}),
    "processesPerNode": (2, {}),
    "cpusPerNode": (4.5, {}),
    "memoryGibPerNode": (100, {}),
    "shmGibPerNode": (1.5, {}),
    "extraResources": ({"rdma/ib": "1"}, {}),
    "nodeSelector": ({"gpu": "h100"}, {}),
    "tolerations": ([{"key": "gpu", "operator": "Exists"}], {}),
    "affinity": ({"podAntiAffinity": {}}, {}),
    "deadlineSeconds": (3600, {}),
    "startDeadlineSeconds": (60, {}),
    "stages": ({"train": {"gpus": 8}}, {}),
    "image.repository": ("registry.example:5000/team/clusterfit", {}),
    "image.tag": ("v7", {}),
    "image.digest": ("sha256:" + "0a" * 32, {}),
    "image.pullPolicy": ("Always", {}),
    "image.pullSecrets": (["registry"], {}),
    "storage.claim": ("shared", {}),
    "storage.subPath": ("team/a", {}),
    "data.claim": ("images", {}),
    "data.subPath": ("in1k", {}),
    "queue.gang": ("volcano", {}),
    "queue.name": ("other", KUEUE),
    "queue.priorityClass": ("high", KUEUE),
    "queue.requiredTopology": ("topology.kubernetes.io/rack", KUEUE),
    "queue.preferredTopology": ("topology.kubernetes.io/rack", KUEUE),
    "sequencing.mode": ("client", {}),
    "sequencing.serviceAccount": ("runner", {}),
    "priorityClass": ("high", {}),
    "podUser.user": (2000, {}),
    "podUser.group": (2000, {}),
    "podUser.fsGroup": (0, {}),
    "podUser.supplementalGroups": ([3000], {}),
    "extraEnv": ([{"name": "FOO", "value": "1"}], {}),
    "nccl": ({"NCCL_DEBUG": "INFO"}, {}),
    "extraVolumes": (
        [{"name": "scratch", "mountPath": "/scratch", "source": {"emptyDir": {}}}],
        {},
    ),
    "capabilities": (["IPC_LOCK"], {}),
    "labels": ({"team": "vision"}, {}),
    "annotations": ({"note": "mine"}, {}),
    "networkPolicy": (True, {}),
    "ttlSecondsAfterFinished": (3600, {}),
    "overwriteToken": ("abc", {}),
}
PER_STAGE = [
    key for key in CHANGES if key in {field.alias for field in Resources.model_fields.values()}
]


def without_digest(manifests: list[Manifest]) -> str:
    """Blank out what changes with any value: the content's digest, and the rendezvous' name."""
    text = json.dumps(manifests, sort_keys=True)
    return re.sub(r"[0-9a-f]{64}|(?<=-)[0-9a-f]{12}(?=\")", "", text)


def place(path: str, value: Any) -> Values:
    for key in reversed(path.split(".")):
        value = {key: value}
    return {"platform": value}


def test_every_platform_setting_has_a_change_here() -> None:
    leaves = {".".join(leaf.path[1:]) for leaf in walk_leaves() if leaf.path[0] == "platform"}
    assert leaves == CHANGES.keys()
    assert {field.alias for field in Resources.model_fields.values()} == set(PER_STAGE)


@pytest.mark.parametrize("path", CHANGES)
def test_no_setting_of_platform_is_dead(path: str, values: Values, render: Render) -> None:
    other, context = CHANGES[path]
    before = deep_merge(values, {"platform": context})
    after = deep_merge(before, place(path, other))
    load(before), load(after)
    assert without_digest(render(before)) != without_digest(render(after))


@pytest.mark.parametrize("key", PER_STAGE)
@pytest.mark.parametrize("stage", ["extract", "cluster"])
def test_an_override_changes_its_stage_and_no_other(
    key: str, stage: str, values: Values, render: Render
) -> None:
    other, context = CHANGES[key]
    before = deep_merge(values, {"platform": context})
    after = deep_merge(before, {"platform": {"stages": {stage: {key: other}}}})
    load(after)
    changed = {
        item["metadata"]["labels"].get("clusterfit.dev/stage")
        for item, was in zip(by_name(render(after)), by_name(render(before)), strict=True)
        if without_digest([item]) != without_digest([was])
    }
    config_map_and_role = {None}
    assert changed - config_map_and_role <= {stage}
    assert changed


def by_name(manifests: list[Manifest]) -> list[Manifest]:
    # The clustering job's kind follows from its nodes, so kinds are no key here.
    kinds = {"Job": "PyTorchJob"}
    return sorted(
        manifests,
        key=lambda item: (kinds.get(item["kind"], item["kind"]), item["metadata"]["name"]),
    )


def test_templates_read_only_what_the_tree_has() -> None:
    templates = find_chart(RUN_CHART) / "templates"
    ghosts = []
    read = set()
    for path in sorted(templates.rglob("*.*")):
        text = path.read_text()
        for variable, root in ((r"\.Values", ()), (r"\$platform", ("platform",))):
            for match in re.finditer(rf"{variable}((?:\.[A-Za-z]+)+)", text):
                keys = (*root, *match.group(1).split(".")[1:])
                read.add(keys[0])
                if find_schema(keys) is None:
                    ghosts.append(f"{path.name}: {'.'.join(keys)}")
    assert not ghosts
    assert read == {"name", "stages", "platform"}, "of the algorithm the chart reads only these two"


def test_the_chart_overrides_exactly_what_the_tree_lets_override() -> None:
    text = (find_chart(RUN_CHART) / "templates" / "_stage.tpl").read_text()
    listed = re.search(r"range \$key := list(?P<keys>[^-]*) -\}\}", text)
    assert listed
    assert set(re.findall(r'"(\w+)"', listed["keys"])) == set(PER_STAGE)


@pytest.mark.parametrize("stage", STAGES[:-1])
@pytest.mark.parametrize(
    "platform",
    [
        {"gpus": 1}, {"gpus": 3}, {"gpus": 8}, {"gpus": 32},
        {"gpus": 0}, {"gpus": 0, "nodesWithoutGpus": 2, "processesPerNode": 2},
        {"gpus": 6, "gpusPerNode": 3}, {"gpus": 16, "stages": {"cluster": {"gpus": 16}}},
        {"gpus": 32, "stages": {"train": {"gpus": 4}, "cluster": {"gpusPerNode": 4}}},
        {"gpus": 4, "stages": {"extract": {"gpus": 0}, "cluster": {"processesPerNode": 4}}},
    ],
)  # fmt: skip
def test_chart_and_tree_agree_on_sizes(
    platform: Values, stage: str, values: Values, render: Render
) -> None:
    changed = copy.deepcopy(values) | {"stages": [stage], "platform": platform}
    resources = load(changed).platform.for_stage(stage)  # type: ignore[arg-type]
    config_map = next(item for item in render(changed) if item["kind"] == "ConfigMap")
    (planned,) = json.loads(config_map["data"]["plan.json"])["stages"]
    assert planned["nodes"] == resources.nodes
    assert planned["gpusPerPod"] == resources.gpus_per_pod
    assert planned["processesPerNode"] == resources.processes
    assert planned["nodes"] * planned["gpusPerPod"] == resources.gpus
