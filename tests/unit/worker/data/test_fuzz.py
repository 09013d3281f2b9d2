"""Images with wrong bytes: they are decoded, or named with a reason, and nobody dies of them."""

from __future__ import annotations

import struct
import subprocess
import sys
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.chance import damage, draw_cases

pytestmark = pytest.mark.campaign

NUM_CASES = 1000

READ_THEM_ALL = """
import sys, warnings
from pathlib import Path
warnings.simplefilter("ignore")
from clusterfit.config.sections.extraction import CenterView
from clusterfit.worker.data.images import ImageSet
from clusterfit.worker.data.views import build_center_view
paths = sorted(path.name for path in Path(sys.argv[1]).iterdir())
view = build_center_view(CenterView(resize_pixels=9, crop_pixels=8))
images = ImageSet(Path(sys.argv[1]), paths, view, seed=0, substitute=False)
for index, path in enumerate(paths):
    print(path, end=" ", flush=True)
    example = images[0, index]
    if example.image is None:
        [why] = example.unreadable.values()
        assert why and why.isprintable(), repr(why)
        print("unreadable:", why, flush=True)
    else:
        assert example.image.shape == (3, 8, 8)
        print("read", flush=True)
"""
"""Its own process, because a decoder that fails may take its process with it."""


def _encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _mend_checksums(content: bytes) -> bytes:
    """Return a PNG whose chunks have right checksums, so that the damage goes deeper."""
    mended = bytearray(content)
    start = 8
    while start + 12 <= len(mended):
        (size,) = struct.unpack(">I", mended[start : start + 4])
        end = start + 8 + size
        if end + 4 > len(mended):
            break
        mended[end : end + 4] = struct.pack(">I", zlib.crc32(mended[start + 4 : end]))
        start = end + 4
    return bytes(mended)


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp", "gif", "bmp", "tiff", "ppm"])
def test_damaged_images_are_decoded_or_named(
    tmp_path: Path, picture: np.ndarray, kind: str
) -> None:
    colours = Image.fromarray(picture[:24, :32])
    exif = Image.Exif()
    exif[0x112] = 6
    originals = {
        "png": [_encode(colours, "png", exif=exif), _encode(colours.convert("L"), "png"),
                _encode(colours.quantize(16), "png", transparency=0)],
        "jpeg": [_encode(colours, "jpeg", exif=exif), _encode(colours, "jpeg", progressive=True),
                 _encode(colours.convert("CMYK"), "jpeg")],
        "webp": [_encode(colours, "webp"), _encode(colours, "webp", lossless=True)],
        "gif": [_encode(colours, "gif"),
                _encode(colours, "gif", save_all=True, append_images=[colours.rotate(90)])],
        "bmp": [_encode(colours, "bmp"), _encode(colours.quantize(16), "bmp")],
        "tiff": [_encode(colours, "tiff", compression=how)
                 for how in ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits")],
        "ppm": [_encode(colours, "ppm"), _encode(colours.convert("L"), "ppm")],
    }[kind]  # fmt: skip
    labels: dict[str, str] = {}
    for label, chance in draw_cases(f"image/{kind}", NUM_CASES):
        content = damage(chance.choice(originals), chance)
        if kind == "png" and chance.random() < 0.5:
            content = _mend_checksums(content)
        name = f"{len(labels):05d}.{kind}"
        (tmp_path / name).write_bytes(content)
        labels[name] = label
    ending = subprocess.run(
        [sys.executable, "-c", READ_THEM_ALL, str(tmp_path)], capture_output=True, text=True
    )
    lines = ending.stdout.splitlines()
    last = lines[-1] if lines else ""
    assert ending.returncode == 0, f"{labels.get(last.split()[0])}: {last} {ending.stderr[-500:]}"
    assert len(lines) == len(labels)
    num_read = sum(line.endswith(" read") for line in lines)
    assert 20 < num_read < len(lines) - 20
