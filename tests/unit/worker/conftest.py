"""A process group of one, images in every format, and a log that nobody reads."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from PIL import Image
from torch._C._distributed_c10d import HashStore, PrefixStore

from clusterfit.artifacts.layout import RunDirectory
from clusterfit.artifacts.owner import claim
from clusterfit.config.loading import check_values
from clusterfit.worker.arguments import Assignment
from clusterfit.worker.context import Context
from clusterfit.worker.distenv import DistEnv
from clusterfit.worker.log import Log
from clusterfit.worker.stopping import StopRequest


@pytest.fixture
def log() -> Log:
    """Return a log to standard output."""
    return Log("train", 0)


@pytest.fixture
def env() -> Iterator[DistEnv]:
    """Open a gloo group of this process alone."""
    previous = signal.getsignal(signal.SIGTERM)
    store = HashStore()
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        yield DistEnv(
            rank=0,
            local_rank=0,
            world_size=1,
            device=torch.device("cpu"),
            store=PrefixStore("stage", store),
            control=dist.new_group(backend="gloo"),
            stop=StopRequest(),
        )
    finally:
        dist.destroy_process_group()
        signal.signal(signal.SIGTERM, previous)


@pytest.fixture
def context(env: DistEnv, log: Log, run_directory: RunDirectory) -> Iterator[Context]:
    """Return what a stage of this process alone is given."""
    config = check_values({"formatVersion": 1, "name": run_directory.name}).algorithm()
    assignment = Assignment("train", config, Path("data"), run_directory, "")
    writer = claim(run_directory, "train", "submission")
    yield Context(assignment, env, log, writer)
    writer.release()


@pytest.fixture
def picture() -> np.ndarray:
    """Return a smooth (48, 64, 3) uint8 picture, different in every channel and corner."""
    height, width = 48, 64
    down = np.linspace(0, 200, height)[:, None]
    across = np.linspace(20, 255, width)[None, :]
    channels = [down + 0 * across, across + 0 * down, (down + across) / 2]
    return np.stack(channels, axis=-1).astype(np.uint8)


@pytest.fixture
def write_folder(tmp_path: Path, picture: np.ndarray) -> Callable[..., Path]:
    """Write the picture as PNG under each of the given relative paths."""

    def write(*paths: str) -> Path:
        for path in paths:
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture[:8, :8]).save(tmp_path / path, "png")
        return tmp_path

    return write
