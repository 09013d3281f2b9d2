"""Checkpoints are few, and a training only ever goes on from its own."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from clusterfit.artifacts.manifest import Identity
from clusterfit.errors import InvalidDataError, RetryableError, WriteError
from clusterfit.worker.log import Log
from clusterfit.worker.seal import compute_seal
from clusterfit.worker.training.checkpoint import Checkpoints


def no_guard() -> None:
    pass


def identify(name: str) -> Identity:
    return Identity("train", {"name": name}, {})


def open_checkpoints(folder: Path, name: str = "ours", keep: int = 2) -> Checkpoints:
    return Checkpoints(folder, identify(name), keep, no_guard)


def steps_in(folder: Path) -> list[int]:
    return sorted(int(path.stem.removeprefix("step-")) for path in folder.glob("step-*.pt"))


def state(value: float) -> dict[str, object]:
    return {"model": {"weight": torch.full((3,), value)}, "metrics": [{"loss": 0.5}], "step": 1}


def test_a_checkpoint_comes_back_as_it_was(tmp_path: Path, log: Log) -> None:
    checkpoints = open_checkpoints(tmp_path)
    assert checkpoints.find_newest(log) == 0
    checkpoints.write(7, state(1.5))
    assert open_checkpoints(tmp_path).find_newest(log) == 7
    back = open_checkpoints(tmp_path).read(7)
    assert torch.equal(back["model"]["weight"], torch.full((3,), 1.5))
    assert back["metrics"] == [{"loss": 0.5}]


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_only_the_newest_are_kept(tmp_path: Path, log: Log, keep: int) -> None:
    checkpoints = open_checkpoints(tmp_path, keep=keep)
    for step in (5, 10, 15, 100, 1000):
        checkpoints.write(step, state(step))
    assert steps_in(tmp_path) == [5, 10, 15, 100, 1000][-keep:]
    assert checkpoints.find_newest(log) == 1000


def test_a_damaged_newest_gives_way_to_the_one_before_and_is_told(
    tmp_path: Path, log: Log, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoints = open_checkpoints(tmp_path, keep=3)
    for step in (10, 20, 30):
        checkpoints.write(step, state(step))
    newest = tmp_path / "step-000000030.pt"
    newest.write_bytes(newest.read_bytes()[:-50])
    (tmp_path / "step-000000020.pt").write_bytes(b"")
    assert checkpoints.find_newest(log) == 10
    told = capsys.readouterr().out
    assert told.count("cannot be used") == 2
    assert str(newest) in told
    with pytest.raises(OSError, match="checkpoint of step 30 is gone"):
        checkpoints.read(30)


def test_storage_that_fails_costs_no_checkpoint(
    tmp_path: Path, log: Log, lose: Callable[[Path], None]
) -> None:
    checkpoints = open_checkpoints(tmp_path, keep=3)
    for step in (10, 20):
        checkpoints.write(step, state(step))
    lose(tmp_path / "step-000000020.pt")
    with pytest.raises(RetryableError, match=r"step-000000020\.pt: Input/output error"):
        checkpoints.find_newest(log)
    with pytest.raises(RetryableError):
        checkpoints.read(20)


def test_a_single_wrong_bit_is_seen_wherever_it_is(tmp_path: Path, log: Log) -> None:
    checkpoints = open_checkpoints(tmp_path)
    weights = torch.arange(50.0)
    checkpoints.write(10, state(10))
    checkpoints.write(20, {"model": weights})
    path = tmp_path / "step-000000020.pt"
    written = path.read_bytes()
    assert weights.numpy().tobytes() in written
    assert checkpoints.find_newest(log) == 20
    for place in range(len(written)):
        content = bytearray(written)
        content[place] ^= 1 << place % 8
        path.write_bytes(content)
        assert checkpoints.find_newest(log) == 10, place


def test_another_trainings_checkpoints_are_refused_by_name(tmp_path: Path, log: Log) -> None:
    open_checkpoints(tmp_path, "other").write(50, state(1))
    with pytest.raises(InvalidDataError, match=r'train\.name was "other", now "ours"'):
        open_checkpoints(tmp_path).find_newest(log)


def test_later_checkpoints_that_cannot_be_read_do_not_push_new_ones_out(
    tmp_path: Path, log: Log
) -> None:
    for step in (500, 600):
        (tmp_path / f"step-{step:09d}.pt").write_bytes(b"torn")
    checkpoints = open_checkpoints(tmp_path)
    for step in (10, 20, 30):
        checkpoints.write(step, state(step))
        assert checkpoints.find_newest(log) == step
    assert steps_in(tmp_path) == [20, 30]


def test_files_of_other_names_are_left_alone(tmp_path: Path, log: Log) -> None:
    for name in ("step-best.pt", "step-1.pt", ".step-000000009.pt.0123.partial"):
        (tmp_path / name).write_bytes(b"")
    checkpoints = open_checkpoints(tmp_path, keep=1)
    checkpoints.write(1, state(1))
    checkpoints.write(2, state(2))
    assert checkpoints.find_newest(log) == 2
    assert len(list(tmp_path.iterdir())) == 4


def test_a_pickle_that_executes_code_is_not_a_checkpoint(tmp_path: Path, log: Log) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (str(tmp_path / "executed"),)

    content = {"identity": asdict(identify("ours")), "step": 3, "state": Bomb()}
    buffer = io.BytesIO()
    torch.save(content, buffer)
    buffer.write(compute_seal(buffer.getbuffer()))
    (tmp_path / "step-000000003.pt").write_bytes(buffer.getvalue())
    assert open_checkpoints(tmp_path).find_newest(log) == 0
    assert not (tmp_path / "executed").exists()


def test_a_checkpoint_that_cannot_be_written_removes_none(tmp_path: Path, log: Log) -> None:
    checkpoints = open_checkpoints(tmp_path, keep=1)
    checkpoints.write(1, state(1))

    def refuse() -> None:
        raise WriteError("taken over")

    with pytest.raises(WriteError):
        Checkpoints(tmp_path, identify("ours"), 1, refuse).write(2, state(2))
    assert steps_in(tmp_path) == [1]
