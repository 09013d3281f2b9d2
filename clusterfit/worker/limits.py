"""What a run file asks of its images, found out as soon as they are counted."""

from __future__ import annotations

from clusterfit.config.tree import Algorithm
from clusterfit.errors import InvalidDataError


def check_num_clusters(config: Algorithm, num_images: int) -> None:
    """Refuse more clusters than there are images to cluster.

    Raises:
        InvalidDataError: naming both numbers.
    """
    if config.cluster.num_clusters > num_images:
        raise InvalidDataError(
            f"cluster.numClusters: got {config.cluster.num_clusters}, want at most the "
            f"{num_images} images of the train partition"
        )
