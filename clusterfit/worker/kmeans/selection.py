"""The greatest of numbers that several ranks hold, group by group.

A: groups, m: numbers of this rank, N: rows of all ranks.
"""

from __future__ import annotations

from typing import Final

import torch

from clusterfit.worker.kmeans.ranks import Ranks

_COUNT_BITS: Final = 18
_LEAST_DIGIT_BITS: Final = 4
_MOST_DIGIT_BITS: Final = 12
"""The fewer groups there are the longer are digits and the fewer steps it takes: ranks add up 2^18
numbers at a time, and at least 16 for each group, which is what 16 dimensions of its sum take."""


def select_greatest(
    numbers: torch.Tensor,
    groups: torch.Tensor,
    wanted: torch.Tensor,
    row_numbers: torch.Tensor,
    num_rows: int,
    ranks: Ranks,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return which numbers are among the greatest of their group, and the least of those.

    Of equals those of lower rows are taken, so that it is exactly as many as are wanted.

    Args:
        numbers: (m,) int64, not negative.
        groups: (m,) int64 in 0..A-1.
        wanted: (A,) int64, at least 1, at most as many as the group has over all ranks.
        row_numbers: (m,) int64, different within a group.
        num_rows: N, which all row numbers are below.
        ranks: this rank among its peers, who call it as well.

    Returns:
        (m,) bool and (A,) int64.
    """
    most = ranks.find_maximum(float(numbers.max()) if len(numbers) else 0.0)
    least, left, equals = _find_kth_greatest(numbers, groups, wanted, int(most), ranks)
    is_taken = numbers > least[groups]
    is_tied = numbers == least[groups]
    split = (equals > left).nonzero()[:, 0]
    if len(split):
        new_numbers = torch.full_like(wanted, -1)
        new_numbers[split] = torch.arange(len(split), device=wanted.device)
        is_open = is_tied & (new_numbers[groups] >= 0)
        upwards = num_rows - 1 - row_numbers[is_open]
        of_split = new_numbers[groups[is_open]]
        last, _, _ = _find_kth_greatest(upwards, of_split, left[split], num_rows - 1, ranks)
        is_tied[is_open.nonzero()[:, 0]] = upwards >= last[of_split]
    return is_taken | is_tied, least


def _find_kth_greatest(
    numbers: torch.Tensor, groups: torch.Tensor, wanted: torch.Tensor, most: int, ranks: Ranks
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return each group's `wanted`-th greatest number, none of which is above `most`.

    From the highest digit down ranks add up how often each digit occurs, and tell each other
    nothing else.

    Returns three (A,) int64: the number, how many of those equal to it are among the wanted, and
    how many there are.
    """
    num_groups = len(wanted)
    digit_bits = _COUNT_BITS - num_groups.bit_length()
    digit_bits = max(_LEAST_DIGIT_BITS, min(_MOST_DIGIT_BITS, digit_bits))
    num_digits = -(-max(1, most.bit_length()) // digit_bits)
    base = 1 << digit_bits
    found = torch.zeros_like(wanted)
    equals = torch.zeros_like(wanted)
    for shift in range(digit_bits * (num_digits - 1), -1, -digit_bits):
        is_alike = (numbers >> (shift + digit_bits)) == found[groups]
        cells = groups * base + ((numbers >> shift) & (base - 1))
        counts = torch.bincount(cells[is_alike], minlength=num_groups * base)
        ranks.add(counts)
        counts = counts.view(num_groups, base)
        from_above = counts.flip(1).cumsum(1).flip(1)  # (A, base): of this digit or a greater one
        digits = (from_above >= wanted[:, None]).sum(1, keepdim=True) - 1
        equals = counts.gather(1, digits)[:, 0]
        wanted = wanted - (from_above.gather(1, digits)[:, 0] - equals)
        found = (found << digit_bits) | digits[:, 0]
    return found, wanted, equals
