"""The control groups that this process is in: it is held to their limits, and to those above them.

In a container its own group is usually all there is to see. A batch scheduler's job, or a service
of systemd, sees the whole machine's tree, and its own group somewhere in it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

_MOUNT: Final = Path("/sys/fs/cgroup")
_OF_PROCESS: Final = Path("/proc/self/cgroup")


def list_groups(controller: str) -> Iterator[Path]:
    """Yield the folders of this process's groups, the innermost first.

    Those of version 2, and those of version 1 that have this controller.
    """
    try:
        lines = _OF_PROCESS.read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        lines = []
    for line in lines:
        _, controllers, place = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        mount = _MOUNT / controller if controllers else _MOUNT
        folder = mount / place.lstrip("/")
        if ".." in folder.parts or not folder.is_dir():
            folder = mount  # it is named as seen from outside of the container
        yield folder
        while folder != mount:
            folder = folder.parent
            yield folder
