"""Sizes of the images that torchvision decodes, read before their pixels fill the memory.

torchvision itself has no limit: a valid JPEG of a few megabytes may ask for 12 GB.
"""

from __future__ import annotations

from typing import Final

MOST_PIXELS: Final = 178_956_970
"""Pillow's limit, which holds for the formats that it decodes."""

_LONE_JPEG_MARKERS: Final = frozenset((0x01, *range(0xD0, 0xD9)))
_JPEG_FRAMES: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_SCAN: Final = 0xDA


def check_size(content: bytes | bytearray) -> None:
    """Refuse an image whose header says that it would fill the memory.

    Raises:
        ValueError: saying how large it is.
    """
    width, height = find_size(content)
    if width * height > MOST_PIXELS:
        raise ValueError(
            f"{width} x {height} pixels would fill the memory, want at most {MOST_PIXELS:,}"
        )


def find_size(content: bytes | bytearray) -> tuple[int, int]:
    """Return width and height of a JPEG, GIF or WebP; zeros where they are not found."""
    if content.startswith(b"\xff\xd8"):
        return _find_jpeg_size(content)
    if content.startswith(b"GIF8"):
        return _read_number(content, 6, 2), _read_number(content, 8, 2)
    if content.startswith(b"RIFF"):
        return _find_webp_size(content)
    return 0, 0


def _find_jpeg_size(content: bytes | bytearray) -> tuple[int, int]:
    """Go from marker to marker, as libjpeg does: over what lies between them as well."""
    position = 2
    while (position := content.find(b"\xff", position)) >= 0:
        marker = content[position + 1] if position + 1 < len(content) else _JPEG_SCAN
        if marker == _JPEG_SCAN:
            break
        if marker in _JPEG_FRAMES:
            height, width = (content[position + at : position + at + 2] for at in (5, 7))
            return int.from_bytes(width, "big"), int.from_bytes(height, "big")
        if marker == 0xFF:
            position += 1
        elif marker == 0 or marker in _LONE_JPEG_MARKERS:
            position += 2
        else:
            position += 2 + int.from_bytes(content[position + 2 : position + 4], "big")
    return 0, 0


def _find_webp_size(content: bytes | bytearray) -> tuple[int, int]:
    """Source: the WebP container specification, RFC 9649."""
    kind = content[12:16]
    if kind == b"VP8X":
        return _read_number(content, 24, 3) + 1, _read_number(content, 27, 3) + 1
    if kind == b"VP8L":
        both = _read_number(content, 21, 4)
        return (both & 0x3FFF) + 1, (both >> 14 & 0x3FFF) + 1
    if kind == b"VP8 ":
        return _read_number(content, 26, 2) & 0x3FFF, _read_number(content, 28, 2) & 0x3FFF
    return 0, 0


def _read_number(content: bytes | bytearray, start: int, num_bytes: int) -> int:
    return int.from_bytes(content[start : start + num_bytes], "little")
