"""Seeds as functions of (seed, what for), never of rank or of what ran before."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def derive_seed(*parts: int | str) -> int:
    """Return 63 well-mixed bits of the parts; equal parts give equal seeds on any machine."""
    text = "/".join(map(str, parts)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 1


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw torch's global CPU randomness from a seed inside, and restore it after."""
    with torch.random.fork_rng(devices=()):
        torch.default_generator.manual_seed(seed)
        yield


def permute(num_samples: int, *seed_parts: int | str) -> torch.Tensor:
    """Return a (num_samples,) int64 permutation drawn from the seed."""
    generator = torch.Generator().manual_seed(derive_seed(*seed_parts))
    return torch.randperm(num_samples, generator=generator)
