"""Handing out a VISSL configuration's keys, with an account of what became of each.

Every key that was given ends with exactly one verdict. A key that nothing asked for and that the
table of `without_effect` does not know is unknown, and is said so.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from clusterfit.config.provenance import DEFAULT, Node, Origin, build_node
from clusterfit.config.showing import show_value
from clusterfit.config.tree import RunFile
from clusterfit.errors import ConfigError
from clusterfit.interop.vissl_config.keys import Key, is_known, list_keys, suggest_key
from clusterfit.interop.vissl_config.names import DEFAULTS
from clusterfit.interop.vissl_config.source import Source
from clusterfit.interop.vissl_config.without_effect import (
    explain_outside,
    explain_without_effect,
)


class Outcome(StrEnum):
    """What became of a key."""

    TAKEN = "taken"
    CHANGED = "taken with a change"
    DEFAULT = "VISSL's default, because nothing is given"
    WITHOUT_EFFECT = "without effect here"
    UNKNOWN = "unknown to VISSL"


@dataclass(frozen=True, slots=True)
class Verdict:
    """One key of VISSL's, and what became of it."""

    key: str
    """As it was written: config.CLUSTERFIT.N_ITER."""
    outcome: Outcome
    ours: str = ""
    """The setting of the run file, with its value; empty: none."""
    reason: str = ""
    origin: Origin = DEFAULT


class Reading:
    """A VISSL configuration under translation into the sections of a run file."""

    def __init__(self, source: Source) -> None:
        """List the keys that were given, older names under those that they have now.

        Raises:
            ConfigError: a layer gives a key two values under two names.
        """
        self._source = source
        keys = list_keys(source)
        self._keys = keys.given
        self._replaced = keys.replaced
        self._verdicts: dict[str, Verdict] = {}
        self._ours: dict[str, Node] = {}
        self._reasons: dict[str, str] = {}

    # What VISSL's keys say.

    def is_given(self, name: str) -> bool:
        """Tell whether a key, or anything below it, was given and is not null."""
        return any(
            key == name or key.startswith((f"{name}.", f"{name}["))
            for key, found in self._keys.items()
            if found.value is not None
        )

    def get(self, name: str) -> Any:
        """Return a key's value, VISSL's default where nothing is given."""
        found = self._keys.get(name)
        return DEFAULTS.get(name) if found is None or found.value is None else found.value

    def get_items(self, name: str) -> list[Any]:
        """Return the items of a list whose items are keys of their own."""
        items: list[Any] = []
        while f"{name}[{len(items)}]" in self._keys:
            items.append(self._keys[f"{name}[{len(items)}]"].value)
        return items

    def integer(self, name: str) -> int:
        """Return an integer, or raise ConfigError."""
        value = self.get(name)
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.fault(name, "an integer")
        return value

    def number(self, name: str) -> float:
        """Return a number, or raise ConfigError."""
        value = self.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.fault(name, "a number")
        return value

    def flag(self, name: str) -> bool:
        """Return true or false, or raise ConfigError."""
        value = self.get(name)
        if not isinstance(value, bool):
            raise self.fault(name, "true or false")
        return value

    def text(self, name: str) -> str:
        """Return a text, or raise ConfigError; a number is the text that it was written as."""
        value = self.get(name)
        if isinstance(value, dict | list | bool):
            raise self.fault(name, "text")
        return "" if value is None else str(value)

    def sequence(self, name: str) -> list[Any]:
        """Return a list, or raise ConfigError."""
        value = self.get(name)
        if not isinstance(value, list):
            raise self.fault(name, "a list")
        return value

    def fault(self, name: str, wanted: str) -> ConfigError:
        """Return the error for a key that has another value than is wanted."""
        found = self._keys.get(name)
        if found is None:
            return ConfigError(
                f"config.{name}: not given, and VISSL's default is "
                f"{show_value(DEFAULTS.get(name))}; want {wanted}"
            )
        return ConfigError(
            f"{found.written}: got {show_value(found.value)}, want {wanted} ({found.origin})"
        )

    # What becomes of them.

    def carry(self, name: str, ours: str, value: Any = None, change: str = "") -> None:
        """Say that a key becomes a setting of the run file.

        Args:
            name: VISSL's key.
            ours: The setting: `train.momentum`.
            value: The setting's value; None: the key's own.
            change: Why the setting does not mean quite what the key does; empty: it does.
        """
        value = self.get(name) if value is None else value
        self.set(ours, value, name)
        self.judge(name, f"{ours}: {show_value(value)}", change)

    def judge(self, name: str, ours: str = "", change: str = "") -> None:
        """Say what became of a key, or of VISSL's default where it is not given.

        Args:
            name: VISSL's key.
            ours: What says the same here, for people.
            change: Why it is not quite the same, or nothing at all; empty: it is.
        """
        found = self._keys.get(name)
        if found is not None and found.value is not None:
            outcome = Outcome.CHANGED if change else Outcome.TAKEN
            self._verdicts[name] = Verdict(found.written, outcome, ours, change, found.origin)
        else:
            written = f"config.{name}: {show_value(DEFAULTS.get(name))}"
            self._verdicts[name] = Verdict(written, Outcome.DEFAULT, ours, change)

    def set(self, ours: str, value: Any, name: str = "") -> None:
        """Set a value of the run file; `name` is the key that asks for it."""
        self._ours[ours] = build_node(value, self.origin_of(name))
        self._reasons[ours] = name

    def origin_of(self, name: str) -> Origin:
        """Return where a key was given."""
        found = self._keys.get(name)
        return found.origin if found else DEFAULT

    def reason_for(self, ours: str) -> Verdict | None:
        """Return the verdict on the key that a setting comes from."""
        return self._verdicts.get(self._reasons.get(ours, ""))

    def run_file(self) -> Node:
        """Return what was set, as the content of a run file, its sections in the tree's order."""
        order = [field.alias or name for name, field in RunFile.model_fields.items()]
        root = Node({}, DEFAULT)
        for path, node in sorted(
            self._ours.items(), key=lambda item: order.index(item[0].partition(".")[0])
        ):
            place: Any = root.value
            *sections, leaf = path.split(".")
            for section in sections:
                place = place.setdefault(section, Node({}, DEFAULT)).value
            place[leaf] = node
        return root

    def verdicts(self) -> tuple[Verdict, ...]:
        """Return one verdict for each key that was given, and for defaults that matter."""
        for name, key in self._keys.items():
            if name not in self._verdicts:
                self._verdicts[name] = _judge_unused(name, key)
        replaced = (
            Verdict(
                loser.written, Outcome.WITHOUT_EFFECT, origin=loser.origin,
                reason=f"{winner.written} is a name of the same setting, and is given later",
            )
            for loser, winner in self._replaced
        )  # fmt: skip
        return (*self._verdicts.values(), *replaced, *self._judge_outside())

    def _judge_outside(self) -> Iterator[Verdict]:
        """Pass verdicts on what does not stand below `config`."""
        for path, origin in self._source.outside.items():
            reason = explain_outside(path)
            if reason:
                yield Verdict(path, Outcome.WITHOUT_EFFECT, reason=reason, origin=origin)
                continue
            inside = next((name for name in (path, path.partition(".")[2]) if is_known(name)), "")
            reason = f"did you mean config.{inside}?" if inside else "it is not below config"
            yield Verdict(path, Outcome.UNKNOWN, reason=reason, origin=origin)


def _judge_unused(name: str, key: Key) -> Verdict:
    """Pass the verdict on a key that nothing asked for."""
    reason = explain_without_effect(name)
    if not reason and is_known(name):
        reason = (
            "it is null" if key.value is None else "nothing that is taken from this file uses it"
        )
    if reason:
        return Verdict(key.written, Outcome.WITHOUT_EFFECT, reason=reason, origin=key.origin)
    return Verdict(key.written, Outcome.UNKNOWN, reason=suggest_key(name), origin=key.origin)
