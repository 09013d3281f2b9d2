"""`--set a.b=JSON`: one value laid over the run file from the command line."""

from __future__ import annotations

import json
import re
import shlex
from typing import Any, Final

from clusterfit.config.provenance import Node, Origin, build_node
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
    if not equals or not all(keys):
        raise ConfigError(
            f"--set {shlex.quote(assignment)}: want KEY=JSON with dots between keys, "
            "like --set cluster.numClusters=100"
        )
    key = target.strip()
    try:
        node = build_node(_parse_json(text), _ORIGIN)
    except json.JSONDecodeError:
        quoted = shlex.quote(f"{key}={json.dumps(text, ensure_ascii=False)}")
        raise ConfigError(
            f"{key}: {text!r} is not JSON; text needs quotes of its own: --set {quoted}"
        ) from None
    except ValueError as error:
        raise ConfigError(f"{key}: {error} (--set)") from None
    for name in reversed(keys):
        node = Node({name: node}, _ORIGIN)
    return node


def _parse_json(text: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_refuse_duplicates)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = [key for key, _ in pairs]
    twice = [key for key in keys if keys.count(key) > 1]
    if twice:
        raise ValueError(f"{twice[0]} is given twice; keep one")
    return dict(pairs)
