"""Lines of ranks: what a reader was shown, and the copies that the ranks keep on the claim."""

from __future__ import annotations

import re
from collections import defaultdict

from clusterfit.artifacts.layout import RunDirectory
from clusterfit.logline import parse_line
from tests.e2e.digits import WORLD_SIZE

Said = dict[int, list[str]]
"""By rank, in their order; a rank that said nothing is left out."""


def read_shown(text: str) -> Said:
    """Return what `clusterfit logs` has shown of ranks; entries' lines have no rank."""
    said: Said = defaultdict(list)
    for line in text.splitlines():
        fields = parse_line(line)
        if fields and "rank" in fields:
            said[int(fields["rank"])].append(line)
    return said


def read_copies(run: RunDirectory, stage: str, world_size: int = WORLD_SIZE) -> Said:
    """Return what each rank has said in all attempts, which must be several."""
    copies: Said = defaultdict(list)
    attempts = len(list((run.root / "logs" / stage).iterdir()))
    for attempt in range(1, attempts + 1):
        for rank, lines in read_attempt(run, stage, attempt, world_size).items():
            copies[rank] += lines
    assert attempts > 1
    return copies


def read_stop(run: RunDirectory, stage: str, attempt: int) -> int:
    """Return after which step, or iteration, SIGTERM has ended an attempt."""
    return _read_number(run, stage, attempt, r"stopped by SIGTERM after (?:step|iteration) (\d+)")


def read_start(run: RunDirectory, stage: str, attempt: int) -> int:
    """Return after which step, or iteration, an attempt has gone on."""
    return _read_number(run, stage, attempt, r"msg=resumed (?:step|iteration)=(\d+)")


def _read_number(run: RunDirectory, stage: str, attempt: int, pattern: str) -> int:
    said = run.rank_log(stage, attempt, 0).read_text()
    found = re.search(pattern, said)
    assert found, f"attempt {attempt} of {stage} does not say {pattern}:\n{said}"
    return int(found[1])


def read_attempt(run: RunDirectory, stage: str, attempt: int, world_size: int = WORLD_SIZE) -> Said:
    """Return what each rank has said in one attempt, each line in its own rank's file."""
    copies = {
        rank: run.rank_log(stage, attempt, rank).read_text().splitlines()
        for rank in range(world_size)
    }
    for rank, lines in copies.items():
        assert all(f" rank={rank} " in line for line in lines)
    return {rank: lines for rank, lines in copies.items() if lines}
