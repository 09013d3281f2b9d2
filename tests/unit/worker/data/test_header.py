"""How large an image is, is known before it fills the memory."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from clusterfit.worker.data.header import MOST_PIXELS, find_size
from clusterfit.worker.data.images import read_image

WIDTH, HEIGHT = 53, 37

HUGE = {
    "a.jpg": b"\xff\xd8\xff\0\xff\xff\xc2\0\x11\x08\xfd\xe8\xfd\xe8\x03",
    "a.gif": b"GIF89a\xe8\xfd\xe8\xfd\0\0\0",
    "a.webp": b"RIFF\x40\0\0\0WEBPVP8 \x30\0\0\0\0\0\0\x9d\x01\x2a\xff\x3f\xff\x3f",
    "l.webp": b"RIFF\x40\0\0\0WEBPVP8L\x30\0\0\0\x2f\xfe\xbf\xff\x0f",
    "x.webp": b"RIFF\x40\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0\xe7\xfd\0\xe7\xfd\0",
}
"""Headers of 65000 x 65000 pixels or, where WebP has no more bits, about 16383 x 16383."""

FORMS: dict[str, tuple[str, dict[str, Any]]] = {
    "jpeg": ("jpeg", {}),
    "progressive jpeg": ("jpeg", {"progressive": True}),
    "jpeg with much before its size": ("jpeg", {"comment": b"\xff\xc0" * 30_000, "dpi": (72, 72)}),
    "gif": ("gif", {}),
    "webp": ("webp", {}),
    "lossless webp": ("webp", {"lossless": True}),
    "extended webp": ("webp", {"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0"}),
}


def encode(form: str) -> bytes:
    kind, options = FORMS[form]
    pixels = np.arange(WIDTH * HEIGHT * 3, dtype=np.uint32).astype(np.uint8)
    buffer = BytesIO()
    Image.fromarray(pixels.reshape(HEIGHT, WIDTH, 3)).save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("form", FORMS)
def test_the_size_is_what_pillow_finds(form: str) -> None:
    content = encode(form)
    assert find_size(content) == Image.open(BytesIO(content)).size == (WIDTH, HEIGHT)


@pytest.mark.parametrize("name", HUGE)
def test_what_would_fill_the_memory_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(HUGE[name] + bytes(40))
    with pytest.raises(ValueError, match=r"^(65000|1638[34]) x \1 pixels would fill the memory, "):
        read_image(tmp_path / name)


def test_the_limit_is_pillows() -> None:
    assert Image.MAX_IMAGE_PIXELS is not None
    assert MOST_PIXELS == 2 * Image.MAX_IMAGE_PIXELS


@pytest.mark.parametrize("form", FORMS)
def test_a_header_that_is_cut_off_is_left_to_the_decoder(form: str) -> None:
    content = encode(form)
    for length in range(min(len(content), 700)):
        find_size(content[:length])
