"""VISSL's order of a folder's images, which is torchvision's ImageFolder's and not always ours.

Both sort, but ImageFolder sorts class folders by name, then the folders inside, then file names,
and ours sorts whole paths. `cat` comes before `cat-big` there, and `cat-big/1.jpg` before
`cat/1.jpg` here, because `-` sorts before `/`. So do all of ` !"#$%&'()*+,-.`.
Source: `make_dataset` in torchvision/datasets/folder.py.

N: images of a partition.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def list_in_vissl_order(paths: Sequence[str], folder: str) -> np.ndarray:
    """Return (N,) int64: which of our images is VISSL's first, second and so on.

    Args:
        paths: Images in the data set's order, as they are below the data root.
        folder: The partition's folder, which they all begin with; empty: the data root itself.
    """
    prefix = f"{folder.rstrip('/')}/" if folder else ""

    def place(number: int) -> tuple[str, str, str]:
        path = paths[number].removeprefix(prefix)
        parents, _, name = path.rpartition("/")
        return parents.partition("/")[0], parents, name

    return np.array(sorted(range(len(paths)), key=place), np.int64)
