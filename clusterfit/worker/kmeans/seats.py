"""How many rows each cluster may have, where sizes are limited.

N: rows of all ranks, K: num_clusters.
"""

from __future__ import annotations

from fractions import Fraction

import torch


def allot_seats(num_rows: int, max_size_ratio: float, prices: torch.Tensor) -> torch.Tensor:
    """Return (K,) int64 seats: `max_size_ratio` * N / K, rounded up.

    At a ratio of 1 they are N in all, so that sizes differ by one at most: the clusters that ask
    most, (K,) prices, have one more than the others.
    """
    num_clusters = len(prices)
    seats = torch.empty(num_clusters, dtype=torch.int64, device=prices.device)
    if max_size_ratio == 1:
        seats.fill_(num_rows // num_clusters)
        seats[prices.argsort(descending=True, stable=True)[: num_rows % num_clusters]] += 1
    else:
        # As it is written: 1.1 stands for 11/10, which no float is.
        most = Fraction(str(max_size_ratio)) * num_rows / num_clusters
        seats.fill_(-(-most.numerator // most.denominator))
    return seats
