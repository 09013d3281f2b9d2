"""The case `loading`: what an image costs a loader's core, from the bytes of its file to its view.

Each side is given the same JPEG files, scikit-learn's two photographs in ImageNet's usual size, and
one thread. Sides take turns in one process: what they use is the same libraries.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any, Final

import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from torchvision.io import ImageReadMode, decode_image, read_file
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from benchmarks.cases import OURS
from benchmarks.data import FOLDER
from benchmarks.load import ForeignLoad
from benchmarks.loading_table import LOADING
from benchmarks.machine import describe_machine, describe_versions
from benchmarks.measure import RESULTS, Results
from clusterfit.config.sections.extraction import Extract
from clusterfit.config.sections.training import Pretext, Train
from clusterfit.worker.data.images import read_image
from clusterfit.worker.data.jitter import ColorJitter
from clusterfit.worker.data.views import (
    Normalizer,
    View,
    build_center_view,
    build_pretext_view,
    build_train_view,
)

DEVICE_PART: Final = "clusterfit, what is left to the device, on this core"

_SIZE: Final = (500, 375)
_QUALITY: Final = 90
_BATCH: Final = 32
_TRAIN: Final = Train()
_EXTRACT: Final = Extract()
_CPU: Final = torch.device("cpu")

Side = Callable[[Sequence[Path], int], Any]
"""Takes so many of the files, over and over."""


def measure_loading(num_rounds: int, folder: Path = RESULTS, num_images: int = 200) -> None:
    """Run what is missing of so many rounds."""
    results = Results(LOADING, folder)
    results.begin(
        {
            "machine": describe_machine(),
            "versions": describe_versions(),
            "data": f"photographs-{_SIZE[0]}x{_SIZE[1]}",
            "shape": [num_images],
        }
    )
    paths = write_photographs(FOLDER / "photographs")
    results.content["mean_bytes"] = sum(path.stat().st_size for path in paths) / len(paths)
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for number in range(num_rounds):
            for view, sides in VIEWS.items():
                for side, load in sides.items():
                    wanted = {"view": view, "side": side, "round": number}
                    if not results.find(**wanted):
                        results.records.append(wanted | _measure(load, paths, num_images))
                        results.save()
                        print(f"{LOADING} {wanted}: {results.records[-1]['seconds'] * 1e3:.2f} ms")
    finally:
        torch.set_num_threads(num_threads)


def write_photographs(folder: Path) -> list[Path]:
    """Return scikit-learn's photographs as JPEG files in the size that most of ImageNet has."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, pixels in enumerate(load_sample_images().images):
        image = Image.fromarray(pixels).resize(_SIZE, Image.Resampling.BICUBIC)
        path = folder / f"{number}.jpg"
        image.save(path, quality=_QUALITY)
        paths.append(path)
    return paths


def _measure(load: Side, paths: Sequence[Path], num_images: int) -> dict[str, float]:
    load(paths, len(paths))  # warm
    torch.manual_seed(0)  # the same crops for every side that draws them alike
    foreign = ForeignLoad()
    wall, start = time.monotonic(), time.process_time()
    load(paths, num_images)
    seconds = time.process_time() - start
    return {
        "seconds": seconds / num_images,
        "foreign_cores": foreign.measure(time.monotonic() - wall),
    }


def _one_by_one(load: Callable[[Path], torch.Tensor]) -> Side:
    def run(paths: Sequence[Path], num_images: int) -> None:
        for path in islice(cycle(paths), num_images):
            assert load(path).dtype == torch.uint8

    return run


def _ours(view: View) -> Side:
    return _one_by_one(lambda path: view(read_image(path)))


def _tensors(*transforms: torch.nn.Module) -> Side:
    """Tensors all the way, as torchvision's documentation advises."""
    view = v2.Compose(list(transforms))

    def load(path: Path) -> torch.Tensor:
        seen: torch.Tensor = view(decode_image(read_file(str(path)), ImageReadMode.RGB))
        return seen

    return _one_by_one(load)


def _pillow(*transforms: torch.nn.Module) -> Side:
    """Pillow's images up to the last step, as VISSL loads them."""
    view = v2.Compose(list(transforms))

    def load(path: Path) -> torch.Tensor:
        with Image.open(io.BytesIO(path.read_bytes())) as image:
            seen: torch.Tensor = functional.pil_to_tensor(view(image.convert("RGB")))
        return seen

    return _one_by_one(load)


def _on_the_device() -> Side:
    """Colours and normalisation, a batch at a time."""
    jitter = ColorJitter(_TRAIN.color_jitter, _CPU)
    normalize = Normalizer([0.5] * 3, [0.2] * 3, _CPU, torch.channels_last)
    side = _TRAIN.crop_pixels
    images = torch.randint(0, 256, (_BATCH, 3, side, side), dtype=torch.uint8)

    def run(_paths: Sequence[Path], num_images: int) -> None:
        for start in range(0, num_images, _BATCH):
            count = min(_BATCH, num_images - start)
            normalize(jitter(images[:count], torch.rand(count, jitter.num_draws)))

    return run


def _crops() -> tuple[torch.nn.Module, ...]:
    crop = v2.RandomResizedCrop(
        _TRAIN.crop_pixels, scale=(_TRAIN.crop_min_scale, 1.0), antialias=True
    )
    return (crop, v2.RandomHorizontalFlip(), v2.ColorJitter(*_TRAIN.color_jitter))


def _middle() -> tuple[torch.nn.Module, ...]:
    return (v2.Resize(_EXTRACT.resize_pixels, antialias=True), v2.CenterCrop(_EXTRACT.crop_pixels))


VIEWS: Final[Mapping[str, Mapping[str, Side]]] = {
    "train": {
        OURS: _ours(build_train_view(_TRAIN)),
        "torchvision, tensors": _tensors(*_crops()),
        "torchvision, Pillow": _pillow(*_crops()),
        DEVICE_PART: _on_the_device(),
    },
    "extract": {
        OURS: _ours(build_center_view(_EXTRACT)),
        "torchvision, tensors": _tensors(*_middle()),
        "torchvision, Pillow": _pillow(*_middle()),
    },
    "pretext": {OURS: _ours(build_pretext_view(Pretext()))},
}
"""Stage -> whose loading -> what is measured."""
