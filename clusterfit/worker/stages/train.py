"""Train (step 2): a new network from scratch that predicts each image's cluster."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import nn

from clusterfit.artifacts.dataset import Samples, read_samples
from clusterfit.artifacts.layout import TRAIN, VAL
from clusterfit.worker.context import Context
from clusterfit.worker.data.images import Batch, ImageSet
from clusterfit.worker.data.jitter import ColorJitter
from clusterfit.worker.data.unreadable import check_unreadable, tell_unreadable
from clusterfit.worker.data.views import (
    Normalizer,
    build_crop_view,
    build_train_view,
    choose_memory_format,
)
from clusterfit.worker.identity import list_partitions, list_targets
from clusterfit.worker.networks.backbone import build_model
from clusterfit.worker.stages.clusters import read_clusters
from clusterfit.worker.training.held_out import sum_over_images
from clusterfit.worker.training.loop import Training, fit


def run(context: Context) -> None:
    """Train on every image that has a cluster."""
    config, env = context.config, context.env
    recipe = config.train
    [(folder, identity)] = list_targets(context.assignment, env.world_size)
    samples = {
        partition: read_samples(context.run.data(partition))
        for partition in list_partitions(config)
    }
    clusters = read_clusters(context, samples)
    num_clusters, assignments = clusters.num_clusters, clusters.assignments
    normalize = Normalizer(
        config.data.mean, config.data.std, env.device, choose_memory_format(recipe.channels_last)
    )

    jitter = ColorJitter(recipe.color_jitter, env.device)

    def prepare(batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        targets = assignments[TRAIN][batch.sample_indices].to(env.device, non_blocking=True)
        return normalize(jitter(batch.images, batch.draws)), targets

    held_out = _HeldOut(context, samples.get(VAL), assignments.get(VAL), normalize)
    fit(
        context,
        Training(
            recipe=recipe,
            precision=recipe.precision,
            channels_last=recipe.channels_last,
            crop_pixels=recipe.crop_pixels,
            folder=folder,
            identity=identity,
            facts={"model": recipe.model, "num_classes": num_clusters},
            model=build_model(
                recipe.model,
                num_clusters,
                config.seed,
                recipe.crop_pixels,
                "train.model",
            ),
            images=ImageSet(
                context.assignment.data_root,
                samples[TRAIN].paths,
                build_train_view(recipe),
                config.seed,
                substitute=True,
                num_draws=jitter.num_draws,
            ),
            sample_indices=torch.nonzero(assignments[TRAIN] >= 0).flatten(),
            prepare=prepare,
            evaluate=held_out.evaluate,
        ),
    )


class _HeldOut:
    """How well the network predicts the clusters of images that it was not trained on."""

    def __init__(
        self,
        context: Context,
        samples: Samples | None,
        assignments: torch.Tensor | None,
        normalize: Normalizer,
    ) -> None:
        self._context = context
        self._samples = samples
        self._assignments = assignments
        self._normalize = normalize

    def evaluate(self, network: nn.Module) -> dict[str, float]:
        """Return the accuracy over all ranks; nothing where there is no val partition."""
        if self._samples is None or self._assignments is None:
            return {}
        context, env = self._context, self._context.env
        recipe = context.config.train
        for buffer in network.buffers():  # running statistics: each rank's are its own till now
            dist.broadcast(buffer, src=0)
        assignments = self._assignments
        images = ImageSet(
            context.assignment.data_root,
            self._samples.paths,
            build_crop_view(recipe.crop_pixels),
            seed=0,  # nothing is random
            substitute=False,
        )
        network.eval()

        def count_hits(batch: Batch) -> torch.Tensor:
            """Return (correct, images)."""
            with torch.autocast(
                env.device.type, torch.bfloat16, enabled=recipe.precision == "bf16"
            ):
                predicted = network(self._normalize(batch.images)).argmax(1).cpu()
            hits = predicted == assignments[batch.sample_indices]
            return torch.tensor([hits.sum(), len(hits)])

        assigned = torch.nonzero(assignments >= 0).flatten()
        (correct, num_images), unreadable = sum_over_images(
            context, images, assigned, recipe.batch_size_per_rank, 2, count_hits
        )
        check_unreadable(context.config.data, VAL, self._samples.paths, unreadable)
        if env.is_main_rank:
            tell_unreadable(context.log, VAL, self._samples.paths, unreadable)
        return {"held_out_accuracy": correct / max(num_images, 1)}
