"""Counts and sizes as people read them."""

from __future__ import annotations

from typing import Final

_UNITS: Final = ("B", "kB", "MB", "GB", "TB")
_LEAST_OF_THE_NEXT: Final = 999.95
"""One decimal would show it, and what is above, as 1000."""


def format_count(number: int, one: str, many: str = "") -> str:
    """Return a number with what it counts: `1 file`, `2 files`, `1,281,167 images`.

    Args:
        number: how many.
        one: what one of them is called.
        many: what several are called, where that is not `one` and an s.
    """
    return f"{number:,} {one if number == 1 else many or f'{one}s'}"


def format_bytes(size: float) -> str:
    """Return a size with its unit: `512 B`, `5.2 GB`."""
    if round(size) < 1000:
        return f"{size:.0f} B"
    power = 1
    while size / 1000**power >= _LEAST_OF_THE_NEXT and power < len(_UNITS) - 1:
        power += 1
    return f"{size / 1000**power:,.1f} {_UNITS[power]}"
