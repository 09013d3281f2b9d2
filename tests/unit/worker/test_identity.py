"""Which settings and inputs make an artifact another one, and what is said where one is missing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clusterfit.artifacts.dataset import Samples, write_samples
from clusterfit.artifacts.layout import RunDirectory
from clusterfit.artifacts.manifest import Identity, write_manifest
from clusterfit.config.loading import check_values
from clusterfit.config.schema import walk_leaves
from clusterfit.config.stages import StageName
from clusterfit.errors import InvalidDataError, MissingInputError, RetryableError
from clusterfit.worker.arguments import Assignment
from clusterfit.worker.identity import is_stage_finished, list_targets

Assign = Callable[..., Assignment]

VALUES: dict[str, Any] = {
    "formatVersion": 1,
    "name": "digits",
    "stages": ["pretext", "extract", "cluster", "train", "evaluate"],
    "data": {"val": "val"},
    "pretext": {"epochs": 3, "schedule": "cosine"},
    "train": {"epochs": 3, "schedule": "cosine"},
    "evaluate": {
        "backbones": [
            {"label": "file", "from": "path", "path": "weights.pt", "model": "resnet18"},
            {"label": "random", "from": "random", "model": "resnet18"},
            {"label": "ours", "from": "run", "stage": "train"},
        ]
    },
}


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        is_section = isinstance(value, Mapping) and isinstance(base.get(key), Mapping)
        merged[key] = merge(base[key], value) if is_section else value
    return merged


@pytest.fixture
def assign(run_directory: RunDirectory) -> Assign:
    """Return an assignment of a run whose images, weights and stages are all there."""
    run = run_directory
    (run.storage_root / "weights.pt").write_bytes(b"weights")
    for partition in ("train", "val"):
        write_samples(
            run.data(partition), Samples((f"{partition}/a/1.png",), np.array([0]), ("a",))
        )

    def build(stage: StageName, changes: Mapping[str, Any] | None = None) -> Assignment:
        config = check_values(merge(VALUES, changes or {})).algorithm()
        return Assignment(stage, config, Path("data"), run, "")

    for stage in ("pretext", "extract", "cluster", "train"):
        for folder, identity in list_targets(build(stage), world_size=2):
            finish(folder, identity)
    return build


def finish(folder: Path, identity: Identity) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_manifest(folder, identity, [], {}, {})


def fingerprints(assignment: Assignment, world_size: int = 2) -> list[str]:
    return [identity.fingerprint for _, identity in list_targets(assignment, world_size)]


def test_a_stage_is_finished_under_the_settings_that_it_was_finished_with(assign: Assign) -> None:
    stages: tuple[StageName, ...] = ("pretext", "extract", "cluster", "train")
    assert all(is_stage_finished(assign(stage), 2) for stage in stages)
    assert not is_stage_finished(assign("evaluate"), 2)


@pytest.mark.parametrize(
    ("stage", "changes", "named"),
    [
        ("pretext", {"pretext": {"epochs": 4}}, "pretext.epochs was 3, now 4"),
        ("pretext", {"seed": 1}, "pretext.seed was 0, now 1"),
        ("pretext", {"data": {"mean": [0.0, 0.0, 0.0]}}, "pretext.mean was "),
        ("extract", {"extract": {"dtype": "float32"}}, 'dtype was "float16", now "float32"'),
        ("extract", {"extract": {"weights": {"from": "random"}}}, "extract.seed was null, now 0"),
        ("cluster", {"cluster": {"numClusters": 7}}, "cluster.numClusters was 16000, now 7"),
        ("train", {"train": {"horizontalFlip": False}}, "train.horizontalFlip was true, now false"),
    ],
)
def test_another_setting_makes_another_artifact_and_is_named(
    assign: Assign, stage: StageName, changes: dict[str, Any], named: str
) -> None:
    with pytest.raises(InvalidDataError, match="made with other settings: ") as caught:
        is_stage_finished(assign(stage, changes), 2)
    assert named in str(caught.value)


def test_settings_that_only_change_how_a_stage_runs_make_no_other_artifact(assign: Assign) -> None:
    changes: dict[str, Any] = {"device": "cpu"}
    changes["data"] = {"loadersPerRank": 1, "maxUnreadableFraction": 0.5}
    for section in ("pretext", "extract", "train", "evaluate"):
        changes[section] = {"channelsLast": False}
    stages: tuple[StageName, ...] = ("pretext", "extract", "cluster", "train", "evaluate")
    for stage in stages:
        assert fingerprints(assign(stage, changes)) == fingerprints(assign(stage))


def test_only_a_training_depends_on_the_number_of_processes(assign: Assign) -> None:
    stages: tuple[StageName, ...] = ("pretext", "extract", "cluster", "train", "evaluate")
    changed = {
        stage
        for stage in stages
        if fingerprints(assign(stage), 2) != fingerprints(assign(stage), 3)
    }
    assert changed == {"pretext", "train"}


def test_other_images_and_other_weights_make_other_artifacts(assign: Assign) -> None:
    before = {stage: fingerprints(assign(stage)) for stage in ("pretext", "train", "evaluate")}
    by_file = {"extract": {"weights": {"from": "path", "path": "weights.pt"}}}
    of_file = fingerprints(assign("extract", by_file))
    run = assign("train").run
    (run.storage_root / "weights.pt").write_bytes(b"others")
    assert fingerprints(assign("extract", by_file)) != of_file
    assert fingerprints(assign("evaluate")) != before["evaluate"]
    assert fingerprints(assign("train")) == before["train"]
    write_samples(run.data("val"), Samples(("val/b/1.png",), np.array([0]), ("b",)))
    assert fingerprints(assign("train")) != before["train"]
    assert fingerprints(assign("pretext")) == before["pretext"], "it sees train's images alone"


def test_the_name_of_a_weights_file_does_not_matter(assign: Assign) -> None:
    run = assign("extract").run
    (run.storage_root / "copy.pt").write_bytes((run.storage_root / "weights.pt").read_bytes())
    names = ("weights.pt", "copy.pt")
    both = [
        fingerprints(assign("extract", {"extract": {"weights": {"from": "path", "path": name}}}))
        for name in names
    ]
    assert both[0] == both[1]


def test_features_of_other_settings_are_not_clustered(assign: Assign) -> None:
    with pytest.raises(InvalidDataError, match=r"extract\.normalize was false, now true"):
        is_stage_finished(assign("cluster", {"extract": {"normalize": True}}), 2)


def test_what_is_not_there_is_waited_for_only_where_this_submission_makes_it(
    assign: Assign,
) -> None:
    (assign("cluster").run.features("res5avg", "train") / "manifest.json").unlink()
    with pytest.raises(RetryableError, match="stage extract has not finished yet"):
        is_stage_finished(assign("cluster"), 2)
    alone = {"stages": ["cluster"]}
    with pytest.raises(MissingInputError, match="cluster needs what stage extract writes"):
        is_stage_finished(assign("cluster", alone), 2)
    elsewhere = {"stages": ["cluster"], "inputs": {"features": "another"}}
    with pytest.raises(MissingInputError, match="another/extract/res5avg/train: not there"):
        is_stage_finished(assign("cluster", elsewhere), 2)
    missing = {"extract": {"weights": {"from": "path", "path": "none.pt"}}}
    with pytest.raises(
        MissingInputError,
        match=r"^extract\.weights\.path: .*/none\.pt: No such file or directory; paths to ",
    ):
        is_stage_finished(assign("extract", missing), 2)


def test_an_input_that_cannot_be_read_now_is_not_missing(
    assign: Assign, lose: Callable[[Path], None]
) -> None:
    by_file = {"extract": {"weights": {"from": "path", "path": "weights.pt"}}}
    lose(assign("extract").run.storage_root / "weights.pt")
    with pytest.raises(RetryableError, match=r"weights\.pt: Input/output error"):
        is_stage_finished(assign("extract", by_file), 2)


@pytest.mark.parametrize(
    ("stage", "settings", "where"),
    [
        (
            "extract",
            {"extract": {"weights": {"from": "path", "path": "x"}}},
            "extract.weights.path",
        ),
        (
            "cluster",
            {"cluster": {"init": "given", "initialCentroids": "x"}},
            "cluster.initialCentroids",
        ),
        ("train", {"stages": ["train"], "inputs": {"assignments": "x"}}, "inputs.assignments"),
        (
            "evaluate",
            {
                "evaluate": {
                    "backbones": [{"label": "a", "from": "path", "path": "x", "model": "resnet18"}]
                }
            },
            "evaluate.backbones.0.path",
        ),
    ],
)
def test_a_folder_where_a_file_is_wanted_is_named_by_its_key(
    assign: Assign,
    run_directory: RunDirectory,
    stage: StageName,
    settings: dict[str, Any],
    where: str,
) -> None:
    (run_directory.storage_root / "x").mkdir()
    with pytest.raises(InvalidDataError, match=rf"^{where}: .*/x is a folder, want a file$"):
        is_stage_finished(assign(stage, settings), 2)


def change(value: Any, schema: Mapping[str, Any]) -> Any:
    """Return another value that a leaf may have as well; None for lists, and for any text."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, float):
        return (value + 1) / 2
    return next((other for other in schema.get("enum", ()) if other not in ("", value)), None)


OTHERS: dict[str, Any] = {
    "maxSizeRatio": 1.5,  # 0, or at least 1
    "layer": "res4",
    "init": "random",  # given would need a file
    "lrMilestones": [1],
    "colorJitter": [0.1, 0.1, 0.1, 0.1],
}
NEEDED: dict[str, dict[str, Any]] = {
    "pcaWhiten": {"pcaDim": 2},
    "lrMilestones": {"schedule": "multistep", "lrMilestones": [2]},
    "schedule": {"lrMilestones": [2]},
    "engine": {"numCandidates": 0, "relaxation": 1, "init": "random"},
}


def test_a_setting_changes_its_stages_fingerprint_unless_it_is_operational(assign: Assign) -> None:
    changed = set()
    for leaf in walk_leaves():
        stage: Any = leaf.path[0]
        if len(leaf.path) != 2 or stage not in {*VALUES["stages"]}:
            continue
        key = leaf.path[1]
        base = {stage: NEEDED.get(key, {})}
        if stage in ("pretext", "extract"):  # any network will do for weights that are nobody's
            base = merge(base, {"extract": {"weights": {"from": "random"}}})
        value = check_values(merge(VALUES, base)).dump()[stage][key]
        other = OTHERS.get(key, change(value, leaf.schema))
        if other is None:
            continue
        before, after = (
            fingerprints(assign(stage, merge(base, {stage: {key: setting}})))
            for setting in (value, other)
        )
        assert (before != after) != leaf.is_operational, ".".join(leaf.path)
        changed.add(".".join(leaf.path))
    assert len(changed) > 60
    assert {"extract.model", "extract.layer", "extract.pooling", "extract.rowsPerPart"} < changed
