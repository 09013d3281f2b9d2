"""Files that Pillow decodes: what torchvision cannot read, and PNG.

torchvision 0.29 dies of SIGSEGV, with the whole rank, at the first damaged byte in the pixels of a
PNG: libpng reports such an error by a long jump that its decoder no longer expects.
"""

from __future__ import annotations

from typing import IO, Final

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

_BEGINNINGS: Final = {
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"BM": "BMP",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"P4": "PPM",
    b"P5": "PPM",
    b"P6": "PPM",
}


def find_format(content: bytes | bytearray) -> str | None:
    """Return what Pillow calls the format of a file that it decodes; None for any other."""
    found = (name for start, name in _BEGINNINGS.items() if content.startswith(start))
    return next(found, None)


def decode(file: IO[bytes], name: str) -> torch.Tensor:
    """Return the image of a file of one format as (3, H, W) uint8, upright as its EXIF says.

    An alpha channel is left away, 16-bit values keep their high bytes, and of several images or
    frames the first counts.

    Raises:
        ValueError: it is damaged, cut off, holds more than 16 bits a value, or would fill the
            memory (more than 179 megapixels).
    """
    try:
        with Image.open(file, formats=[name]) as opened:
            pixels = _read_pixels(ImageOps.exif_transpose(opened))
    except UnidentifiedImageError as error:  # its words hold the open file's
        raise ValueError(f"a damaged {name}: its header cannot be read") from error
    except Exception as error:  # Pillow has no error of its own: OSError, SyntaxError, zlib.error
        raise ValueError(f"a damaged {name}: {str(error) or type(error).__name__}") from error
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def _read_pixels(image: Image.Image) -> np.ndarray:
    """Return (H, W, 3) uint8. Pillow itself would clip what has more than 8 bits."""
    if not image.mode.startswith(("I", "F")):
        return np.array(image.convert("RGB"))
    grey = np.asarray(image)
    if image.mode == "F" or grey.min() < 0 or grey.max() > 0xFFFF:
        raise ValueError("holds 32-bit values, want 8 or 16 bits")
    return np.repeat((grey >> 8).astype(np.uint8)[..., None], 3, axis=-1)
