"""Values as they stand in a message: in one line, and not too long for it."""

from __future__ import annotations

import json
from typing import Any, Final

_MAX_SHOWN: Final = 60


def show_text(text: str) -> str:
    """Return a text as it is, or as JSON where it holds line ends or what cannot be seen."""
    return text if text.isprintable() else show_value(text)


def show_value(value: Any) -> str:
    """Return a value as JSON in one line, cut where it is long."""
    text = json.dumps(value, ensure_ascii=False)
    if not text.isprintable():  # Unicode has line ends that JSON leaves as they are
        text = json.dumps(value)
    return text if len(text) <= _MAX_SHOWN else f"{text[: _MAX_SHOWN - 3]}..."
