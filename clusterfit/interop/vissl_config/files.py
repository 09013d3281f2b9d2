"""The files that a VISSL configuration names: images, labels, weights.

VISSL's paths may stand anywhere; ours begin at one of two roots. So a path keeps what lies below
the data root, and a file for the storage root keeps its name in a folder of its kind; what has to
be put there is told.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Final

from clusterfit.interop.vissl_config.reading import Reading

_SOURCES: Final = {"disk_folder": "folder", "disk_filelist": "filelist"}
_WEIGHTS: Final = "MODEL.WEIGHTS_INIT"
_PARTITIONS: Final = {"TRAIN": "train", "TEST": "val"}
_KEY_SETTINGS: Final = {
    "STATE_DICT_KEY_NAME": "stateDictKey",
    "REMOVE_PREFIX": "removePrefix",
    "APPEND_PREFIX": "appendPrefix",
    "SKIP_LAYERS": "skipLayers",
}
_CATALOG: Final = (
    "VISSL looked {name} up in its dataset_catalog.json; put the images there below the data root, "
    "or write where they are"
)


@dataclass(frozen=True, slots=True)
class Placement:
    """A file or folder of the user's, and where it has to be for the run."""

    theirs: str
    """As VISSL's configuration names it; empty: it names none."""
    ours: str
    """Below its root."""
    root: str
    """`data` or `storage`."""


def read_images(
    reading: Reading, partitions: tuple[str, ...], *, is_labelled: bool = False
) -> list[Placement]:
    """Set `data` from DATA.TRAIN and, where wanted, DATA.TEST, and their ground truth.

    Raises:
        ConfigError: they are kept in a way that `data` cannot name.
    """
    kinds = {partition: _read_kind(reading, partition) for partition in partitions}
    first = partitions[0]
    for partition, kind in kinds.items():
        if kind != kinds[first]:
            raise reading.fault(
                f"DATA.{partition}.DATA_SOURCES", "the same source for all partitions"
            )
    reading.set("data.format", kinds[first], f"DATA.{first}.DATA_SOURCES")
    settings = {
        f"DATA.{partition}.DATA_PATHS": f"data.{_PARTITIONS[partition]}" for partition in partitions
    }
    if is_labelled:
        for partition in partitions:
            if _has_label_file(reading, partition, kinds[first]):
                key = f"DATA.{partition}.LABEL_PATHS"
                settings[key] = f"data.{_PARTITIONS[partition]}Labels"
    given = {key: _read_one(reading, key) for key in settings}
    root = _find_common_root([path for path in given.values() if path.startswith("/")])
    placements = []
    for key, theirs in given.items():
        if theirs:
            below = os.path.relpath(theirs, root) if theirs.startswith("/") else theirs
            change = f"below the data root, {root}" if theirs.startswith("/") else ""
            reading.carry(key, settings[key], below, change)
        else:
            below = _place_from_catalog(reading, key, settings[key], kinds[first])
        placements.append(Placement(theirs, below, "data"))
    for partition in partitions:
        _judge_rest(reading, partition)
    return placements


def _has_label_file(reading: Reading, partition: str, kind: str) -> bool:
    """Tell whether a partition's ground truth is a file, not the names of its class folders.

    Raises:
        ConfigError: it is, and the images are folders.
    """
    sources = f"DATA.{partition}.LABEL_SOURCES"
    source = _read_one(reading, sources)
    is_file = source == "disk_filelist" or (not source and kind == "filelist")
    if is_file and kind == "folder":
        raise reading.fault(
            sources, "disk_folder, as its images are: labels in a file go with a list of images"
        )
    if source:
        reading.judge(sources, "data: trainLabels, valLabels" if is_file else "data: class folders")
    return is_file


def _place_from_catalog(reading: Reading, key: str, ours: str, kind: str) -> str:
    """Set a place for what VISSL finds by the data set's name, and return it."""
    partition = key.split(".")[1]
    names = f"DATA.{partition}.DATASET_NAMES"
    name = _read_one(reading, names)
    ending = {"folder": "", "filelist": "_images.npy"}[kind]
    is_labels = key.endswith("LABEL_PATHS")
    below = f"{name}/{_PARTITIONS[partition]}{'_labels.npy' if is_labels else ending}"
    if is_labels:
        reading.set(ours, below, names)
    else:
        reading.carry(names, ours, below, _CATALOG.format(name=name))
    return below


def find_weights(reading: Reading, ours: str) -> Placement | None:
    """Return the weights file, which `ours` takes; None where the network starts at random.

    Raises:
        ConfigError: the file is still the configuration's request to name one.
    """
    key = f"{_WEIGHTS}.PARAMS_FILE"
    theirs = reading.text(key)
    if " " in theirs.strip():
        raise reading.fault(key, f"a weights file; add config.{key}=FILE")
    if not theirs:
        reading.judge(key, f"{ours}: random weights")
        return None
    below = place_on_storage(theirs, "weights")
    change = "" if below == theirs else f"{_verb(theirs)} below the storage root"
    reading.judge(key, f"{ours}: {below}", change)
    return Placement(theirs, below, "storage")


def judge_keys_left_to_themselves(reading: Reading) -> None:
    """Say what becomes of the settings of a weights file's keys where there are none of ours."""
    for name in _KEY_SETTINGS:
        if not reading.is_given(f"{_WEIGHTS}.{name}"):
            continue
        plain = name in {"STATE_DICT_KEY_NAME", "SKIP_LAYERS"} or not reading.get(
            f"{_WEIGHTS}.{name}"
        )
        reading.judge(
            f"{_WEIGHTS}.{name}", "the keys are found by themselves",
            "" if plain else "only torchvision's, DDP's, timm's and VISSL's names are",
        )  # fmt: skip


def read_weights(reading: Reading, ours: str) -> list[Placement]:
    """Set the weights that a backbone starts from, `ours` being `extract.weights`."""
    weights = find_weights(reading, f"{ours}.path")
    reading.set(f"{ours}.from", "path" if weights else "random")
    if weights is None:
        return []
    reading.set(f"{ours}.path", weights.ours, f"{_WEIGHTS}.PARAMS_FILE")
    for name, setting in _KEY_SETTINGS.items():
        if reading.get(f"{_WEIGHTS}.{name}"):
            reading.carry(f"{_WEIGHTS}.{name}", f"{ours}.{setting}")
        elif reading.is_given(f"{_WEIGHTS}.{name}"):
            reading.judge(f"{_WEIGHTS}.{name}", f"{ours}.{setting}: found by itself")
    return [weights]


def read_cluster_labels(reading: Reading) -> list[Placement]:
    """Set the clusters that step 2 trains on, from the labels of DATA.TRAIN.

    Raises:
        ConfigError: they come from folders, or from no file.
    """
    sources, key = "DATA.TRAIN.LABEL_SOURCES", "DATA.TRAIN.LABEL_PATHS"
    kind = _read_one(reading, sources)
    if kind != "disk_filelist":
        raise reading.fault(sources, "[disk_filelist]: step 2 trains on a file of cluster labels")
    theirs = _read_one(reading, key)
    if not theirs or " " in theirs:
        raise reading.fault(key, f"the labels of step 1; add 'config.{key}=[LABELS.npy]'")
    below = place_on_storage(theirs, "labels")
    reading.judge(sources, "inputs.assignments")
    reading.carry(
        key, "inputs.assignments", below,
        "" if below == theirs else f"{_verb(theirs)} below the storage root",
    )  # fmt: skip
    return [Placement(theirs, below, "storage")]


def place_on_storage(path: str, folder: str) -> str:
    """Return where a file stands below the storage root: as it is, or by its name in a folder."""
    is_inside = not path.startswith("/") and "://" not in path
    if is_inside and ".." not in PurePosixPath(path).parts:
        return path
    return f"{folder}/{PurePosixPath(path).name}"


def _verb(path: str) -> str:
    return "download it to there," if "://" in path else "put it there,"


def _read_kind(reading: Reading, partition: str) -> str:
    name = f"DATA.{partition}.DATA_SOURCES"
    source = _read_one(reading, name)
    if not source:
        # VISSL takes it from its catalog, whose names end so.
        is_list = _read_one(reading, f"DATA.{partition}.DATASET_NAMES").endswith("filelist")
        return "filelist" if is_list else "folder"
    if source not in _SOURCES:
        raise reading.fault(name, f"one of {', '.join(_SOURCES)}")
    reading.judge(name, f"data.format: {_SOURCES[source]}")
    return _SOURCES[source]


def _judge_rest(reading: Reading, partition: str) -> None:
    """Say what becomes of the keys that only change which images are seen."""
    if reading.integer(f"DATA.{partition}.DATA_LIMIT") > 0:
        reading.judge(
            f"DATA.{partition}.DATA_LIMIT",
            change="left out: all images are taken; list those that you want with format: filelist",
        )
    for key in ("REMOVE_IMG_PATH_PREFIX", "NEW_IMG_PATH_PREFIX"):
        if reading.text(f"DATA.{partition}.{key}"):
            reading.judge(
                f"DATA.{partition}.{key}",
                change="left out: the paths of a list begin at the data root; rewrite the list",
            )
    if reading.text(f"DATA.{partition}.COLLATE_FUNCTION") != "default_collate":
        reading.judge(
            f"DATA.{partition}.COLLATE_FUNCTION",
            change="left out: images are batched as they are, never mixed",
        )


def _read_one(reading: Reading, name: str) -> str:
    """Return the only item of a list, empty where it has none."""
    items: list[Any] = reading.sequence(name)
    if len(items) > 1:
        raise reading.fault(name, "one data set; train on several by listing them in one file list")
    if items and not isinstance(items[0], str):
        raise reading.fault(name, "a list of one text")
    return items[0] if items else ""


def _find_common_root(paths: list[str]) -> str:
    """Return the folder that holds all of these absolute paths, and more than one of them."""
    parents = [os.path.dirname(path.rstrip("/")) for path in paths]  # noqa: PTH120 - others' paths
    return os.path.commonpath(parents) if parents else ""
