"""How many ranks there are and what they share, settled before anything numeric is loaded."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Literal

import pytest

from clusterfit.worker.cores import count_cores
from clusterfit.worker.entry import nproc
from clusterfit.worker.entry.nproc import VARIABLE, limit_threads, settle_nproc

CONFIG = '{"formatVersion": 1, "name": "digits", "device": "cpu"}'
PROGRAM = """
import os
from clusterfit.worker.entry.nproc import limit_threads
limit_threads(os.environ)
import sys
print([name for name in ("numpy", "torch") if name in sys.modules])
"""


@pytest.mark.parametrize("num_ranks", [1, 2, 1000])
def test_ranks_share_the_cores(num_ranks: int) -> None:
    environment = {VARIABLE: str(num_ranks)}
    limit_threads(environment)
    assert environment["OMP_NUM_THREADS"] == str(max(1, count_cores() // num_ranks))


def test_what_somebody_has_chosen_is_left() -> None:
    chosen = {VARIABLE: "2", "OMP_NUM_THREADS": "7", "OMP_WAIT_POLICY": "active"}
    environment = dict(chosen)
    limit_threads(environment)
    assert environment == chosen


@pytest.mark.parametrize("text", ["auto", "all", "0", ""])
def test_without_a_number_of_ranks_there_is_no_share(text: str) -> None:
    environment = {VARIABLE: text}
    limit_threads(environment)
    assert "OMP_NUM_THREADS" not in environment


def test_it_comes_before_what_reads_it() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The programs that took this one's place."""
    taken: list[list[str]] = []
    monkeypatch.setattr(os, "execv", lambda _path, argv: taken.append(argv))
    return taken


@pytest.mark.parametrize("text", ["auto", "gpu", "cpu", None])
@pytest.mark.parametrize(
    ("device", "num_gpus", "expected"), [("cuda", 8, "8"), ("cuda", 0, "1"), ("cpu", 8, "1")]
)
def test_a_number_that_is_left_to_us_is_one_for_each_gpu(
    monkeypatch: pytest.MonkeyPatch,
    started: list[list[str]],
    text: str | None,
    device: Literal["cuda", "cpu"],
    num_gpus: int,
    expected: str,
) -> None:
    """Without any there is one process too, which says that its GPU is not there."""
    monkeypatch.setattr(nproc, "_count_gpus", lambda: num_gpus)
    environment = {VARIABLE: text} if text else {}
    settle_nproc(environment, device)
    assert environment == {VARIABLE: expected}
    assert started == [[sys.executable, *sys.orig_argv[1:]]]


@pytest.mark.parametrize("text", ["3", "all"])
def test_a_number_that_is_given_is_kept_and_nonsense_left_to_who_reads_it(
    started: list[list[str]], text: str
) -> None:
    environment = {VARIABLE: text}
    settle_nproc(environment, "cuda")
    assert environment == {VARIABLE: text}
    assert started == []


def test_the_gpus_of_this_computer_are_counted() -> None:
    import torch

    assert nproc._count_gpus() == torch.cuda.device_count()


def test_the_worker_starts_again_with_the_number(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text(CONFIG)
    roots = (f"--data-root={tmp_path}", f"--storage-root={tmp_path / 'runs'}")
    done = subprocess.run(
        [sys.executable, "-P", "-m", "clusterfit.worker", "evaluate", f"--config={config}", *roots],
        env=os.environ | {VARIABLE: "auto"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 66, done.stdout + done.stderr  # there are no images
    assert done.stdout.count("msg=started") == 1
