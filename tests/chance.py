"""Damage by chance for the campaigns: the seed decides every case, so a failure can be had again.

Each run has the same cases, those of seed 0: it tells of a change, not of a lucky draw. Another
seed in CLUSTERFIT_CAMPAIGN_SEED has others, and `new` ones that nobody has tried
(`make campaigns`). The seed is at the top of each report.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator

from clusterfit.errors import ClusterfitError

_SEED = "CLUSTERFIT_CAMPAIGN_SEED"


def draw_seed() -> str:
    """Return this run's seed; one that was drawn is set for the processes that the run starts."""
    if os.environ.get(_SEED) == "new":
        os.environ[_SEED] = str(random.SystemRandom().randrange(1, 10**6))
    return os.environ.get(_SEED, "0")


def draw_cases(name: str, count: int) -> Iterator[tuple[str, random.Random]]:
    """Yield what to call each case in a failure, and its own source of chance."""
    seed = draw_seed()
    for number in range(count):
        yield f"{_SEED}={seed}, {name} {number}", random.Random(f"{seed}/{name}/{number}")


def damage(content: bytes, chance: random.Random) -> bytes:
    """Return bytes that were cut off, grew, or have a few wrong ones, most often near an end."""
    kind = chance.random()
    if kind < 0.1:
        return content[: chance.randrange(len(content) + 1)]
    if kind < 0.15:
        return content + chance.randbytes(chance.randint(1, 20))
    damaged = bytearray(content)
    near_end = chance.choice([slice(0, 300), slice(-4000, None), slice(None)])
    positions = range(len(content))[near_end]
    for _ in range(chance.randint(1, 6)):
        position = chance.choice(positions)
        if kind < 0.65:
            damaged[position] ^= 1 << chance.randrange(8)
        else:
            damaged[position] = chance.choice(b'0123456789[]{}",:-.etnfuIFOU\x00\xff ')
    return bytes(damaged)


def damage_text(text: str, pieces: list[str], chance: random.Random) -> str:
    """Return text into which pieces were put, and of which others were left out or doubled."""
    for _ in range(chance.randint(1, 5)):
        start = chance.randrange(len(text) + 1)
        kind = chance.random()
        if kind < 0.6:
            text = text[:start] + chance.choice(pieces) + text[start:]
        elif kind < 0.8:
            text = text[:start] + text[start + chance.randint(1, 6) :]
        else:
            other = chance.randrange(len(text) + 1)
            text = text[:start] + text[other : other + chance.randint(1, 25)] + text[start:]
    return text


def find_own_error(label: str, act: Callable[[], object]) -> ClusterfitError | None:
    """Return the error of ours that `act` ends with, None where it succeeds; no other may come."""
    try:
        act()
    except ClusterfitError as error:
        for fault in error.faults:
            assert fault.splitlines() == [fault], f"{label}: not one line: {fault!a}"
        return error
    except Exception as error:
        raise AssertionError(f"{label}: {type(error).__name__} is none of our errors") from error
    return None
