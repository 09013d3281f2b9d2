"""A data set of everything that folders of images have in them, through all stages."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clusterfit.artifacts.files import read_array

from .conftest import CONFIG
from .door import Bench

pytestmark = pytest.mark.campaign

CLASSES = ("rote Blumen", "日本 語", "-dash [x] (1)")


def _draw(height: int, width: int, number: int) -> Image.Image:
    down, across = np.mgrid[0:height, 0:width]
    channels = [down * 5 + number * 9, across * 3, (down + across) * (number % 4 + 1)]
    return Image.fromarray((np.stack(channels, -1) % 256).astype(np.uint8))


def _write_partition(folder: Path, num_per_class: int) -> None:
    for position, name in enumerate(CLASSES):
        deep = folder / name / "deep er"
        deep.mkdir(parents=True)
        for number in range(num_per_class):
            suffix = ("jpg", "png", "webp", "gif", "JPEG")[number % 5]
            file = deep / f'ünï%20 {number}=a"q".{suffix}'
            _draw(30 + number, 40 + position, number + position).save(file)
    odd = folder / CLASSES[0]
    Image.fromarray(np.arange(48 * 64, dtype=np.uint16).reshape(48, 64) * 20).save(
        odd / "16 bit.png"
    )
    _draw(40, 40, 1).convert("CMYK").save(odd / "cmyk.jpg")
    _draw(40, 40, 2).quantize(16).save(odd / "palette.png", transparency=0)
    _draw(40, 40, 3).convert("1").save(odd / "bits.png")
    _draw(1, 1, 4).save(odd / "one pixel.png")
    _draw(2000, 20, 5).save(odd / "tall.jpg")
    _draw(20, 2000, 6).save(odd / "wide.jpg")
    exif = Image.Exif()
    exif[0x112] = 6
    _draw(30, 60, 7).save(odd / "turned.jpg", exif=exif)
    for copy in "ab":
        _draw(40, 40, 8).save(odd / f"copy {copy}.png")
    lonely = folder / "lonely"
    lonely.mkdir()
    _draw(32, 32, 9).save(lonely / "only.png")
    (folder / "notes.txt").write_text("not an image")
    (folder / CLASSES[1] / ".hidden.jpg").write_text("not to be seen")


@pytest.fixture
def odd_images(tmp_path: Path) -> Path:
    """A data root whose train folder is a link, with one PNG of which a bit has turned."""
    root = tmp_path / "data root"
    _write_partition(root / "a store", 10)
    _write_partition(root / "val", 4)
    (root / "train").symlink_to("a store")
    damaged = bytearray((root / "val/lonely/only.png").read_bytes())
    damaged[damaged.index(b"IDAT") + 20] ^= 8
    (root / "train" / CLASSES[1] / "damaged.png").write_bytes(damaged)
    return root


def test_odd_images_go_through_all_stages(odd_images: Path, tmp_path: Path) -> None:
    bench = Bench(odd_images, tmp_path / "runs", CONFIG).changed(
        {"data.maxUnreadableFraction": 0.05, "evaluate.labelsPerClass": [1]}
    )
    bench.succeed("pipeline", 2)
    listed = (bench.run.data("train") / "samples.txt").read_text().splitlines()
    assert len(listed) == 3 * 10 + 10 + 1 + 1
    features = bench.run.features("res5avg", "train")
    [excluded] = (features / "excluded.txt").read_text().splitlines()
    path, why = excluded.split("\t")
    assert path == f"train/{CLASSES[1]}/damaged.png"
    assert why.startswith("a damaged PNG: ")
    assignments = read_array(bench.run.assignments("train"))
    assert np.flatnonzero(assignments < 0).tolist() == [listed.index(path)]
    copies = [assignments[listed.index(f"train/{CLASSES[0]}/copy {copy}.png")] for copy in "ab"]
    assert copies[0] == copies[1]
    results = json.loads(bench.run.results().read_text())
    assert (results["num_classes"], len(results["backbones"])) == (4, 3)
    assert bench.artifacts("verify").code == 0
