"""One override of VISSL's command line, read as Hydra reads it; nothing of Hydra is run."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final

from clusterfit.config.provenance import KeyPath
from clusterfit.config.reader import read_yaml
from clusterfit.config.scalars import resolve_plain
from clusterfit.errors import ConfigError

_OVERRIDE: Final = re.compile(r"(?P<sign>\+{0,2}|~)(?P<key>[^=~+]+)(?:=(?P<value>.*))?", re.DOTALL)
_CONFIG: Final = "config"


@dataclass(frozen=True, slots=True)
class Override:
    """What stands in one word of the command line."""

    text: str
    """As it was typed."""
    key: str
    raw_value: str
    is_removal: bool
    """`~config.A`: take the key away."""

    @property
    def is_overlay(self) -> bool:
        """Whether it names one more file: `+config/some/folder=name`."""
        return "/" in self.key or self.key == _CONFIG

    @property
    def path(self) -> KeyPath:
        """The key's steps."""
        return tuple(self.key.split("."))

    def parse_value(self) -> Any:
        """Return what Hydra reads in the value.

        Raises:
            ConfigError: it is no value, or several, as in a sweep.
        """
        text = self.raw_value.strip()
        if text.lower() in {"null", "true", "false"}:
            return {"null": None, "true": True, "false": False}[text.lower()]
        if text[:1] in {"[", "{", "'", '"'}:
            node, faults = read_yaml(_space_colons(text), self.text)
            if node is None or faults:
                raise ConfigError(*(f"{self.text}: {fault.message}" for fault in faults))
            return node.plain()
        value = resolve_plain(text) if re.match(r"[-+.0-9]", text) else text
        if isinstance(value, str) and re.fullmatch(r"[\w.-]+(,[\w.-]+)+", value):
            raise ConfigError(
                f"{self.text}: a sweep over several values; import one value at a time, or put a "
                "text with commas in quotes"
            )
        return value


def parse_override(text: str) -> Override:
    """Return what an override says.

    Raises:
        ConfigError: it is none.
    """
    match = _OVERRIDE.fullmatch(text)
    if match is None or (match["value"] is None and match["sign"] != "~"):
        raise ConfigError(
            f"{text!r}: want KEY=VALUE as VISSL's command line has it, like "
            "config.CLUSTERFIT.NUM_CLUSTERS=4000"
        )
    return Override(text, match["key"], match["value"] or "", match["sign"] == "~")


def _space_colons(text: str) -> str:
    """Put a space after the colons of maps: Hydra needs none there, YAML does."""
    spaced, depth, quote = [], 0, ""
    for place, char in enumerate(text):
        if quote:
            quote = "" if char == quote and text[place - 1] != "\\" else quote
        elif char in "'\"":
            quote = char
        elif char in "{}":
            depth += 1 if char == "{" else -1
        ends_key = char == ":" and depth and not quote and text[place + 1 : place + 3] != "//"
        spaced.append(": " if ends_key else char)
    return "".join(spaced)
