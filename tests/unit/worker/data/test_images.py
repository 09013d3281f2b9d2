"""Every format becomes RGB with the right values; what cannot be decoded is named, not guessed."""

from __future__ import annotations

import multiprocessing
import os
import signal
import struct
import sys
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from clusterfit.config.sections.extraction import CenterView
from clusterfit.config.sections.training import Train
from clusterfit.errors import RetryableError
from clusterfit.worker.cores import count_cores
from clusterfit.worker.data.images import (
    Batch,
    Example,
    ImageSet,
    build_loader,
    collate,
    read_image,
)
from clusterfit.worker.data.views import build_center_view, build_train_view

VIEW = build_center_view(CenterView(resize_pixels=8, crop_pixels=8))
CPU = torch.device("cpu")


def read(path: Path) -> np.ndarray:
    """Return (H, W, 3) int64, so that differences do not wrap."""
    image = read_image(path)
    assert image.dtype == torch.uint8
    assert image.shape[0] == 3
    return image.permute(1, 2, 0).numpy().astype(np.int64)


def encode(picture: np.ndarray, kind: str) -> bytes:
    buffer = BytesIO()
    Image.fromarray(picture).save(buffer, kind)
    return buffer.getvalue()


def difference(got: np.ndarray, want: np.ndarray) -> int:
    assert got.shape == want.shape
    return int(np.abs(got - want.astype(np.int64)).max())


def test_png_is_exact(tmp_path: Path, picture: np.ndarray) -> None:
    Image.fromarray(picture).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read(tmp_path / "a.png"), picture)


@pytest.mark.parametrize("progressive", [False, True])
def test_jpeg_is_close(tmp_path: Path, picture: np.ndarray, progressive: bool) -> None:
    Image.fromarray(picture).save(tmp_path / "a.jpg", quality=98, progressive=progressive)
    assert difference(read(tmp_path / "a.jpg"), picture) < 12


def test_a_suffix_may_lie_about_the_format(tmp_path: Path, picture: np.ndarray) -> None:
    (tmp_path / "a.jpg").write_bytes(encode(picture, "png"))
    np.testing.assert_array_equal(read(tmp_path / "a.jpg"), picture)


def test_webp_is_read(tmp_path: Path, picture: np.ndarray) -> None:
    Image.fromarray(picture).save(tmp_path / "a.webp", lossless=True)
    np.testing.assert_array_equal(read(tmp_path / "a.webp"), picture)


@pytest.mark.parametrize("kind", ["bmp", "tiff", "ppm"])
def test_what_torchvision_cannot_decode_is_read(
    tmp_path: Path, picture: np.ndarray, kind: str
) -> None:
    (tmp_path / "a").write_bytes(encode(picture, kind))
    np.testing.assert_array_equal(read(tmp_path / "a"), picture)


def test_a_tiff_is_upright_and_its_first_page_counts(tmp_path: Path, picture: np.ndarray) -> None:
    exif = Image.Exif()
    exif[0x112] = 6
    first, other = Image.fromarray(picture), Image.fromarray(255 - picture)
    first.save(tmp_path / "a.tif", exif=exif, save_all=True, append_images=[other])
    np.testing.assert_array_equal(read(tmp_path / "a.tif"), np.rot90(picture, -1))


@pytest.mark.parametrize(
    "values", [np.array([[0.5, 2]], np.float32), np.array([[1 << 20, 0]], np.int32)]
)
def test_32_bit_values_are_refused(tmp_path: Path, values: np.ndarray) -> None:
    Image.fromarray(values).save(tmp_path / "a.tif")
    with pytest.raises(ValueError, match="a damaged TIFF: holds 32-bit values, want 8 or 16 bits"):
        read_image(tmp_path / "a.tif")


@pytest.mark.parametrize("kind", ["png", "jpeg"])
def test_greyscale_becomes_three_equal_channels(
    tmp_path: Path, picture: np.ndarray, kind: str
) -> None:
    grey = picture[..., 0]
    (tmp_path / "a").write_bytes(encode(grey, kind))
    assert difference(read(tmp_path / "a"), np.stack([grey] * 3, -1)) <= (0 if kind == "png" else 4)


def test_black_and_white_uses_the_whole_range(tmp_path: Path, picture: np.ndarray) -> None:
    mask = picture[..., 0] > 100
    Image.fromarray(mask).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read(tmp_path / "a.png"), np.stack([mask * 255] * 3, -1))


def test_cmyk_jpeg_is_not_read_inverted(tmp_path: Path, picture: np.ndarray) -> None:
    Image.fromarray(picture).convert("CMYK").save(tmp_path / "a.jpg", quality=98)
    assert difference(read(tmp_path / "a.jpg"), picture) < 12


def test_an_alpha_channel_is_left_away(tmp_path: Path, picture: np.ndarray) -> None:
    alpha = np.full((*picture.shape[:2], 1), 128, np.uint8)
    Image.fromarray(np.concatenate([picture, alpha], -1)).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read(tmp_path / "a.png"), picture)


@pytest.mark.parametrize("transparency", [None, 0])
def test_a_palette_is_resolved(
    tmp_path: Path, picture: np.ndarray, transparency: int | None
) -> None:
    image = Image.fromarray(picture).quantize(32)
    image.save(tmp_path / "a.png", transparency=transparency)
    np.testing.assert_array_equal(read(tmp_path / "a.png"), np.array(image.convert("RGB")))


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.pgm"])
def test_16_bit_greyscale_keeps_its_high_bytes(tmp_path: Path, name: str) -> None:
    values = np.array([[0, 255, 256], [32768, 65280, 65535]], np.uint16)
    Image.fromarray(values).save(tmp_path / name)
    expected = np.array([[0, 0, 1], [128, 255, 255]])
    np.testing.assert_array_equal(read(tmp_path / name), np.stack([expected] * 3, -1))


def test_16_bit_colour_keeps_its_high_bytes(tmp_path: Path) -> None:
    """Pillow writes none, so the file is put together by hand."""
    values = (np.arange(4 * 5 * 3) * 1110).reshape(4, 5, 3)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)

    def chunk(name: bytes, content: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(name + content))
        return struct.pack(">I", len(content)) + name + content + checksum

    header = struct.pack(">IIBBBBB", 5, 4, 16, 2, 0, 0, 0)
    (tmp_path / "a.png").write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )
    np.testing.assert_array_equal(read(tmp_path / "a.png"), values // 256)


def test_a_png_with_one_wrong_bit_is_refused_and_nobody_dies_of_it(
    tmp_path: Path, picture: np.ndarray
) -> None:
    whole = encode(picture, "png")
    pixels = whole.index(b"IDAT") + 4
    refused = []
    positions = range(pixels, len(whole) - 20, 97)
    for position in positions:
        damaged = bytearray(whole)
        damaged[position] ^= 16
        (tmp_path / "a.png").write_bytes(damaged)
        try:
            assert read_image(tmp_path / "a.png").shape == (3, *picture.shape[:2])
        except ValueError as error:
            refused.append(str(error))
    assert len(refused) > len(positions) / 2
    assert all(why.startswith("a damaged PNG: ") for why in refused)


def test_an_animation_is_its_first_frame(tmp_path: Path, picture: np.ndarray) -> None:
    first = Image.fromarray(picture).quantize(64)
    second = Image.fromarray(255 - picture).quantize(64)
    first.save(tmp_path / "a.gif", save_all=True, append_images=[second])
    np.testing.assert_array_equal(read(tmp_path / "a.gif"), np.array(first.convert("RGB")))


@pytest.mark.parametrize("kind", ["png", "jpeg"])
@pytest.mark.parametrize(
    ("orientation", "turn"),
    [
        (1, lambda a: a),
        (2, lambda a: a[:, ::-1]),
        (3, lambda a: a[::-1, ::-1]),
        (6, lambda a: a.transpose(1, 0, 2)[:, ::-1]),
        (8, lambda a: a.transpose(1, 0, 2)[::-1]),
    ],
)
def test_images_stand_as_their_exif_says(
    tmp_path: Path,
    picture: np.ndarray,
    kind: str,
    orientation: int,
    turn: Callable[[np.ndarray], np.ndarray],
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(picture).save(tmp_path / "a", kind, exif=exif, quality=98)
    assert difference(read(tmp_path / "a"), turn(picture)) < 12


def test_one_pixel_is_an_image(tmp_path: Path) -> None:
    Image.fromarray(np.array([[[10, 20, 30]]], np.uint8)).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read(tmp_path / "a.png"), [[[10, 20, 30]]])


@pytest.fixture
def broken(tmp_path: Path, picture: np.ndarray) -> dict[str, str]:
    """Write files that are no whole images; their names, and what is said of each."""
    contents = {
        "a-cut.jpg": (encode(picture, "jpeg")[:-200], "incomplete or truncated"),
        "b-cut.png": (encode(picture, "png")[:-200], "a damaged PNG: image file is truncated"),
        "c-cut.gif": (encode(picture, "gif")[:-200], "failed"),
        "d-cut.webp": (encode(picture, "webp")[:-20], "failed"),
        "e-text.jpg": (b"this is no image\n", "Unsupported image file"),
        "f-empty.png": (b"", "an empty file"),
        "g-cut.bmp": (encode(picture, "bmp")[:-200], "a damaged BMP: image file is truncated"),
        "h-zeros.jpg": (bytes(1000), "Unsupported image file"),
    }
    for name, (content, _) in contents.items():
        (tmp_path / name).write_bytes(content)
    return {name: why for name, (_, why) in contents.items()} | {"i-gone.png": "No such file"}


def test_broken_files_are_named_with_one_line_each(tmp_path: Path, broken: dict[str, str]) -> None:
    images = ImageSet(tmp_path, list(broken), VIEW, seed=0, substitute=False)
    for sample_index, why in enumerate(broken.values()):
        example = images[0, sample_index]
        assert example.image is None
        assert list(example.unreadable) == [sample_index]
        reason = example.unreadable[sample_index]
        assert why in reason
        assert "\n" not in reason
        assert ".cpp" not in reason


@pytest.fixture
def mixed(tmp_path: Path, broken: dict[str, str], picture: np.ndarray) -> list[str]:
    """Two readable images, then the broken ones, then a readable one."""
    for name in ("x.png", "y.png", "z.png"):
        Image.fromarray(picture).save(tmp_path / name)
    return ["x.png", "y.png", *broken, "z.png"]


def test_the_next_readable_image_stands_in_for_an_unreadable_one(
    tmp_path: Path, mixed: list[str]
) -> None:
    images = ImageSet(tmp_path, mixed, VIEW, seed=0, substitute=True)
    last = len(mixed) - 1
    example = images[0, 4]
    assert example.image is not None
    assert example.sample_index == last
    assert sorted(example.unreadable) == list(range(4, last))
    assert images[0, 1].sample_index == 1
    assert images[0, 1].unreadable == {}


def test_the_stand_in_may_be_at_the_beginning(tmp_path: Path, mixed: list[str]) -> None:
    images = ImageSet(tmp_path, mixed[:-1], VIEW, seed=0, substitute=True)
    assert images[0, 5].sample_index == 0


def test_when_nothing_can_be_read_the_search_ends(tmp_path: Path, broken: dict[str, str]) -> None:
    example = ImageSet(tmp_path, list(broken), VIEW, seed=0, substitute=True)[0, 3]
    assert example.image is None
    assert sorted(example.unreadable) == list(range(len(broken)))


def test_a_batch_holds_the_readable_and_the_reasons_of_the_others(
    tmp_path: Path, mixed: list[str]
) -> None:
    images = ImageSet(tmp_path, mixed, VIEW, seed=0, substitute=False)
    last = len(mixed) - 1
    batch = collate([images[0, index] for index in (last, 3, 0, 4)])
    assert batch.images.shape == (2, 3, 8, 8)
    assert batch.sample_indices.tolist() == [last, 0]
    assert sorted(batch.unreadable) == [3, 4]


def test_a_batch_without_a_readable_image_is_empty() -> None:
    batch = collate([Example(None, 5, {5: "why"})])
    assert len(batch.images) == len(batch.sample_indices) == 0
    assert batch.unreadable == {5: "why"}


@pytest.mark.parametrize("loaders", [0, 2])
def test_batches_come_in_the_order_asked_for_whoever_loads_them(
    tmp_path: Path, mixed: list[str], loaders: int
) -> None:
    view = build_train_view(Train(crop_pixels=8))
    images = ImageSet(tmp_path, mixed, view, seed=3, substitute=True, num_draws=5)
    keys = [[(epoch, index) for index in (1, 0, 2)] for epoch in range(4)]
    batches: list[Batch] = list(build_loader(images, keys, loaders, CPU))
    expected = [collate([images[key] for key in batch]) for batch in keys]
    assert len(batches) == 4
    for got, want in zip(batches, expected, strict=True):
        assert torch.equal(got.images, want.images)
        assert got.draws.shape == (3, 5)
        assert torch.equal(got.draws, want.draws)
        assert torch.equal(got.sample_indices, want.sample_indices)
        assert got.unreadable == want.unreadable
    assert not torch.equal(batches[0].images, batches[1].images), "another epoch, another view"


def test_a_view_is_a_function_of_seed_epoch_and_sample_and_of_nothing_else(
    tmp_path: Path, mixed: list[str]
) -> None:
    view = build_train_view(Train(crop_pixels=8))

    def load(seed: int, epoch: int, sample_index: int) -> tuple[torch.Tensor, torch.Tensor]:
        images = ImageSet(tmp_path, mixed, view, seed=seed, substitute=False, num_draws=3)
        example = images[epoch, sample_index]
        assert example.image is not None
        return example.image, example.draws

    torch.manual_seed(1)
    image, draws = load(0, 0, 0)
    torch.manual_seed(2)
    state = torch.random.get_rng_state()
    again = load(0, 0, 0)
    assert torch.equal(again[0], image)
    assert torch.equal(again[1], draws)
    assert torch.equal(torch.random.get_rng_state(), state), "nobody else's randomness is used up"
    # x.png and y.png hold the same picture: what differs is the view.
    for other in (load(1, 0, 0), load(0, 1, 0), load(0, 0, 1)):
        assert not torch.equal(other[0], image)
        assert not torch.equal(other[1], draws)


def test_loading_processes_outlast_signals_that_are_sent_to_all(
    tmp_path: Path, mixed: list[str]
) -> None:
    """The rank, which is sent the same, still needs a batch to come to a step's end."""
    images = ImageSet(tmp_path, mixed, VIEW, seed=0, substitute=False)
    keys = [[(0, number % len(mixed))] for number in range(40)]
    batches = build_loader(images, keys, 2, CPU)
    next(batches)
    loaders = multiprocessing.active_children()
    assert len(loaders) == min(2, count_cores())
    for loader in loaders:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            os.kill(loader.pid or 0, number)
    assert len(list(batches)) == 39
    assert signal.SIGTERM not in signal.pthread_sigmask(signal.SIG_BLOCK, []), "not this one's"


@pytest.mark.skipif(sys.platform != "linux", reason="the file that fails to be read is Linux's")
@pytest.mark.parametrize("loaders", [0, 1])
def test_storage_that_fails_ends_the_attempt_and_blames_no_image(
    tmp_path: Path, mixed: list[str], loaders: int
) -> None:
    (tmp_path / "lost.png").symlink_to("/proc/self/mem")  # reading it is an input/output error
    images = ImageSet(tmp_path, [*mixed, "lost.png"], VIEW, seed=0, substitute=True)
    keys = [[(0, 0), (0, len(mixed))]]
    with pytest.raises(RetryableError) as caught:
        list(build_loader(images, keys, loaders, CPU))
    assert multiprocessing.active_children() == [], "while the error is at hand"
    [fault] = caught.value.faults
    assert fault.startswith(f"{tmp_path / 'lost.png'}: Input/output error; ")
    assert "\n" not in fault
