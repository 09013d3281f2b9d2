"""Colours of a batch, against torchvision's changes one by one and the standard library."""

from __future__ import annotations

import colorsys
from itertools import permutations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms.v2 import functional

from clusterfit.worker.data.jitter import ColorJitter

CPU = torch.device("cpu")
CHANGES = (
    functional.adjust_brightness,
    functional.adjust_contrast,
    functional.adjust_saturation,
    functional.adjust_hue,
)
ORDERS = list(permutations(range(4)))
STRENGTHS = [
    (0.4, 0.4, 0.4, 0.2),
    (0.0, 0.0, 0.0, 0.5),
    (1.5, 0.0, 0.0, 0.0),
    (0.0, 0.8, 0.0, 0.1),
    (0.0, 0.0, 2.0, 0.0),
    (0.3, 0.3, 0.3, 0.0),
]


def change_one_by_one(
    image: torch.Tensor, strengths: tuple[float, ...], draws: torch.Tensor
) -> torch.Tensor:
    """Return torchvision's (3, s, s) in 0..255: each change in its turn, on colours in 0..1."""
    colours = image.float() / 255
    for change in draws[4:].argsort().tolist():
        strength, draw = strengths[change], float(draws[change])
        low, high = max(0.0, 1 - strength), 1 + strength
        if change == 3:
            low, high = -strength, strength
        colours = CHANGES[change](colours, low + draw * (high - low))
    return colours * 255


@pytest.mark.parametrize("strengths", STRENGTHS)
def test_colours_are_those_of_torchvision_in_every_order(strengths: tuple[float, ...]) -> None:
    generator = torch.Generator().manual_seed(1)
    shape = (len(ORDERS), 3, 12, 12)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    moments = torch.tensor(ORDERS) / 4 + 0.1
    draws = torch.cat([torch.rand(len(ORDERS), 4, generator=generator), moments], 1)
    jitter = ColorJitter(strengths, CPU)
    assert jitter.num_draws == 8
    seen = jitter(images, draws)
    assert seen.dtype == torch.float32
    for image, drawn, got in zip(images, draws, seen, strict=True):
        # torchvision's weights of red, green and blue have one digit more.
        torch.testing.assert_close(
            got, change_one_by_one(image, strengths, drawn), atol=0.1, rtol=0
        )
    assert float((seen - images).abs().max()) > 20


def test_hues_turn_as_those_of_the_standard_library() -> None:
    generator = torch.Generator().manual_seed(2)
    images = torch.randint(0, 256, (1, 3, 20, 20), dtype=torch.uint8, generator=generator)
    images[..., :2] = 77  # greys have no hue
    images[0, :, 0, 2:5] = torch.tensor([[255, 0, 9], [0, 255, 9], [255, 255, 0]])
    for draw in (0.0, 0.3, 0.5, 0.9, 1.0):
        draws = torch.tensor([[0, 0, 0, draw, 0, 0, 0, 0]])
        seen = ColorJitter((0, 0, 0, 0.5), CPU)(images, draws)
        for pixel, got in zip(images[0].flatten(1).T, seen[0].flatten(1).T, strict=True):
            hue, saturation, value = colorsys.rgb_to_hsv(*(pixel.double() / 255).tolist())
            expected = colorsys.hsv_to_rgb((hue + draw - 0.5) % 1, saturation, value)
            torch.testing.assert_close(got, torch.tensor(expected) * 255, atol=0.01, rtol=0)


def test_a_draw_in_the_middle_changes_nothing() -> None:
    images = torch.randint(0, 256, (5, 3, 9, 9), dtype=torch.uint8)
    draws = torch.cat([torch.full((5, 4), 0.5), torch.rand(5, 4)], 1)
    seen = ColorJitter((0.4, 0.4, 0.4, 0.2), CPU)(images, draws)
    torch.testing.assert_close(seen, images.float(), atol=0.01, rtol=0)


def test_without_strengths_nothing_is_drawn_and_images_stay_as_they_are() -> None:
    images = torch.randint(0, 256, (5, 3, 9, 9), dtype=torch.uint8)
    jitter = ColorJitter((0, 0, 0, 0), CPU)
    assert jitter.num_draws == 0
    assert torch.equal(jitter(images, torch.empty(5, 0)), images)


@settings(deadline=None, max_examples=50)
@given(
    st.integers(0, 2**32),
    st.tuples(*[st.floats(0, 5)] * 3, st.floats(0, 0.5)),
    st.sampled_from([0, 1, 128, 254, 255]),
)
def test_colours_stay_colours(seed: int, strengths: tuple[float, ...], grey: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (3, 3, 5, 5), dtype=torch.uint8, generator=generator)
    images[0] = grey
    draws = torch.rand(3, 8, generator=generator)
    seen = ColorJitter(strengths, CPU)(images, draws)
    assert seen.shape == images.shape
    assert bool(((seen >= -1e-3) & (seen <= 255.001)).all())  # and none is NaN


def test_the_callers_images_are_left_alone() -> None:
    images = torch.randint(0, 256, (2, 3, 9, 9), dtype=torch.uint8)
    before = images.clone()
    ColorJitter((0.4, 0.4, 0.4, 0.2), CPU)(images, torch.rand(2, 8))
    assert torch.equal(images, before)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU: torch sees none")
def test_a_gpu_changes_colours_as_a_cpu_does() -> None:
    images = torch.randint(0, 256, (8, 3, 33, 33), dtype=torch.uint8)
    draws = torch.rand(8, 8)
    seen = [
        ColorJitter((0.4, 0.4, 0.4, 0.2), torch.device(device))(images, draws)
        for device in ("cpu", "cuda")
    ]
    torch.testing.assert_close(seen[1].cpu(), seen[0], atol=0.01, rtol=0)
