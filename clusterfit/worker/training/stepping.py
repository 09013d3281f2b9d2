"""One optimizer step on a DDP network, whose sums always come in the same order.

n: images of a batch on this rank.
"""

from __future__ import annotations

from typing import Any, Final, Literal

import torch
from torch import nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from clusterfit.config.sections.training import Optimization
from clusterfit.worker.data.views import choose_memory_format

_WARM_UP_STEPS: Final = 2
"""DDP rebuilds its buckets on the forward after the first backward."""

Inputs = torch.Tensor | list[torch.Tensor]
"""What a network is given: (n, 3, s, s) images, or several layers' outputs for them."""


class Stepper:
    """Network, optimizer and precision: takes one step at a time.

    Attributes:
        model: the bare network, whose state is the checkpoint's.
        optimizer: SGD over it.
    """

    def __init__(
        self,
        model: nn.Module,
        recipe: Optimization,
        precision: Literal["bf16", "fp32"],
        channels_last: bool,
        device: torch.device,
    ) -> None:
        """Move the network to the device; `settle` comes before the first step."""
        self._device = device
        self._precision = precision
        self.model = model.to(device).to(memory_format=choose_memory_format(channels_last))
        self.optimizer = torch.optim.SGD(
            group_parameters(self.model, recipe.weight_decay),
            lr=recipe.base_lr,
            momentum=recipe.momentum,
            nesterov=recipe.nesterov,
            fused=True,
        )
        self._network = DistributedDataParallel(
            self.model,
            device_ids=[device.index] if device.type == "cuda" else None,
            # Rank 0's running statistics count, and steps read none but CrossRankBatchNorm's,
            # which are sums over ranks: the same everywhere.
            forward_sync_buffers=False,
        )

    def step(self, inputs: Inputs, targets: torch.Tensor, learning_rate: float) -> torch.Tensor:
        """Take one step and return this rank's (3,) sums of loss, correct predictions, images.

        Args:
            inputs: of n images, on the device.
            targets: (n,) int64; -1 counts nothing.
            learning_rate: of this step.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        if not self.model.training:
            self._network.train()
        self.optimizer.zero_grad(set_to_none=True)
        logits, loss = self._backward(inputs, targets)
        self.optimizer.step()
        num_images = torch.full((), float(len(targets)), dtype=torch.float64, device=self._device)
        hits = logits.detach().argmax(2) == targets[:, None]  # (n, heads)
        correct = hits.double().mean(1).sum()
        return torch.stack([loss.detach().double() * num_images, correct, num_images])

    def load(self, state: dict[str, Any]) -> None:
        """Take over the state that `state` returned, on any rank."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])

    def state(self) -> dict[str, Any]:
        """Return all that a later step depends on, beside the seed and the step's number."""
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}

    def settle(self, inputs: Inputs, targets: torch.Tensor) -> None:
        """Let DDP rebuild its buckets before any state that counts is loaded.

        After its first backward DDP rebuilds them in the order in which gradients came, and with
        them the order of sums. A resumed training must sum as an undisturbed one, so each begins
        with steps that leave no trace. (With two ranks a sum has but one order.)
        """
        initial = {key: value.clone() for key, value in self.model.state_dict().items()}
        self._network.train()
        for _ in range(_WARM_UP_STEPS):
            self._backward(inputs, targets)
        self.optimizer.zero_grad(set_to_none=True)
        self.model.load_state_dict(initial)

    def _backward(self, inputs: Inputs, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (n, heads, classes) logits and the loss, with gradients accumulated.

        The loss is the mean over images, summed over heads where the network has several.
        """
        is_bf16 = self._precision == "bf16"
        with torch.autocast(self._device.type, torch.bfloat16, enabled=is_bf16):
            logits = self._network(inputs)
        if logits.dim() == 2:
            logits = logits[:, None]
        heads = logits.float().unbind(1)
        loss = torch.stack(
            [functional.cross_entropy(head, targets, ignore_index=-1) for head in heads]
        ).sum()
        loss.backward()
        return logits, loss


def group_parameters(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Return two groups: weights with decay, parameters of normalisations without."""
    norms = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm)
    undecayed = [
        parameter
        for module in model.modules()
        if isinstance(module, norms)
        for parameter in module.parameters(recurse=False)
    ]
    are_undecayed = set(undecayed)
    decayed = [parameter for parameter in model.parameters() if parameter not in are_undecayed]
    return [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": undecayed, "weight_decay": 0.0},
    ]
