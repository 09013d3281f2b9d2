"""`--set a.b=JSON`: one value laid over the run file from the command line."""

from __future__ import annotations

import json
import math
import re
import shlex
from typing import Any, Final

from clusterfit.config.provenance import Node, Origin, build_node, format_path
from clusterfit.errors import ConfigError

_ORIGIN: Final = Origin("--set")
_DOT: Final = re.compile(r"(?<!\\)\.")
"""Between two keys; `\\.` is a dot inside a key, as in Helm."""


def parse_override(assignment: str) -> Node:
    """Return `a.b=JSON` as a map that merges over the run file.

    Raises:
        ConfigError: it is no assignment, or its value is no JSON that the run file can hold.
    """
    target, equals, text = assignment.partition("=")
    keys = [key.replace("\\.", ".") for key in _DOT.split(target.strip())]
    if not equals or not all(keys) or not target.isprintable():
        shown = shlex.quote(assignment) if assignment.isprintable() else ascii(assignment)
        raise ConfigError(
            f"--set {shown}: want KEY=JSON with dots between keys, "
            "like --set cluster.numClusters=100"
        )
    key = target.strip()
    try:
        value = _parse_json(text)
        for name in reversed(keys):
            value = {name: value}
        return build_node(value, _ORIGIN)
    except json.JSONDecodeError:
        as_json = json.dumps(text, ensure_ascii=not text.isprintable())
        raise ConfigError(
            f"{key}: {text!r} is not JSON; text needs quotes of its own: "
            f"--set {shlex.quote(f'{key}={as_json}')}"
        ) from None
    except ValueError as error:
        raise ConfigError(f"{key}: {error} (--set)") from None


def _parse_json(text: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_refuse_duplicates, parse_int=_parse_integer)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _parse_integer(digits: str) -> int | float:
    """Return an integer; one that no float could hold is infinite, and then refused as such."""
    number = float(digits)
    return number if math.isinf(number) else int(digits)


def _refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = [key for key, _ in pairs]
    twice = [key for key in keys if keys.count(key) > 1]
    if twice:
        raise ValueError(f"{format_path((twice[0],))} is given twice; keep one")
    return dict(pairs)
