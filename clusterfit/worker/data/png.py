"""PNG files, decoded by Pillow.

torchvision 0.29 dies of SIGSEGV, with the whole rank, at the first damaged byte in the pixels of a
PNG: libpng reports such an error by a long jump that its decoder no longer expects.
"""

from __future__ import annotations

from typing import IO, Final

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

PNG_MAGIC: Final = b"\x89PNG\r\n\x1a\n"


def decode_png(file: IO[bytes]) -> torch.Tensor:
    """Return the image of a file as (3, H, W) uint8, upright as its EXIF says.

    An alpha channel is left away, 16-bit values keep their high bytes, and of an animation the
    first frame counts.

    Raises:
        ValueError: it is damaged, cut off, or would fill the memory (more than 179 megapixels).
    """
    try:
        with Image.open(file, formats=["PNG"]) as opened:
            image = ImageOps.exif_transpose(opened)
            if image.mode.startswith("I"):  # 16-bit greyscale, which Pillow would clip
                grey = (np.asarray(image) >> 8).astype(np.uint8)
                pixels = np.repeat(grey[..., None], 3, axis=-1)
            else:
                pixels = np.array(image.convert("RGB"))
    except UnidentifiedImageError as error:  # its words hold the open file's
        raise ValueError("a damaged PNG: its header cannot be read") from error
    except Exception as error:  # Pillow has no error of its own: OSError, SyntaxError, zlib.error
        raise ValueError(f"a damaged PNG: {str(error) or type(error).__name__}") from error
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()
