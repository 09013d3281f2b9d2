"""VISSL's order of a folder is torchvision's ImageFolder's."""

from __future__ import annotations

import random
from pathlib import Path

from torchvision.datasets import ImageFolder

from clusterfit.artifacts.listing import list_images
from clusterfit.interop.vissl_order import list_in_vissl_order


def test_it_is_image_folders(tmp_path: Path) -> None:
    """Names with characters before and after `/`, folders inside class folders, mixed depths."""
    rng = random.Random(0)
    for _ in range(60):
        parts = ["".join(rng.choices("ab-. 0Z~_!é", k=rng.randint(1, 3))).strip(". ") or "x"
                 for _ in range(rng.randint(2, 4))]  # fmt: skip
        path = tmp_path.joinpath("train", *parts).with_suffix(".png")
        if path.parent.exists() or not any(p.is_file() for p in path.parents):
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.exists():
                path.touch()
    ours = [f"train/{path}" for path in list_images(tmp_path / "train", "data.train")]
    theirs = [
        Path(path).relative_to(tmp_path).as_posix()
        for path, _ in ImageFolder(str(tmp_path / "train")).samples
    ]
    assert [ours[number] for number in list_in_vissl_order(ours, "train")] == theirs
    assert ours != theirs, "the names above must be such that the orders differ"
