"""Whose a cluster is: a process', or nobody's and to be kept."""

from __future__ import annotations

import json

from tests.cluster.paths import State, write_whole


def write_owner(state: State, owner: dict[str, int] | None) -> None:
    """Record whose cluster it is; None: it stays."""
    write_whole(state.root / "owner.json", json.dumps(owner))


def read_owner(state: State) -> dict[str, int] | None:
    """Read whose cluster it is.

    Raises:
        OSError, ValueError: There is none, or what is left of one that was killed as it began.
    """
    owner: dict[str, int] | None = json.loads((state.root / "owner.json").read_text())
    return owner
