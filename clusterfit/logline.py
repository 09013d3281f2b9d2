"""The one log protocol: logfmt lines, written by the worker, read by `run`, `logs` and `status`.

A line is `key=value` pairs separated by one space. A value that holds a space, a quote, `=` or a
control character stands in double quotes with JSON's escapes, so a line never breaks and every
value comes back as it was. Source of the format: https://brandur.org/logfmt.

    ts=2026-11-23T10:00:00.000Z level=info stage=extract rank=0 msg=progress done=512 total=1797
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

_BARE = re.compile(r'[^\s"=\\\x00-\x1f\x7f]+')
_PAIR = re.compile(r'(?P<key>[A-Za-z_][A-Za-z0-9_.]*)=(?P<value>"(?:[^"\\]|\\.)*"|[^\s"]*)(?: |$)')


def format_line(fields: Mapping[str, object]) -> str:
    """Return the fields as one line, without a line end, in their order."""
    return " ".join(f"{key}={_format_value(value)}" for key, value in fields.items())


def parse_line(line: str) -> dict[str, str] | None:
    """Return the fields of a line of ours, or None for anybody else's line.

    Ours starts with `ts=` and is made of pairs to its end, each key once; a torn or foreign line,
    or two that ran into each other, is None, so that a reader shows it as it stands.
    """
    if not line.startswith("ts="):
        return None
    line = line.rstrip("\r\n")
    fields: dict[str, str] = {}
    position = 0
    while position < len(line):
        pair = _PAIR.match(line, position)
        if pair is None or pair["key"] in fields:
            return None
        value = pair["value"]
        try:
            fields[pair["key"]] = json.loads(value) if value.startswith('"') else value
        except json.JSONDecodeError:
            return None
        position = pair.end()
    return fields


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a stage is, as its main rank last said."""

    stage: str
    done: int
    total: int
    unit: str
    rate: float
    """Units per second."""
    eta_seconds: float
    """Negative where nobody knows, as long as nothing is done."""


def read_progress(fields: Mapping[str, str]) -> Progress | None:
    """Return the progress that a parsed line reports, or None where it reports none."""
    if fields.get("msg") != "progress":
        return None
    try:
        progress = Progress(
            stage=fields["stage"],
            done=int(fields["done"]),
            total=int(fields["total"]),
            unit=fields["unit"],
            rate=float(fields["rate"]),
            eta_seconds=float(fields["eta_seconds"]),
        )
    except (KeyError, ValueError):
        return None
    # A reader rounds these: infinity and NaN are nobody's progress.
    return progress if math.isfinite(progress.rate + progress.eta_seconds) else None


def _format_value(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:.6g}"
    text = str(value)
    if _BARE.fullmatch(text) and text.isprintable():
        return text
    # Unicode has line ends of its own (U+0085, U+2028): escape all of it where any is unprintable.
    return json.dumps(text, ensure_ascii=not text.isprintable())
