"""How much memory a rank may take: below each limit of its control groups, divided among ranks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import memory as limits
from clusterfit.worker import cgroups, memory
from clusterfit.worker.memory import find_available_bytes

MIB = 1 << 20
V2 = ("memory.max", "memory.current", "inactive_file")
V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
_PROGRAM = """
import torch
from clusterfit.worker.memory import find_available_bytes
print(*find_available_bytes(torch.device("cpu")))
"""


def write_group(
    folder: Path, names: tuple[str, str, str], limit: str, used: int, cached: int
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / names[0]).write_text(f"{limit}\n")
    (folder / names[1]).write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 7\n{names[2]} {cached}\nfile 9\n")


@pytest.mark.parametrize("num_ranks", [1, 2])
@pytest.mark.parametrize(
    ("names", "of_process", "mount"),
    [(V2, "0::/job/step\n", "."), (V1, "4:memory:/job/step\n", "memory")],
)
@pytest.mark.parametrize(
    ("outer", "inner", "expected"),
    [
        ("max", f"{50 * MIB}", 25 * MIB),  # what is cached of files is room
        (f"{40 * MIB}", f"{50 * MIB}", 15 * MIB),
        (f"{40 * MIB}", "max", 15 * MIB),
        (f"{40 * MIB}", f"{(1 << 63) - 4096}", 15 * MIB),  # version 1's word for none
        (f"{20 * MIB}", "max", 0),
    ],
)
def test_the_room_is_that_below_the_nearest_limit(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    names: tuple[str, str, str],
    of_process: str,
    mount: str,
    outer: str,
    inner: str,
    expected: int,
    num_ranks: int,
) -> None:
    write_group(tmp_path / mount / "job", names, outer, 30 * MIB, 5 * MIB)
    write_group(tmp_path / mount / "job/step", names, inner, 30 * MIB, 5 * MIB)
    (tmp_path / "of-process").write_text(of_process)
    monkeypatch.setattr(cgroups, "_MOUNT", tmp_path)
    monkeypatch.setattr(cgroups, "_OF_PROCESS", tmp_path / "of-process")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(num_ranks))
    found = find_available_bytes(torch.device("cpu"))
    assert found == (expected // num_ranks, "limit of the cgroup")


@pytest.mark.skipif(bool(limits.find_obstacle()), reason=limits.find_obstacle())
def test_a_real_group_is_seen_from_inside() -> None:
    with limits.limit_memory(700 * MIB) as group:
        command = [*group.prefix, sys.executable, "-c", _PROGRAM]
        answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    assert 0 < int(answer[0]) < 700 * MIB
    assert answer[1:] == ["limit", "of", "the", "cgroup"]


def test_where_nothing_tells_what_is_left_it_is_all_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on macOS, which has no /proc."""
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "list_groups", lambda _: [])
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    room, what = find_available_bytes(torch.device("cpu"))
    assert (room, what) == (os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2, "memory")
