"""Matrix products of rounded rows and centroids, and the scores that they stand for.

The nearest centroid c of x maximises the score x.c - |c|^2/2, so the rows' own norms never matter.
n: rows, K: num_clusters, d: dimensions, T: columns listed for a row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch

_ALIGNMENT: Final = 16
"""Bytes: tensor cores want rows to be multiples of so many, and are far slower at others."""


@dataclass(frozen=True, slots=True)
class Factor:
    """Rows or centroids as they are multiplied."""

    numbers: torch.Tensor
    """(n, d) int8, bfloat16 or float32."""
    steps: torch.Tensor | None = None
    """(n,) float32: what 1 stands for in each row of int8 numbers."""

    def __len__(self) -> int:
        """Return n."""
        return len(self.numbers)

    def __getitem__(self, key: slice | torch.Tensor) -> Factor:
        """Return some rows."""
        return Factor(self.numbers[key], None if self.steps is None else self.steps[key])

    def widen(self) -> torch.Tensor:
        """Return the rounded (n, d) rows as float32."""
        wide = self.numbers.float()
        return wide if self.steps is None else wide * self.steps[:, None]

    def fill(self, other: Factor) -> None:
        """Write another factor's numbers in here."""
        self.numbers.copy_(other.numbers)
        if self.steps is not None and other.steps is not None:
            self.steps.copy_(other.steps)

    def multiply(self, other: Factor, out: torch.Tensor) -> None:
        """Write the (n, K) products with another factor's rows."""
        if self.steps is None:
            torch.mm(self.numbers, other.numbers.t(), out=out)
        else:
            torch._int_mm(self.numbers, other.numbers.t(), out=out)


@dataclass(frozen=True, slots=True)
class Scores:
    """The scores of some rows: products * row_steps * column_steps + bias."""

    products: torch.Tensor
    """(n, K) int32, bfloat16 or float32, unit stride."""
    bias: torch.Tensor
    """(K,) float32: minus half of the centroids' squared norms, and what their rounding is to add
    (see `Scorer`)."""
    row_steps: torch.Tensor | None = None
    """(n,) float32, with int32 products."""
    column_steps: torch.Tensor | None = None
    """(K,) float32, with int32 products."""

    def compute(self) -> torch.Tensor:
        """Return (n, K) float32."""
        wide = self.products.float()
        if self.row_steps is not None and self.column_steps is not None:
            wide = wide.mul_(self.column_steps).mul_(self.row_steps[:, None])
        return wide + self.bias

    def pick(self, columns: torch.Tensor) -> torch.Tensor:
        """Return (n, T) float32: of each row the scores of these (n, T) columns."""
        columns = columns.long()
        picked = self.products.gather(1, columns).float()
        if self.row_steps is not None and self.column_steps is not None:
            picked = picked.mul_(self.column_steps[columns]).mul_(self.row_steps[:, None])
        return picked + self.bias[columns]

    def take(self, places: torch.Tensor) -> Scores:
        """Return the scores of the rows at these places."""
        row_steps = None if self.row_steps is None else self.row_steps[places]
        return Scores(self.products[places], self.bias, row_steps, self.column_steps)


def pad(rows: torch.Tensor) -> torch.Tensor:
    """Return (n, d) rows as a device multiplies them fast: on a GPU with zeros up to a whole step.

    They are the same rows where nothing is to be added.
    """
    missing = -rows.shape[1] % find_step(rows.dtype, rows.device)
    return torch.nn.functional.pad(rows, (0, missing)) if missing else rows


def find_step(dtype: torch.dtype, device: torch.device) -> int:
    """Return which multiples of dimensions and of centroids a device multiplies fast."""
    return 1 if device.type == "cpu" else _ALIGNMENT // dtype.itemsize
