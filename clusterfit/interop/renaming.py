"""Renaming the tensors of a network, by rules about the parts of their keys."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache


@dataclass(frozen=True, slots=True)
class Spelling:
    """How somebody names a family of networks."""

    name: str
    """Whose, and of what: `timm's RegNets`."""
    rules: tuple[tuple[re.Pattern[str], str], ...]
    """What a part of a key looks like there, and what it is here; the first that fits counts."""
    note: str = ""
    """What may differ beside names; empty: nothing does."""

    def respell(self, key: str) -> str:
        """Return a key in torchvision's spelling; whatever stands before it, and others, stay."""
        return _respell(self.rules, key)


@cache
def _respell(rules: tuple[tuple[re.Pattern[str], str], ...], key: str) -> str:
    for theirs, ours in rules:
        match = theirs.search(key)
        if match:
            renamed = ours.format_map(_count(match.groupdict()))
            return key[: match.start()] + match["before"] + renamed + key[match.end() :]
    return key


def _count(groups: Mapping[str, str]) -> dict[str, str | int]:
    """Return a match's groups and, of those that are numbers, what torchvision counts instead."""
    fields: dict[str, str | int] = dict(groups)
    for name, text in groups.items():
        if text.isdigit():
            number = int(text)
            fields |= {
                f"{name}+1": number + 1,
                f"{name}-1": number - 1,
                f"{name}*2": 2 * number,
                f"{name}*2+1": 2 * number + 1,
                f"{name}*2+2": 2 * number + 2,
            }
    return fields


def spell(name: str, *tables: Mapping[str, str], note: str = "") -> Spelling:
    """Return the spelling of some tables: what a part of a key looks like, and what it is here.

    What is looked for is a regular expression that begins at a part of the key; what stands for it
    may take up its groups, and numbers among them as torchvision counts: `{block-1}`.
    """
    rules = tuple(
        (re.compile(r"(?P<before>^|\.)" + theirs), ours)
        for table in tables
        for theirs, ours in table.items()
    )
    return Spelling(name, rules, note)


def inside(theirs: str, ours: str, leaves: Mapping[str, str]) -> dict[str, str]:
    """Return the rules of what stands inside one kind of block."""
    return {theirs + leaf: ours + renamed for leaf, renamed in leaves.items()}
