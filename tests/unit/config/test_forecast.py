"""Forecasts against arithmetic by hand."""

from __future__ import annotations

import json
from typing import Any

import pytest

from clusterfit.config.forecast.figures import Known, StageForecast
from clusterfit.config.forecast.run import forecast_run
from clusterfit.config.sections.evaluation import PooledLayer
from clusterfit.config.tree import RunFile
from clusterfit.errors import ConfigError

COUNTS = {"train": 1_281_167, "val": 50_000}
ALL = ["pretext", "extract", "cluster", "train", "evaluate"]
FAISS = {"engine": "faiss", "init": "random"}
BACKBONES = [
    {"label": "ours", "from": "run", "stage": "train"},
    {"label": "theirs", "from": "run", "run": "other", "stage": "train"},
]


def forecast(values: dict[str, Any], **known: int) -> dict[str, StageForecast]:
    base = {"formatVersion": 1, "name": "r", "stages": ALL, "data": {"val": "val"}}
    base["evaluate"] = {"backbones": BACKBONES}
    run = RunFile.model_validate_json(json.dumps(base | values), by_name=False)
    return {stage.stage: stage for stage in forecast_run(run, COUNTS, Known(**known))}


def figures(stage: StageForecast) -> dict[str, Any]:
    named = (*stage.work, *stage.memory, *stage.storage)
    return {figure.name: figure.value for figure in named}


def test_imagenet_on_32_gpus() -> None:
    stages = forecast({"platform": {"gpus": 32}})
    assert {name: stage.pods.world_size for name, stage in stages.items()} == {
        "pretext": 32, "extract": 32, "cluster": 8, "train": 32, "evaluate": 32,
    }  # fmt: skip
    train = figures(stages["train"])
    assert train["peak_lr"] == pytest.approx(0.4)
    assert train["num_steps"] == 105 * 1251
    num_parameters = 23_508_032 + 2049 * 16_000
    assert train["train/checkpoints"] == 3 * (8 * num_parameters + 212_904)
    assert train["train/model.safetensors"] == pytest.approx(4 * num_parameters, rel=0.002)
    extract = figures(stages["extract"])
    assert extract["parts of train"] == 157
    assert extract["extract/res5avg/train"] == 1_281_167 * (2048 * 2 + 8)
    assert extract["extract/res5avg/val"] == 50_000 * (2048 * 2 + 8)
    cluster = figures(stages["cluster"])
    assert cluster["memory per GPU"] == 2048 * (4 * 160_146 + 24 * 16_000)  # 1281167 / 8
    assert cluster["cluster/*.npy"] == 2 * 4 * 2048 * 16_000
    assert cluster["cluster/train"] == 12 * 1_281_167


def test_pca_and_a_draw_of_rows_make_clustering_smaller() -> None:
    cluster = {"pcaDim": 256, "maxPointsPerCentroid": 10, "numClusters": 1000, "numNearest": 3}
    found = figures(forecast({"cluster": cluster})["cluster"])
    assert found["dim"] == 256
    assert found["memory per GPU"] == 256 * (4 * 10_000 // 8 + 24 * 1000)
    assert found["cluster/train"] == (8 + 4 + 3 * 8) * 1_281_167


def test_faiss_keeps_all_rows_in_one_process_and_centroids_on_each_gpu() -> None:
    found = figures(forecast({"cluster": FAISS})["cluster"])
    assert found["memory per process"] == 2048 * (4 * 1_281_167 + 20 * 16_000)
    assert found["memory per GPU"] == 4 * 2048 * 16_000 + 1536 * 2**20


def test_ranks_share_the_rows_of_the_torch_engine() -> None:
    platform = {"gpus": 32, "stages": {"cluster": {"gpus": 32}}}
    found = figures(forecast({"cluster": {"engine": "torch"}, "platform": platform})["cluster"])
    assert found["memory per GPU"] == 2048 * (4 * 40_037 + 24 * 16_000)  # 1281167 / 32


def test_a_limit_of_sizes_keeps_lists_of_clusters_and_prices() -> None:
    found = figures(forecast({"cluster": {"maxSizeRatio": 1.5}})["cluster"])
    assert found["memory per GPU"] == 160_146 * (4 * 2048 + 300) + 24 * 2048 * 16_000
    assert found["cluster/*.npy"] == (2 * 2048 + 1) * 4 * 16_000


def test_a_cpu_stage_has_no_memory_per_gpu() -> None:
    found = forecast({"device": "cpu", "platform": {"gpus": 0, "processesPerNode": 3}})
    memory = figures(found["cluster"])
    assert "memory per GPU" not in memory
    # Rows of one of three processes; its centroids are on the device and on the host at once.
    assert memory["memory per process"] == 2048 * (4 * 427_056 + (24 + 16) * 16_000)
    assert found["train"].pods.world_size == 3


def test_what_cannot_be_known_has_no_value_and_says_why() -> None:
    stages = forecast({"extract": {"layer": "layer4.1.bn2"}})
    assert figures(stages["extract"])["extract/res5avg/train".replace("res5avg", "layer4.1.bn2")] \
        is None  # fmt: skip
    (memory,) = stages["cluster"].memory
    assert memory.value is None
    assert memory.because == "the width of layer4.1.bn2 of resnet50 is not on record; extract tells"


def test_given_assignments_leave_the_size_of_the_head_open() -> None:
    given = {"stages": ["train"], "inputs": {"assignments": "labels.npy"}}
    found = figures(forecast(given)["train"])
    assert found["num_steps"] == 105 * 5004
    assert found["train/model.safetensors"] is found["train/checkpoints"] is None


def test_known_assignments_size_the_head_and_count_the_images() -> None:
    given = {"stages": ["train"], "inputs": {"assignments": "labels.npy"}}
    found = figures(forecast(given, num_clusters=4000, num_assigned=1_000_000)["train"])
    assert found["steps_per_epoch"] == 1_000_000 // 256
    num_parameters = 23_508_032 + 2049 * 4000
    assert found["train/checkpoints"] == 3 * (8 * num_parameters + 212_904)


def test_known_features_of_another_run_decide_the_clusters_width() -> None:
    given = {"stages": ["cluster"], "inputs": {"features": "theirs"}}
    found = figures(forecast(given, feature_dim=784)["cluster"])
    assert found["dim"] == 784
    assert found["cluster/*.npy"] == 2 * 4 * 784 * 16_000
    reduced = forecast(given | {"cluster": {"pcaDim": 64}}, feature_dim=784)["cluster"]
    assert figures(reduced)["dim"] == 64
    assert figures(forecast(given)["cluster"])["dim"] == 2048  # as its own extract would give


def test_heads_take_what_their_widths_and_classes_make() -> None:
    evaluate = {"protocols": ["heads"], "backbones": BACKBONES}
    stage = forecast({"evaluate": evaluate}, num_classes=1000)["evaluate"]
    found = figures(stage)
    num_parameters = (9216 + 9216 + 8192 + 9216 + 8192 + 2048 + 6) * 1000
    assert found["evaluate/heads/0"] == num_parameters * (3 * 8 + 4)
    assert found["evaluate/heads/1"] is None  # another run's network
    assert found["num_steps"] == 28 * 1_281_167 // (32 * 8) // 28 * 28
    assert found["base_lr"] == 0.01
    assert figures(forecast({"evaluate": evaluate})["evaluate"])["evaluate/heads/0"] is None


@pytest.mark.parametrize(
    ("layer", "side", "windows"),
    [
        (PooledLayer(layer="conv1", kernel=10, stride=10, padding=4), 112, 12),
        (PooledLayer(layer="res2", kernel=16, stride=8), 56, 6),
        (PooledLayer(layer="res5", kernel=6), 7, 2),
        (PooledLayer(layer="res5", kernel=6), 5, 0),
    ],
)
def test_windows_are_counted_as_torch_pools(layer: PooledLayer, side: int, windows: int) -> None:
    assert layer.count_windows(side) == windows


def test_remarks_name_what_is_probably_not_meant() -> None:
    stages = forecast(
        {
            "extract": {"rowsPerPart": 200_000},
            "cluster": FAISS | {"numClusters": 2_000_000},
            "platform": {"gpus": 32, "memoryGibPerNode": 40, "shmGibPerNode": 30},
        }
    )
    assert stages["extract"].remarks == (
        "8 parts keep 8 of 32 ranks busy: lower extract.rowsPerPart",
    )
    too_many, too_large = stages["cluster"].remarks
    assert too_many.startswith("cluster.numClusters is 2000000, more than the 1281167 images")
    assert too_large.startswith("k-means needs 86.1 GiB, but the pod's 40 GiB include 30 GiB")
    assert stages["train"].remarks == ()


def test_a_batch_that_the_images_do_not_fill_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^pretext\.batchSizePerRank: got 200000 on 8 ranks"):
        forecast({"pretext": {"batchSizePerRank": 200_000}})
