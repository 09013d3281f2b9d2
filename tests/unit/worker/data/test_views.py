"""What the network sees of an image, against arrays made by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import v2

from clusterfit.config.sections.extraction import CenterView
from clusterfit.config.sections.training import Pretext, Train
from clusterfit.worker.data.views import (
    Normalizer,
    View,
    build_center_view,
    build_crop_view,
    build_pretext_view,
    build_train_view,
    choose_memory_format,
    rotate_fourfold,
)
from clusterfit.worker.randomness import derive_seed, permute, seeded

VIEWS = {
    "center": build_center_view(CenterView(resize_pixels=12, crop_pixels=8)),
    "crop": build_crop_view(8),
    "pretext": build_pretext_view(Pretext(crop_pixels=8)),
    "train": build_train_view(Train(crop_pixels=8)),
    "train, plain": build_train_view(Train(crop_pixels=8, horizontal_flip=False)),
}


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(sorted(VIEWS)), st.integers(1, 90), st.integers(1, 90))
def test_every_view_makes_a_square_of_any_image(name: str, height: int, width: int) -> None:
    image = torch.arange(3 * height * width).remainder(256).to(torch.uint8)
    seen = VIEWS[name](image.view(3, height, width))
    assert seen.shape == (3, 8, 8)
    assert seen.dtype == torch.uint8


def test_the_center_view_is_pillows_antialiased_resize_and_the_middle(picture: np.ndarray) -> None:
    """(48, 64) scaled to (24, 32), of which rows 4..19 and columns 8..23 are the middle."""
    view = build_center_view(CenterView(resize_pixels=24, crop_pixels=16))
    resized = Image.fromarray(picture).resize((32, 24), Image.Resampling.BILINEAR)
    expected = np.array(resized).astype(int)[4:20, 8:24]
    got = view(torch.from_numpy(picture).permute(2, 0, 1)).permute(1, 2, 0).numpy().astype(int)
    assert np.abs(got - expected).max() <= 1


def test_a_center_view_of_the_right_size_changes_nothing(picture: np.ndarray) -> None:
    square = torch.from_numpy(picture[:16, :16].copy()).permute(2, 0, 1)
    view = build_center_view(CenterView(resize_pixels=16, crop_pixels=16))
    assert torch.equal(view(square), square)


@pytest.mark.parametrize("shape", [(3, 1, 20_000), (3, 20_000, 1)])
@pytest.mark.parametrize("view", [build_center_view(CenterView()), build_pretext_view(Pretext())])
def test_an_endless_strip_takes_little_memory(view: v2.Compose, shape: tuple[int, ...]) -> None:
    """Scaled to a short side of 256, 1 x 20000 pixels would be 256 x 5 million: 4 GB of them."""
    image = torch.zeros(shape, dtype=torch.uint8)
    for transform in view.transforms:
        image = transform(image)
        assert image.numel() <= 3 * 256 * 8 * 256
    assert image.shape == (3, 224, 224)


def test_a_strip_is_cut_around_its_middle() -> None:
    image = torch.zeros(3, 1, 1000, dtype=torch.uint8)
    image[:, :, 499:501] = 200
    view = build_center_view(CenterView(resize_pixels=8, crop_pixels=8))
    seen = view(image)
    assert seen[0, 4, 4] == 200
    assert torch.equal(seen, seen.flip(2))


@pytest.mark.parametrize("flips", [True, False])
def test_images_are_mirrored_only_where_that_is_asked_for(flips: bool) -> None:
    image = torch.arange(8).mul(30).to(torch.uint8).expand(3, 8, 8).contiguous()
    view = build_train_view(Train(crop_pixels=8, horizontal_flip=flips))
    rises = {bool(seen[0, 0, -1] > seen[0, 0, 0]) for seen in draw(view, image, 40)}
    assert rises == ({True, False} if flips else {True})


def draw(view: View, image: torch.Tensor, times: int) -> list[torch.Tensor]:
    seen = []
    for number in range(times):
        with seeded(number):
            seen.append(view(image))
    return seen


def test_fourfold_rotation_turns_counterclockwise_and_says_by_how_much() -> None:
    first = [[1, 2], [3, 4]]
    second = [[5, 6], [7, 8]]
    images = torch.tensor([[first] * 3, [second] * 3])  # (2, 3, 2, 2)
    turned, targets = rotate_fourfold(images)
    expected = [
        first, second,
        [[2, 4], [1, 3]], [[6, 8], [5, 7]],
        [[4, 3], [2, 1]], [[8, 7], [6, 5]],
        [[3, 1], [4, 2]], [[7, 5], [8, 6]],
    ]  # fmt: skip
    assert turned.tolist() == [[square] * 3 for square in expected]
    assert targets.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


@pytest.mark.parametrize("channels_last", [True, False])
def test_normalisation_is_numpys(channels_last: bool) -> None:
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    memory_format = choose_memory_format(channels_last)
    images = torch.randint(0, 256, (2, 3, 5, 7), dtype=torch.uint8)
    got = Normalizer(mean, std, torch.device("cpu"), memory_format)(images)
    pixels = images.permute(0, 2, 3, 1).numpy().astype(np.float64) / 255
    expected = (pixels - np.array(mean)) / np.array(std)
    np.testing.assert_allclose(got.permute(0, 2, 3, 1).numpy(), expected, atol=2e-6)
    assert got.dtype == torch.float32
    assert got.is_contiguous(memory_format=memory_format)


def test_seeds_differ_by_any_part_and_are_the_same_everywhere() -> None:
    seeds = {derive_seed("view", *parts) for parts in [(0, 1, 2), (0, 2, 1), (1, 1, 2), (0, 12)]}
    assert len(seeds) == 4
    assert all(0 <= seed < 2**63 for seed in seeds)
    # What `printf view/0/1/2 | b2sum -l 64` prints, read as little-endian and halved.
    assert (
        derive_seed("view", 0, 1, 2)
        == int.from_bytes(bytes.fromhex("86ece36314171fc4"), "little") >> 1
    )


def test_an_order_is_a_permutation_drawn_from_its_seed() -> None:
    there = permute(100, "order", 0, 3)
    assert sorted(there.tolist()) == list(range(100))
    assert torch.equal(permute(100, "order", 0, 3), there)
    assert not torch.equal(permute(100, "order", 0, 4), there)
