"""What a plain (unquoted) YAML scalar means, by Helm's rules.

The run file is also a Helm values file, and Helm and PyYAML disagree: `y` is true for one and text
for the other, `1e-6` a number or text, `12:30` text or 750. Helm decides. Source: `resolve` in
sigs.k8s.io/yaml/goyaml.v2, and encoding/json, through which Helm passes every value.
"""

from __future__ import annotations

import json
import math
import re
from typing import Final

Scalar = bool | int | float | str
"""What the run file's leaves are made of; null is refused wherever it stands."""

LARGEST_EXACT_INTEGER: Final = 2**53
"""Helm holds numbers as 64-bit floats, which round integers beyond this."""

NULL_REFUSED: Final = "got nothing (null), want a value; leave it out to keep the default"

_SPELLINGS: Final[tuple[tuple[bool | float | None, str], ...]] = (
    (True, "y Y yes Yes YES true True TRUE on On ON"),
    (False, "n N no No NO false False FALSE off Off OFF"),
    (None, "~ null Null NULL"),
    (math.nan, ".nan .NaN .NAN"),
    (math.inf, ".inf .Inf .INF +.inf +.Inf +.INF"),
    (-math.inf, "-.inf -.Inf -.INF"),
)
_WORDS: Final = {word: value for value, words in _SPELLINGS for word in words.split()} | {"": None}
_INTEGER: Final = re.compile(
    r"(?P<sign>[-+]?)(?:0[xX](?P<hex>[0-9a-fA-F]+)|0[bB](?P<binary>[01]+)|0[oO]?(?P<octal>[0-7]+)"
    r"|(?P<decimal>0|[1-9][0-9]*))|0b(?P<signed>[-+][01]+)"
)
_FLOAT: Final = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_MAX_FLOAT_DIGITS: Final = 309
"""Of the largest 64-bit float, written out; Python refuses to read some thousands of digits."""

_BETWEEN_DIGITS: Final = re.compile(r"(?<=[0-9])_(?=[0-9])")
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_BASES: Final = {"hex": 16, "binary": 2, "octal": 8, "decimal": 10, "signed": 2}


def resolve_plain(text: str) -> Scalar | None:
    """Return the value of an unquoted scalar; infinities and NaN are for the caller to refuse."""
    if text in _WORDS:
        return _WORDS[text]
    if text[0] not in "+-.0123456789":
        return text
    digits = _BETWEEN_DIGITS.sub("", text) if text[0] == "." else text.replace("_", "")
    match = _INTEGER.fullmatch(digits)
    if match and (integer := _read_integer(match)) is not None:
        return integer
    if _FLOAT.fullmatch(digits):
        number = float(digits)
        # Go calls a number out of range an error, and what is not a number is text.
        return text if math.isinf(number) else number
    return text


def _read_integer(match: re.Match[str]) -> int | None:
    """Return an integer, or None where Go has no room for it and takes it for a float or text.

    Go makes a decimal one beyond 64 bits a float; here it stays whole, so that it is refused.
    """
    kind = match.lastgroup
    assert kind is not None
    if kind == "decimal" and len(match[kind]) > _MAX_FLOAT_DIGITS:
        return None
    number = int((match["sign"] or "") + match[kind], _BASES[kind])
    return number if kind == "decimal" or -(2**63) <= number < 2**64 else None


def check_scalar(value: Scalar) -> Scalar:
    """Return a scalar as Helm passes it on: a whole float as an integer, 1e3 and 1000.0 as 1000.

    Raises:
        ValueError: Helm could not pass it on as it is; the text says why, as a fault does.
    """
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"got {value}, want a finite number")
        is_whole = value.is_integer() and abs(value) <= LARGEST_EXACT_INTEGER
        return int(value) if is_whole else value
    if isinstance(value, int) and abs(value) > LARGEST_EXACT_INTEGER:
        raise ValueError(
            f"got {value}, want an integer of at most 2^53, because Helm rounds larger ones; "
            "put quotes around it if it is meant as text"
        )
    if isinstance(value, str) and _SURROGATE.search(value):
        raise ValueError(f"got {value!a}, want whole characters: half of a surrogate pair is none")
    return value


def format_scalar(value: Scalar) -> str:
    """Return a value as YAML that Helm, YAML 1.1 and YAML 1.2 readers all read back as it is."""
    if isinstance(value, str):
        return value if _is_plain_everywhere(value) else _quote(value)
    text = json.dumps(value)
    if isinstance(value, float) and "e" in text and "." not in text:
        # YAML 1.1 takes an exponent for a number only after a point.
        text = text.replace("e", ".0e")
    return text


_PLAIN: Final = re.compile(r"[A-Za-z_][-A-Za-z0-9_./]*(?: [A-Za-z0-9_]+)*")
_WORDS_OF_OTHER_READERS: Final = frozenset({"inf", "infinity", "nan"})


def _is_plain_everywhere(text: str) -> bool:
    lowered = text.lower()
    return (
        _PLAIN.fullmatch(text) is not None
        and lowered not in _WORDS
        and lowered not in _WORDS_OF_OTHER_READERS
    )


def _quote(text: str) -> str:
    """Return a double-quoted scalar; JSON's surrogate pairs are no YAML, so escape as YAML does."""
    quoted = json.dumps(text, ensure_ascii=False)
    return "".join(
        character if character.isprintable() else _escape(character) for character in quoted
    )


def _escape(character: str) -> str:
    code = ord(character)
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"
