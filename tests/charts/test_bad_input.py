"""What is wrong is refused before it is sent: by the tree, and by bare Helm where it can see it."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from clusterfit.config.platform.pods import RESERVED_ENV, RESERVED_VOLUMES
from clusterfit.config.platform.tree import RESERVED_LABEL_PREFIXES
from clusterfit.errors import ConfigError
from clusterfit.launch.charts import RUN_CHART, find_chart
from clusterfit.launch.helm import HelmError, HelmLibrary, Values
from clusterfit.launch.render import render_run
from clusterfit.launch.submission import check_for_cluster, find_remarks

from .changes import view_job
from .rendering import Render, deep_merge, find, load

NEWER = {"formatVersion": 2}
SCRATCH = {"name": "scratch", "mountPath": "/scratch", "source": {"emptyDir": {}}}

# What both must refuse, and a word of each one's message.
WRONG: dict[str, tuple[Values, str, str]] = {
    "a newer format": (NEWER, "formatVersion", "formatVersion"),
    "a name of 60 characters": ({"name": "n" * 60}, "40 characters", "maxLength"),
    "an upper-case name": ({"name": "Digits"}, "pattern", "name"),
    "a name with a dot": ({"name": "a.b"}, "pattern", "name"),
    "a misspelt key": ({"platform": {"gpu": 8}}, "gpu", "'gpu' not allowed"),
    "a number as text": ({"platform": {"gpus": "8"}}, "gpus", "got string"),
    "gpus that do not fill nodes": (
        {"platform": {"gpus": 12}}, "the nearest are 8 and 16", "the nearest are 8 and 16",
    ),
    "one stage's gpus that do not": (
        {"platform": {"stages": {"train": {"gpus": 12}}}}, "nearest are 8 and 16", "stage train",
    ),
    "a stage that is none": (
        {"platform": {"stages": {"step1": {"gpus": 8}}}}, "step1", "step1",
    ),
    "more shared memory than memory": (
        {"platform": {"shmGibPerNode": 300}}, "shmGibPerNode", "shmGibPerNode",
    ),
    "the GPUs asked for twice": (
        {"platform": {"extraResources": {"nvidia.com/gpu": "1"}}},
        "what gpus asks for", "what gpus asks for",
    ),
    "an image with a space": (
        {"platform": {"image": {"repository": "my image"}}}, "repository", "/platform/image/repo",
    ),
    "a tag with a space": (
        {"platform": {"image": {"tag": "v 1"}}}, "image.tag", "/platform/image/tag",
    ),
    "a label with a line end": (
        {"platform": {"labels": {"team": "a\nb"}}}, "labels.team", "/platform/labels/team",
    ),
    "a label of ours": (
        {"platform": {"labels": {"clusterfit.dev/run": "x"}}}, "set by", "set by clusterfit",
    ),
    "a variable of torchrun's": (
        {"platform": {"extraEnv": [{"name": "PET_NNODES", "value": "1"}]}},
        "set by clusterfit", "set by clusterfit",
    ),
    "a variable given twice": (
        {"platform": {"nccl": {"NCCL_DEBUG": "INFO"}, "extraEnv": [{"name": "NCCL_DEBUG"}]}},
        "given twice", "given twice",
    ),
    "a variable with two values": (
        {"platform": {"extraEnv": [{"name": "A", "value": "1", "valueFrom": {"fieldRef": {}}}]}},
        "both value and valueFrom", "both value and valueFrom",
    ),
    "a variable that is not NCCL's": ({"platform": {"nccl": {"FOO": "1"}}}, "FOO", "FOO"),
    "a volume of ours": (
        {"platform": {"extraVolumes": [SCRATCH | {"name": "data"}]}},
        "take another", "take another",
    ),
    "a mount over ours": (
        {"platform": {"extraVolumes": [SCRATCH | {"mountPath": "/storage/x"}]}},
        "mount elsewhere", "mount elsewhere",
    ),
    "a volume given twice": (
        {"platform": {"extraVolumes": [SCRATCH, SCRATCH]}}, "given twice", "given twice",
    ),
    "a folder outside the claim": (
        {"platform": {"storage": {"subPath": "a/../../b"}}}, "must not hold ..", "must not hold ..",
    ),
    "kueue without a queue": (
        {"platform": {"queue": {"gang": "kueue"}}}, "needs name", "needs name",
    ),
    "a queue that nobody reads": (
        {"platform": {"queue": {"name": "q"}}}, "has no effect", "has no effect",
    ),
    "a priority that nobody reads": (
        {"platform": {"queue": {"priorityClass": "p"}}}, "need gang: kueue", "need gang: kueue",
    ),
    "two topologies": (
        {"platform": {"queue": {
            "gang": "kueue", "name": "q", "requiredTopology": "a", "preferredTopology": "b",
        }}}, "exclude each other", "exclude each other",
    ),
    "stages out of order": (
        {"stages": ["cluster", "extract"]}, "in this order", "in this order",
    ),
    "a run in the data's folder": (
        {"name": "data"}, "where the data is", "where the data is",
    ),
    "data in the run's folder": (
        {"platform": {"data": {"subPath": "digits/in1k"}}}, "where the data is", "where the data",
    ),
    "a limit below the mean": (
        {"cluster": {"maxSizeRatio": 0.5}}, "maxSizeRatio", "/cluster/maxSizeRatio",
    ),
    "root": ({"platform": {"podUser": {"user": 0}}}, "podUser.user", "/platform/podUser/user"),
}  # fmt: skip


OURS = {
    **{
        f"variable {name}": (
            {"extraEnv": [{"name": name.replace("*", "X"), "value": "1"}]},
            "is set by clusterfit itself",
        )
        for name in RESERVED_ENV
    },
    **{
        f"volume {name}": ({"extraVolumes": [SCRATCH | {"name": name}]}, "take another")
        for name in RESERVED_VOLUMES
    },
    **{
        f"{field} {prefix}": ({field: {f"{prefix}x": "y"}}, "is set by clusterfit itself")
        for field in ("labels", "annotations")
        for prefix in RESERVED_LABEL_PREFIXES
    },
}
"""What the chart, the operator, torchrun and Kueue set, all of it."""


@pytest.mark.parametrize("case", OURS)
def test_both_refuse_what_is_ours(case: str, values: Values, render: Render) -> None:
    platform, word = OURS[case]
    changed = deep_merge(values, {"platform": platform})
    with pytest.raises(ValidationError, match=word):
        load(changed)
    with pytest.raises(HelmError, match=word):
        render(changed)


SET_BY_TORCHRUN = (
    "RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT",
    "GROUP_RANK", "ROLE_RANK", "TORCHELASTIC_RUN_ID",
)  # fmt: skip


def test_what_a_job_and_its_workers_have_is_ours(values: Values, render: Render) -> None:
    """Each name of a rendered job is refused as a user's, so that none is there twice."""
    queue = {"gang": "kueue", "name": "q", "requiredTopology": "rack"}
    platform = {"data": {"claim": "other"}, "queue": queue}
    changed = deep_merge(values, {"stages": ["extract", "cluster"], "platform": platform})
    manifests = render(changed)
    for kind, stage in (("PyTorchJob", "extract"), ("Job", "cluster")):
        job = view_job(find(manifests, kind, f"digits-{stage}"))
        metadata = job["job"]["metadata"]
        taken = [
            *({"extraEnv": [{"name": name}]} for name in (*job["env"], *SET_BY_TORCHRUN)),
            *({"labels": {key: "x"}} for key in metadata["labels"]),
            *({"annotations": {key: "x"}} for key in metadata.get("annotations", {})),
            *({"extraVolumes": [SCRATCH | {"name": name}]} for name in job["volumes"]),
            *({"extraVolumes": [SCRATCH | {"mountPath": path}]} for path in job["mounts"]),
            *({"extraVolumes": [SCRATCH | {"mountPath": f"{path}/x"}]} for path in job["mounts"]),
        ]
        assert len(taken) > 20
        for own in taken:
            with pytest.raises(ValidationError, match="clusterfit"):
                load(deep_merge(changed, {"platform": own}))
            with pytest.raises(HelmError, match="clusterfit"):
                render(deep_merge(changed, {"platform": own}))


@pytest.mark.parametrize("case", WRONG)
def test_the_tree_refuses(case: str, values: Values) -> None:
    changes, word, _ = WRONG[case]
    with pytest.raises(ValidationError) as refusal:
        load(deep_merge(values, changes))
    assert word in str(refusal.value)


@pytest.mark.parametrize("case", WRONG)
def test_bare_helm_refuses(case: str, values: Values, render: Render) -> None:
    changes, _, word = WRONG[case]
    with pytest.raises(HelmError) as refusal:
        render(deep_merge(values, changes))
    assert word in str(refusal.value)


@pytest.mark.parametrize("missing", ["name", "formatVersion"])
def test_bare_helm_refuses_a_run_without(missing: str, values: Values, render: Render) -> None:
    del values[missing]
    with pytest.raises(HelmError, match=missing):
        render(values)


@pytest.mark.parametrize("path", ["seed", "data", "platform.gpus", "platform.storage.claim"])
def test_bare_helm_refuses_null(path: str, values: Values, render: Render) -> None:
    override: Any = None
    for key in reversed(path.split(".")):
        override = {key: override}
    with pytest.raises(HelmError, match=path.rpartition(".")[2]):
        render(deep_merge(values, override))


def test_a_run_is_never_upgraded(values: Values, helm: HelmLibrary) -> None:
    import helm_python

    with (
        helm_python.Chart.load(str(find_chart(RUN_CHART))) as chart,
        pytest.raises(helm_python.HelmError, match="a submitted run is never changed"),
    ):
        chart.render(values, name="release", is_upgrade=True)


def test_a_release_whose_name_leaves_no_room(values: Values, render: Render) -> None:
    with pytest.raises(HelmError, match="want at most 52"):
        render(values, release="r" * 53)


def test_helms_words_about_itself_are_left_out(values: Values, render: Render) -> None:
    with pytest.raises(HelmError) as refusal:
        render(deep_merge(values, {"platform": {"gpus": 12}}))
    assert str(refusal.value) == (
        "platform (stage pretext): gpus: got 12 on nodes of 8, want a multiple; the nearest are "
        "8 and 16"
    )


FAISS = {"engine": "faiss", "init": "random"}


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"platform": {"gpus": 0}}, "ask for GPUs (--gpus N), or set device: cpu"),
        ({"platform": {"gpus": 2, "processesPerNode": 4}}, "want at most one process per GPU"),
        (
            {"cluster": FAISS, "platform": {"stages": {"cluster": {"gpus": 16}}}},
            "engine: faiss works on one",
        ),
        (
            {"cluster": FAISS, "platform": {"stages": {"cluster": {"processesPerNode": 2}}}},
            "from one process; got 2, want 1",
        ),
    ],
)
def test_platform_must_fit_the_algorithm(changes: Values, wanted: str, values: Values) -> None:
    with pytest.raises(ConfigError) as refusal:
        check_for_cluster(load(deep_merge(values, changes)))
    assert any(wanted in fault for fault in refusal.value.faults)


def test_faiss_is_content_with_one_process_on_one_node(values: Values) -> None:
    one = {"cluster": FAISS, "platform": {"stages": {"cluster": {"processesPerNode": 1}}}}
    check_for_cluster(load(deep_merge(values, one)))


@pytest.mark.parametrize("stage", ["extract", "cluster"])
def test_a_stage_without_gpus_needs_device_cpu(stage: str, values: Values) -> None:
    """Its ranks would look for a GPU that nobody gave them: nothing falls back to CPUs."""
    changed = deep_merge(values, {"platform": {"stages": {stage: {"gpus": 0}}}})
    with pytest.raises(ConfigError, match=f"got 0 for {stage} with device: cuda"):
        check_for_cluster(load(changed))
    check_for_cluster(load({**changed, "device": "cpu"}))


def test_gpus_that_stay_idle_are_remarked_on(values: Values) -> None:
    own = {"platform": {"image": {"repository": "registry.example/clusterfit"}}}
    values = deep_merge(values, own)
    assert find_remarks(load(values)) == []
    (remark,) = find_remarks(load({**values, "device": "cpu"}))
    assert remark.endswith("set platform.gpus: 0 (--gpus 0) unless that is meant")
    stages = {"platform": {"gpus": 0, "stages": {"extract": {"gpus": 8}}}}
    (remark,) = find_remarks(load(deep_merge({**values, "device": "cpu"}, stages)))
    assert "that extract will not use" in remark
    assert remark.endswith("set platform.stages.extract.gpus: 0 unless that is meant")


def test_that_a_stage_keeps_its_own_number_of_gpus_is_remarked_on(values: Values) -> None:
    """`--gpus 1` on a file whose evaluate takes eight would otherwise wait for them for ever."""
    own = {"platform": {"image": {"repository": "registry.example/clusterfit"}}}
    run = load(
        deep_merge(deep_merge(values, own), {"platform": {"stages": {"extract": {"gpus": 8}}}})
    )
    assert find_remarks(run) == find_remarks(run, 8) == []
    (remark,) = find_remarks(run, 1)
    assert remark.startswith("--gpus 1: not for extract")
    assert remark.endswith("platform.stages.extract.gpus is 8")


def test_a_typo_in_kubernetes_own_words_is_found(values: Values, helm: HelmLibrary) -> None:
    typo = {"platform": {"tolerations": [{"key": "gpu", "efect": "NoSchedule"}]}}
    with pytest.raises(ConfigError) as refusal:
        render_run(helm, load(deep_merge(values, typo)), "somewhere")
    assert len(refusal.value.faults) == 5, "of each stage and of the supervisor"
    assert (
        "tolerations[0].efect: Kubernetes knows no such field; did you mean effect?"
        in (refusal.value.faults[0])
    )


def test_an_install_needs_no_name_of_ours(values: Values, render: Render) -> None:
    assert render(values, release="anything")
