"""Features of a partition's images, each rank its share."""

from __future__ import annotations

import torch

from clusterfit.errors import InvalidDataError
from clusterfit.worker.context import Context
from clusterfit.worker.log import ProgressReporter
from clusterfit.worker.networks.inference import FrozenNetwork
from clusterfit.worker.probes.features import LabelledFeatures
from clusterfit.worker.probes.images import LabelledImages


def extract_share(
    context: Context,
    frozen: FrozenNetwork,
    images: LabelledImages,
    progress: ProgressReporter | None,
) -> LabelledFeatures:
    """Return this rank's share of a partition's features; unreadable images are left out."""
    env = context.env
    num_samples = len(images.paths)
    share = range(
        num_samples * env.rank // env.world_size, num_samples * (env.rank + 1) // env.world_size
    )
    chunks, indices = [], []
    unreadable: dict[int, str] = {}
    for batch, features in frozen.extract(images.paths, [share]):
        env.stop.check()
        unreadable |= batch.unreadable
        if progress is not None:  # this rank's pace is everybody's, more or less
            progress.step((len(batch.images) + len(batch.unreadable)) * env.world_size)
        if len(features):
            chunks.append(features)
            indices.append(batch.sample_indices)
    images.leave_out(env.merge(unreadable))
    # A share may be empty: its rank still knows how wide the others' rows are.
    feature_dim = env.find_maximum(chunks[0].shape[1] if chunks else 0)
    if not feature_dim:
        raise InvalidDataError(f"evaluate: none of {num_samples} images can be read")
    chunks.append(torch.empty(0, feature_dim, device=env.device))
    sample_indices = torch.cat([*indices, torch.empty(0, dtype=torch.int64)])
    labels = torch.from_numpy(images.labels)[sample_indices].to(env.device)
    return LabelledFeatures(torch.cat(chunks).clone(), labels, sample_indices)
