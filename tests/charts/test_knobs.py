"""No dead knob: each setting is where Kubernetes reads it. No ghost knob: what is read exists."""

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

from .changes import (
    CHANGES,
    DIGEST,
    KUEUE,
    PLANNED_ALONE,
    READ_BY_OTHERS,
    SCHEDULING,
    SCRATCH,
    look_up,
)
from .rendering import Render, deep_merge, find, load, read_plan

SECRET: Values = {"secretKeyRef": {"name": "team", "key": "token"}}
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
    change = CHANGES[path]
    before = deep_merge(values, {"platform": change.context})
    after = deep_merge(before, place(path, change.value))
    load(before), load(after)
    # What only the plan or the pod of `put` and `get` has, both in the ConfigMap, binds no worker.
    is_kept = path in PLANNED_ALONE
    was, now = (
        without_digest([item for item in render(each) if is_kept or item["kind"] != "ConfigMap"])
        for each in (before, after)
    )
    assert was != now


@pytest.mark.parametrize("path", [path for path in CHANGES if path not in READ_BY_OTHERS])
def test_a_setting_is_where_kubernetes_reads_it(path: str, values: Values, render: Render) -> None:
    change = CHANGES[path]
    two = {**values, "stages": ["extract", "cluster"]}
    before = render(deep_merge(two, {"platform": change.context}))
    platform = deep_merge({"platform": change.context}, place(path, change.value))
    after = render(deep_merge(two, platform))
    assert change.both or change.gang
    differences = 0
    for kind, stage, own in (
        ("PyTorchJob", "extract", change.gang),
        ("Job", "cluster", change.single),
    ):
        for where, wanted in {**change.both, **own}.items():
            found = look_up(find(after, kind, f"digits-{stage}"), where)
            assert found == wanted, f"{stage}: {where}"
            differences += found != look_up(find(before, kind, f"digits-{stage}"), where)
    assert differences, "the default would have passed as well"


@pytest.mark.parametrize(
    ("platform", "where", "wanted"),
    [
        (
            {"extraEnv": [{"name": "KEY", "valueFrom": SECRET}]},
            "env KEY",
            {"name": "KEY", "valueFrom": SECRET},
        ),
        (
            {"extraVolumes": [{**SCRATCH, "readOnly": False, "source": {"emptyDir": {}}}]},
            "mounts /scratch readOnly",
            False,
        ),
        (
            {"image": {"repository": "registry.example/x", "tag": "v7", "digest": DIGEST}},
            "container image",
            f"registry.example/x:v7@{DIGEST}",
        ),
    ],
)
@pytest.mark.parametrize("is_complete", [False, True])
def test_another_way_to_say_it_is_where_kubernetes_reads_it(
    platform: Values, where: str, wanted: Any, is_complete: bool, values: Values, render: Render
) -> None:
    changed = {**deep_merge(values, {"platform": platform}), "stages": ["extract", "cluster"]}
    manifests = render(load(changed).dump() if is_complete else changed)
    for kind, stage in (("PyTorchJob", "extract"), ("Job", "cluster")):
        assert look_up(find(manifests, kind, f"digits-{stage}"), where) == wanted


@pytest.mark.parametrize(
    ("queue", "wanted"),
    [
        ({"gang": "none"}, None),
        ({"gang": "coscheduling"}, {"minAvailable": 2}),
        ({"gang": "volcano", "name": "research"}, {"minAvailable": 2, "queue": "research"}),
        (KUEUE["queue"], None),
    ],
)
def test_a_gang_scheduler_is_told_how_many_belong_together(
    queue: Values, wanted: Values | None, values: Values, render: Render
) -> None:
    manifests = render(deep_merge(values, {"platform": {"queue": queue}}))
    assert look_up(find(manifests, "PyTorchJob", "digits-extract"), SCHEDULING) == wanted


@pytest.mark.parametrize("key", ["deadlineSeconds", "startDeadlineSeconds"])
def test_bounds_are_in_the_plan_that_the_supervisor_reads(
    key: str, values: Values, render: Render
) -> None:
    bounds = {key: 5, "stages": {"extract": {key: 7}}}
    plan = read_plan(render(deep_merge(values, {"platform": bounds})))
    wanted = {"pretext": 5, "extract": 7, "cluster": 5, "train": 5}
    assert {stage["stage"]: stage[key] for stage in plan["stages"]} == wanted


@pytest.mark.parametrize("key", PER_STAGE)
@pytest.mark.parametrize("stage", ["extract", "cluster"])
def test_an_override_changes_its_stage_and_no_other(
    key: str, stage: str, values: Values, render: Render
) -> None:
    change = CHANGES[key]
    before = deep_merge(values, {"platform": change.context})
    after = deep_merge(before, {"platform": {"stages": {stage: {key: change.value}}}})
    load(after)
    changed = {
        item["metadata"]["labels"].get("clusterfit.dev/stage", item["kind"])
        for item, was in zip(by_name(render(after)), by_name(render(before)), strict=True)
        if without_digest([item]) != without_digest([was])
    }
    # The plan says it too, and the supervisor's rights follow from the pods that there are.
    assert changed - {"ConfigMap", "Role"} == (set() if key in PLANNED_ALONE else {stage})


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
