"""VISSL's configurations become run files that mean the same, with an account of every key."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from clusterfit.config.loading import load_run_file
from clusterfit.interop.vissl_config.conversion import convert
from clusterfit.interop.vissl_config.purpose import Purpose
from clusterfit.interop.vissl_config.reading import Outcome
from tests.unit.interop.vissl_config.conftest import (
    ALL,
    CONFIGS,
    EXTRACT,
    INATURALIST,
    LABELS,
    LINEAR,
    PLACES,
    ROTNET,
    STEP1,
    STEP1_AT_FIRST,
    STEP1_AT_HEAD,
    STEP2,
    VOC,
    WEIGHTS,
    Variant,
    given,
    load_text,
    refusal,
    verdict_on,
)

RECIPES = Path(__file__).parents[4] / "examples" / "recipes"


def leaves(node: Any, path: str) -> Iterator[str]:
    """Yield every key of a configuration, transforms one by one."""
    if isinstance(node, dict) and node:
        for key, child in node.items():
            yield from leaves(child, f"{path}.{key}")
    elif isinstance(node, list) and path.endswith(".TRANSFORMS"):
        yield from (f"{path}[{number}] ({item['name']})" for number, item in enumerate(node))
    else:
        yield path


@pytest.mark.parametrize(("file", "overrides"), ALL, ids=[file.stem for file, _ in ALL])
def test_every_key_has_exactly_one_verdict(
    file: Path, overrides: list[str], tmp_path: Path
) -> None:
    conversion = convert(file, overrides)
    load_text(conversion, tmp_path)
    content = yaml.safe_load(file.read_text())
    keys = {key for root in content for key in leaves(content[root], root)}
    keys |= {override.partition("=")[0] for override in overrides}
    verdicts = [v.key for v in conversion.verdicts if v.outcome is not Outcome.DEFAULT]
    assert sorted(verdicts) == sorted(keys)
    for verdict in conversion.verdicts:
        assert verdict.outcome is not Outcome.UNKNOWN
        assert bool(verdict.reason) or verdict.outcome in {Outcome.TAKEN, Outcome.DEFAULT}
        assert bool(verdict.ours) or bool(verdict.reason)


def test_step_1_as_documented(tmp_path: Path) -> None:
    conversion = convert(STEP1, [WEIGHTS])
    assert conversion.purpose is Purpose.STEP1
    loaded = load_text(conversion, tmp_path)
    assert loaded["stages"] == ["extract", "cluster"]
    assert loaded["cluster"] == load_text(convert(STEP1_AT_HEAD, [WEIGHTS]), tmp_path)["cluster"]
    cluster, extract = loaded["cluster"], loaded["extract"]
    assert (cluster["numClusters"], cluster["numIterations"]) == (16000, 50)
    assert (cluster["engine"], cluster["init"]) == ("faiss", "random")
    assert loaded["platform"]["stages"] == {"cluster": {"processesPerNode": 1}}
    assert cluster["normalize"] is True
    assert (cluster["pcaDim"], cluster["maxPointsPerCentroid"]) == (0, 0)
    assert extract["model"] == "resnet50"
    assert extract["weights"] == {
        "from": "path", "path": "weights/rotnet.torch", "stateDictKey": "classy_state_dict",
        "removePrefix": "", "appendPrefix": "", "minLoadedFraction": 0.9,
        "skipLayers": ["num_batches_tracked", "heads"],
    }  # fmt: skip
    assert (extract["layer"], extract["pooling"]) == ("res5", "avg")
    assert (extract["resizePixels"], extract["cropPixels"]) == (256, 224)
    assert (extract["precision"], extract["dtype"]) == ("fp32", "float32")
    assert (loaded["platform"]["gpus"], loaded["platform"]["gpusPerNode"]) == (8, 8)
    assert loaded["data"]["val"] == ""
    assert "RandomCrop" in verdict_on(conversion, "config.DATA.TRAIN.TRANSFORMS[1]").reason


def test_the_test_set_gets_clusters_too_where_the_file_has_one(tmp_path: Path) -> None:
    conversion = convert(
        STEP1_AT_HEAD,
        [WEIGHTS, "config.DATA.TRAIN.DATA_PATHS=[/sets/in1k/train]",
         "config.DATA.TEST.DATA_PATHS=[/sets/in1k/val]"],
    )  # fmt: skip
    data = load_text(conversion, tmp_path)["data"]
    assert (data["format"], data["train"], data["val"]) == ("folder", "train", "val")
    assert "/sets/in1k" in verdict_on(conversion, "config.DATA.TRAIN.DATA_PATHS").reason
    without = convert(STEP1_AT_HEAD, [WEIGHTS, "config.TEST_MODEL=False"])
    assert load_text(without, tmp_path)["data"]["val"] == ""


def test_step_2_as_documented(tmp_path: Path) -> None:
    conversion = convert(STEP2, [LABELS])
    assert conversion.purpose is Purpose.STEP2
    loaded = load_text(conversion, tmp_path)
    assert loaded["stages"] == ["train"]
    assert loaded["seed"] == 1
    assert loaded["inputs"]["assignments"] == "labels/step1.npy"
    assert loaded["data"]["format"] == "filelist"
    assert loaded["data"]["loadersPerRank"] == 5
    train = loaded["train"]
    assert {key: train[key] for key in (
        "model", "epochs", "batchSizePerRank", "baseLr", "warmupEpochs", "schedule", "lrMilestones",
        "lrDecayFactor", "momentum", "nesterov", "weightDecay", "cropPixels", "precision",
        "cropMinScale", "colorJitter", "horizontalFlip",
    )} == {
        "model": "resnet50", "epochs": 105, "batchSizePerRank": 32, "baseLr": 0.1,
        "warmupEpochs": 5.0, "schedule": "multistep", "lrMilestones": [30, 60, 90, 100],
        "lrDecayFactor": 0.1, "momentum": 0.9, "nesterov": False, "weightDecay": 1e-4,
        "cropPixels": 224, "precision": "fp32", "cropMinScale": 0.08,
        "colorJitter": [0.4, 0.4, 0.4, 0.2], "horizontalFlip": True,
    }  # fmt: skip


def test_rotnet_as_documented(tmp_path: Path) -> None:
    conversion = convert(ROTNET)
    assert conversion.purpose is Purpose.ROTNET
    loaded = load_text(conversion, tmp_path)
    assert loaded["stages"] == ["pretext"]
    pretext = loaded["pretext"]
    assert (pretext["epochs"], pretext["baseLr"], pretext["warmupEpochs"]) == (105, 0.1, 0)
    assert pretext["lrMilestones"] == [30, 60, 90, 100]
    assert pretext["horizontalFlip"] is True
    flip = verdict_on(conversion, "config.DATA.TRAIN.TRANSFORMS[2]")
    assert flip.outcome is Outcome.CHANGED
    assert "cannot be told apart" in flip.reason


def test_the_linear_evaluation_as_documented(tmp_path: Path) -> None:
    conversion = convert(LINEAR, [WEIGHTS])
    assert conversion.purpose is Purpose.EVALUATE
    loaded = load_text(conversion, tmp_path)
    evaluate, heads = loaded["evaluate"], loaded["evaluate"]["heads"]
    assert loaded["stages"] == ["evaluate"]
    assert evaluate["protocols"] == ["heads"]
    assert evaluate["backbones"][0]["path"] == "weights/rotnet.torch"
    assert [tuple(layer.values()) for layer in evaluate["layers"]] == [
        ("conv1", 10, 10, 4), ("res2", 16, 8, 0), ("res3", 13, 5, 0), ("res4", 8, 3, 0),
        ("res5", 6, 1, 0),
    ]  # fmt: skip
    assert (heads["epochs"], heads["baseLr"], heads["warmupEpochs"]) == (28, 0.01, 0)
    assert heads["lrMilestones"] == [8, 16, 24]
    assert (heads["nesterov"], heads["weightDecay"]) == (True, 5e-4)
    assert loaded["data"]["val"] == "imagenet1k_folder/val"


def test_a_linear_evaluation_of_another_trunk_by_an_overlay(tmp_path: Path) -> None:
    conversion = convert(
        LINEAR,
        [WEIGHTS, "+config/benchmark/linear_image_classification/imagenet1k/models=regnet8Gf"],
    )
    evaluate = load_text(conversion, tmp_path)["evaluate"]
    assert evaluate["backbones"][0]["model"] == "regnet_y_8gf"
    assert [layer["layer"] for layer in evaluate["layers"]] == [
        "trunk_output.block3", "trunk_output.block4", "avgpool",
    ]  # fmt: skip
    reason = verdict_on(
        conversion, "config.MODEL.FEATURE_EVAL_SETTINGS.LINEAR_EVAL_FEAT_POOL_OPS_MAP"
    ).reason
    assert "AdaptiveAvgPool2d" in reason


@pytest.mark.parametrize(
    ("file", "recipe"),
    [(LINEAR, "linear-imagenet"), (PLACES, "linear-places205"),
     (INATURALIST, "linear-inaturalist18"), (VOC, "svm-voc07")],
)  # fmt: skip
def test_a_benchmark_as_its_recipe_has_it(file: Path, recipe: str, tmp_path: Path) -> None:
    """What an import gives, and the recipe book's file of the same benchmark."""
    imported = load_text(convert(file, [WEIGHTS]), tmp_path)
    book = load_run_file([RECIPES / f"{recipe}.yaml"]).run_file.dump()
    for key in ("protocols", "heads", "svm", "resizePixels", "cropPixels", "precision"):
        assert imported["evaluate"][key] == book["evaluate"][key], key
    # VISSL's files leave out res5avg, which its documentation has.
    assert imported["evaluate"]["layers"] == book["evaluate"]["layers"][:-1]
    assert imported["data"]["format"] == ("folder" if file in {LINEAR, PLACES} else "filelist")


def test_labels_lie_where_the_images_do(tmp_path: Path) -> None:
    named = load_text(convert(VOC, [WEIGHTS]), tmp_path)["data"]
    assert (named["train"], named["trainLabels"], named["valLabels"]) == (
        "voc2007/train_images.npy", "voc2007/train_labels.npy", "voc2007/val_labels.npy"
    )  # fmt: skip
    overrides = [
        f"config.DATA.{partition}.{kind}_PATHS=[/sets/voc/{partition}/{kind}.npy]"
        for partition in ("TRAIN", "TEST") for kind in ("DATA", "LABEL")
    ]  # fmt: skip
    given_paths = load_text(convert(VOC, [WEIGHTS, *overrides]), tmp_path)["data"]
    assert (given_paths["train"], given_paths["trainLabels"], given_paths["valLabels"]) == (
        "TRAIN/DATA.npy", "TRAIN/LABEL.npy", "TEST/LABEL.npy"
    )  # fmt: skip
    assert "want disk_folder, as its images are" in refusal(
        LINEAR, WEIGHTS, "config.DATA.TRAIN.LABEL_SOURCES=[disk_filelist]"
    )


def test_svms_with_other_costs_and_views(tmp_path: Path) -> None:
    conversion = convert(
        VOC,
        [WEIGHTS, "config.SVM.costs.base=2.0", "config.SVM.costs.power_range=[-1,2]",
         "config.SVM.costs.costs_list=[7]", "config.SVM.loss=hinge",
         "config.DATA.TEST.TRANSFORMS=[{name:Resize,size:256},{name:CenterCrop,size:224}]"],
    )  # fmt: skip
    svm = load_text(conversion, tmp_path)["evaluate"]["svm"]
    assert svm["costs"] == [7, 0.5, 1, 2]
    assert svm["squash"] is False
    assert verdict_on(conversion, "config.SVM.loss").outcome is Outcome.CHANGED
    # A training leaves every default of VISSL's behind, costs among them: no SVMs are meant.
    extraction = convert(EXTRACT, [WEIGHTS, "+config.SVM.costs.costs_list=[0.1,0.01]"])
    assert extraction.purpose is Purpose.EXTRACT


@pytest.mark.parametrize(
    ("overrides", "change"),
    [
        ([], ""),
        (["config.DISTRIBUTED.NUM_NODES=2"], "over all 16 processes, not over 8"),
        (["config.MODEL.SYNC_BN_CONFIG.GROUP_SIZE=0", "config.DISTRIBUTED.NUM_NODES=2"], ""),
        (["config.MODEL.SYNC_BN_CONFIG.GROUP_SIZE=-1", "config.DISTRIBUTED.NUM_NODES=2"],
         "over all 16 processes, not over 8"),
        (["config.MODEL.SYNC_BN_CONFIG.CONVERT_BN_TO_SYNC_BN=False"],
         "over all 8 processes, not over 1"),
    ],
)  # fmt: skip
def test_how_heads_normalise_is_told(overrides: list[str], change: str) -> None:
    verdict = verdict_on(
        convert(LINEAR, [WEIGHTS, *overrides]),
        "config.MODEL.SYNC_BN_CONFIG.CONVERT_BN_TO_SYNC_BN",
    )
    assert verdict.ours == "the heads' batch norms see the global batch"
    assert verdict.reason == change


def test_extraction_alone_takes_one_layer(tmp_path: Path) -> None:
    conversion = convert(EXTRACT, [WEIGHTS])
    loaded = load_text(conversion, tmp_path)
    assert conversion.purpose is Purpose.EXTRACT
    assert loaded["stages"] == ["extract"]
    assert loaded["extract"]["layer"] == "res5avg"
    overlay = "+config/feature_extraction/trunk_only=rn50_layers"
    assert "a run extracts one; choose with config.CLUSTERFIT.FEATURES.LAYER_NAME=res4" in refusal(
        EXTRACT, WEIGHTS, overlay
    )
    layer = "config.CLUSTERFIT.FEATURES.LAYER_NAME=res5"
    chosen = convert(EXTRACT, [WEIGHTS, overlay, layer])
    extract = load_text(chosen, tmp_path)["extract"]
    assert (extract["layer"], extract["pooling"]) == ("res5", "avg")
    # A window of 6 does not cover the 7 x 7 of res5.
    key = "config.MODEL.FEATURE_EVAL_SETTINGS.LINEAR_EVAL_FEAT_POOL_OPS_MAP"
    assert "keeps a grid" in verdict_on(chosen, key).reason


@pytest.mark.parametrize(
    ("nodes", "processes", "gpus", "per_node"),
    [(1, 8, 8, 8), (4, 8, 32, 8), (1, 1, 1, 1), (2, 4, 8, 4)],
)
def test_nodes_times_processes_are_the_gpus(
    nodes: int, processes: int, gpus: int, per_node: int, tmp_path: Path
) -> None:
    conversion = convert(
        ROTNET,
        [f"config.DISTRIBUTED.NUM_NODES={nodes}",
         f"config.DISTRIBUTED.NUM_PROC_PER_NODE={processes}"],
    )  # fmt: skip
    platform = load_text(conversion, tmp_path)["platform"]
    assert (platform["gpus"], platform["gpusPerNode"]) == (gpus, per_node)


def test_machines_without_gpus(tmp_path: Path) -> None:
    conversion = convert(ROTNET, ["config.MACHINE.DEVICE=cpu", "config.DISTRIBUTED.NUM_NODES=2"])
    loaded = load_text(conversion, tmp_path)
    platform = loaded["platform"]
    assert loaded["device"] == "cpu"
    assert (platform["gpus"], platform["nodesWithoutGpus"]) == (0, 2)
    assert platform["processesPerNode"] == 8


def test_both_names_of_the_number_of_iterations(variant: Variant, tmp_path: Path) -> None:
    for name in ("N_ITER", "NUM_ITER"):
        conversion = convert(STEP1, [WEIGHTS, "~config.CLUSTERFIT.N_ITER",
                                     f"+config.CLUSTERFIT.{name}=20"])  # fmt: skip
        assert load_text(conversion, tmp_path)["cluster"]["numIterations"] == 20
        assert verdict_on(conversion, f"config.CLUSTERFIT.{name}").outcome is Outcome.TAKEN
    both = variant(STEP1, "    N_ITER: 50\n", "    N_ITER: 50\n    NUM_ITER: 20\n")
    assert "are two names of one setting; keep one" in refusal(both, WEIGHTS)


def test_the_command_line_counts_under_whichever_name(tmp_path: Path) -> None:
    """A file of VISSL's has the older names, its documentation the newer ones."""
    conversion = convert(STEP1, [WEIGHTS, "config.CLUSTERFIT.NUM_ITER=20"])
    assert load_text(conversion, tmp_path)["cluster"]["numIterations"] == 20
    older = verdict_on(conversion, "config.CLUSTERFIT.N_ITER")
    assert older.outcome is Outcome.WITHOUT_EFFECT
    assert "config.CLUSTERFIT.NUM_ITER is a name of the same setting" in older.reason
    first = convert(STEP1_AT_FIRST, [WEIGHTS])
    assert given(first)["extract"]["weights"]["path"] == "weights/rotnet.torch"


def test_what_stands_beside_config_is_listed_too() -> None:
    conversion = convert(
        STEP1,
        [WEIGHTS, "hydra.verbose=true", "conifg.CLUSTERFIT.NUM_CLUSTERS=4000", "CLUSTERFIT.N=1"],
    )
    assert verdict_on(conversion, "hydra.verbose").reason == "there is no Hydra"
    typo = verdict_on(conversion, "conifg.CLUSTERFIT.NUM_CLUSTERS")
    assert (typo.outcome, typo.reason) == (
        Outcome.UNKNOWN, "did you mean config.CLUSTERFIT.NUM_CLUSTERS?"
    )  # fmt: skip
    assert verdict_on(conversion, "CLUSTERFIT.N").reason == "it is not below config"


def test_what_is_not_given_is_vissls_default_and_said_so(variant: Variant, tmp_path: Path) -> None:
    """VISSL's defaults, not ours: 90 epochs of 256 images each, where ours are 105 of 32."""
    file = variant(STEP2, "    num_epochs: 105\n", "")
    file.write_text(file.read_text().replace("      BATCHSIZE_PER_REPLICA: 32\n", ""))
    assert "lrMilestones" in refusal(file, LABELS)  # 100 is beyond 90
    file.write_text(file.read_text().replace("[30, 60, 90, 100]", "[30, 60, 70, 80]"))
    conversion = convert(file, [LABELS])
    train = load_text(conversion, tmp_path)["train"]
    assert (train["epochs"], train["batchSizePerRank"]) == (90, 256)
    epochs = verdict_on(conversion, "config.OPTIMIZER.num_epochs")
    assert (epochs.key, epochs.outcome) == ("config.OPTIMIZER.num_epochs: 90", Outcome.DEFAULT)
    assert "epochs: 90" in conversion.text
    assert "# VISSL's default of config.OPTIMIZER.num_epochs" in conversion.text


def test_an_unknown_key_is_named_and_told_from_those_without_effect() -> None:
    conversion = convert(
        STEP1, [WEIGHTS, "+config.CLUSTERFIT.NUM_CLUSTER=4000", "+config.HOOKS.ANYTHING=1"]
    )
    typo = verdict_on(conversion, "config.CLUSTERFIT.NUM_CLUSTER")
    assert typo.outcome is Outcome.UNKNOWN
    assert typo.reason == "did you mean config.CLUSTERFIT.NUM_CLUSTERS?"
    assert verdict_on(conversion, "config.HOOKS.ANYTHING").outcome is Outcome.WITHOUT_EFFECT


def test_a_file_that_a_training_left_is_read_too(tmp_path: Path) -> None:
    """VISSL writes train_config.yaml without the level `config`."""
    path = tmp_path / "train_config.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(STEP2.read_text())["config"]))
    ours = convert(path, [LABELS])
    assert given(ours)["train"] == given(convert(STEP2, [LABELS]))["train"]


def test_files_for_the_storage_root_are_told(tmp_path: Path) -> None:
    for theirs, ours in (
        ("/ckpt/rotnet.torch", "weights/rotnet.torch"),
        ("https://host/rotnet.torch", "weights/rotnet.torch"),
        ("../rotnet.torch", "weights/rotnet.torch"),
        ("zoo/rotnet.torch", "zoo/rotnet.torch"),
    ):
        conversion = convert(STEP1, [f"config.MODEL.WEIGHTS_INIT.PARAMS_FILE={theirs}"])
        assert given(conversion)["extract"]["weights"]["path"] == ours
        assert [(p.theirs, p.ours) for p in conversion.placements if p.root == "storage"] == [
            (theirs, ours)
        ]
    random = convert(STEP1, ["config.MODEL.WEIGHTS_INIT.PARAMS_FILE="])
    assert given(random)["extract"]["weights"] == {"from": "random"}


def test_the_name_is_made_of_the_files(tmp_path: Path) -> None:
    path = tmp_path / "8gpu__Rot.Net.yaml"
    path.write_text(ROTNET.read_text())
    assert given(convert(path))["name"] == "vissl-8gpu-rot-net"
    assert given(convert(path, name="mine"))["name"] == "mine"


@pytest.mark.parametrize(
    ("override", "wanted"),
    [
        ("config.OPTIMIZER.name=adam", "config.OPTIMIZER.name: got \"adam\", want sgd"),
        ("config.LOSS.name=swav_loss", "is where step 1 starts, with extract.weights"),
        ("config.OPTIMIZER.num_epochs=many", "want an integer"),
        ("config.DISTRIBUTED.NUM_NODES=0", "config.DISTRIBUTED.NUM_NODES: got 0, want 1 or more"),
        ("config.DATA.TRAIN.BATCHSIZE_PER_REPLICA=-1", "got -1, want 1 or more"),
        ("config.MACHINE.DEVICE=tpu", "want gpu or cpu"),
        ("config.DATA.TRAIN.DATA_SOURCES=[torchvision_dataset]", "disk_folder, disk_filelist"),
        ("config.DATA.TRAIN.DATA_SOURCES=[disk_filelist,disk_folder]", "want one data set"),
        ("config.DATA.TRAIN.LABEL_SOURCES=[disk_folder]", "trains on a file of cluster labels"),
        ("config.OPTIMIZER.param_schedulers.lr.name=inverse_sqrt", "multistep, cosine, constant"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_refused_in_one_line(override: str, wanted: str) -> None:
    fault = refusal(STEP2, LABELS, override)
    assert wanted in fault
    assert override.partition("=")[0] in fault


def test_requests_to_name_a_file_are_no_names() -> None:
    assert "add config.MODEL.WEIGHTS_INIT.PARAMS_FILE=FILE" in refusal(STEP1)
    assert "add 'config.DATA.TRAIN.LABEL_PATHS=[LABELS.npy]'" in refusal(STEP2)


def test_other_pretext_tasks_are_refused(variant: Variant) -> None:
    file = variant(STEP2, "{name: RandomResizedCrop, size: 224}", "{name: ImgReplicatePil}")
    fault = refusal(file, LABELS)
    assert "config.DATA.TRAIN.TRANSFORMS[0]" in fault
    assert "another pretext task" in fault


def test_a_transform_that_there_is_not_is_left_out_aloud(variant: Variant) -> None:
    file = variant(STEP2, "{name: ToTensor}", "{name: ImgPilGaussianBlur, p: 0.5}")
    conversion = convert(file, [LABELS])
    blur = verdict_on(conversion, "config.DATA.TRAIN.TRANSFORMS[3]")
    assert blur.outcome is Outcome.CHANGED
    assert "ImgPilGaussianBlur is left out" in blur.reason


def test_augmentation_that_the_list_lacks_is_off(variant: Variant) -> None:
    file = variant(STEP2, "        - {name: RandomHorizontalFlip}\n", "")
    train = given(convert(file, [LABELS]))["train"]
    assert train["horizontalFlip"] is False
    assert train["colorJitter"] == [0.4, 0.4, 0.4, 0.2]


def test_the_configurations_here_are_all_tried() -> None:
    overlays = {"8gpu_ep35", "regnet8Gf", "resnet18", "rn50_layers"}
    assert {path.stem for path in CONFIGS.rglob("*.yaml")} - overlays == {f.stem for f, _ in ALL}
