"""The labelled images of a partition, by which networks are judged.

N: images of the partition.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from clusterfit.artifacts.dataset import Samples
from clusterfit.worker.context import Context
from clusterfit.worker.data.unreadable import check_unreadable, tell_unreadable


class LabelledImages:
    """One partition's images, and those of them that nobody could read.

    Attributes:
        paths: of all N, readable or not, in the data set's order.
        labels: (N,) int64, or (N, C) where an image may show several classes.
        unreadable: sample index -> why, the same on every rank.
    """

    def __init__(self, context: Context, partition: str, samples: Samples) -> None:
        """Take images whose labels have been checked."""
        assert samples.labels is not None, "checked before"
        self._context = context
        self._partition = partition
        self.paths = samples.paths
        self.labels: np.ndarray = samples.labels
        self.unreadable: dict[int, str] = {}

    def leave_out(self, unreadable: Mapping[int, str]) -> None:
        """Take note of what could not be read; every rank calls it, with the images of all.

        Raises:
            InvalidDataError: when it is more than the run file allows.
        """
        context = self._context
        is_news = not unreadable.keys() <= self.unreadable.keys()
        self.unreadable |= unreadable
        check_unreadable(context.config.data, self._partition, self.paths, self.unreadable)
        if is_news and context.env.is_main_rank:
            tell_unreadable(context.log, self._partition, self.paths, self.unreadable)
