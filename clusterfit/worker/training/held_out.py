"""Judging a network on images that it is not trained on."""

from __future__ import annotations

from collections.abc import Callable

import torch

from clusterfit.worker.context import Context
from clusterfit.worker.data.images import Batch, ImageSet, Key, build_loader


def sum_over_images(
    context: Context,
    images: ImageSet,
    sample_indices: torch.Tensor,
    batch_size: int,
    num_sums: int,
    count: Callable[[Batch], torch.Tensor],
) -> tuple[list[float], dict[int, str]]:
    """Return sums over all ranks of what `count` says of each batch, and what cannot be read.

    Each rank looks at its share. Images that cannot be read are left out.

    Returns:
        (num_sums,) sums, and sample index -> why; both the same on every rank.
    """
    env = context.env
    share = sample_indices[env.rank :: env.world_size].tolist()
    batches: list[list[Key]] = [
        [(0, index) for index in share[start : start + batch_size]]
        for start in range(0, len(share), batch_size)
    ]
    sums = torch.zeros(num_sums, dtype=torch.float64)
    unreadable: dict[int, str] = {}
    loaders = context.config.data.loaders_per_rank
    with torch.inference_mode():
        for batch in build_loader(images, batches, loaders, env.device):
            unreadable |= batch.unreadable
            if len(batch.sample_indices):
                sums += count(batch).to("cpu", torch.float64)
    total: list[float] = env.sum_tensor(sums).tolist()
    return total, env.merge(unreadable)
