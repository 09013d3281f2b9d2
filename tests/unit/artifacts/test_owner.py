"""One live writer a run directory, and a dead one is succeeded."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from clusterfit.artifacts import owner
from clusterfit.artifacts.layout import RunDirectory
from clusterfit.artifacts.owner import STALE_SECONDS, Writer, claim
from clusterfit.errors import ClusterfitError, RetryableError, WriteError


def edit_owner(run: RunDirectory, **changes: Any) -> None:
    """Change who owner.json names, with its heartbeat left as it is."""
    record = json.loads(run.owner_file.read_text()) | changes
    beat = run.owner_file.stat().st_mtime
    run.owner_file.write_text(json.dumps(record))
    os.utime(run.owner_file, (beat, beat))


def age_heartbeat(run: RunDirectory, seconds: float) -> None:
    beat = run.owner_file.stat().st_mtime - seconds
    os.utime(run.owner_file, (beat, beat))


def test_a_second_live_writer_is_refused_and_told_whom_it_meets(
    run_directory: RunDirectory,
) -> None:
    first = claim(run_directory, "extract", "one")
    with pytest.raises(WriteError, match=rf"pid {os.getpid()} on .*\(stage extract, last heart"):
        claim(run_directory, "cluster", "two")
    first.check()
    assert [path.name for path in run_directory.root.iterdir()] == ["owner.json"]


def test_a_writer_on_another_host_is_refused_while_its_heart_beats(
    run_directory: RunDirectory,
) -> None:
    claim(run_directory, "extract", "one")
    edit_owner(run_directory, host="elsewhere", pid=1)
    age_heartbeat(run_directory, STALE_SECONDS - 10)
    with pytest.raises(WriteError, match="pid 1 on elsewhere"):
        claim(run_directory, "extract", "two")


@dataclass
class OtherHost:
    """A writer in another pod, by a clock that only the waiting moves; it does `act` meanwhile."""

    act: Callable[[], None]
    now: float = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.act()


@pytest.mark.parametrize(("end", "most_seconds"), [("releases", 10), ("is killed", STALE_SECONDS)])
def test_a_writer_in_another_pod_that_ends_is_waited_for(
    run_directory: RunDirectory, monkeypatch: pytest.MonkeyPatch, end: str, most_seconds: float
) -> None:
    first = claim(run_directory, "cluster", "one")
    edit_owner(run_directory, host="elsewhere")

    def act() -> None:
        if end == "is killed":
            age_heartbeat(run_directory, 2)
        elif other.now >= 8:
            first.release()

    other = OtherHost(act)
    monkeypatch.setattr(owner, "time", other)
    said: list[str] = []
    claim(run_directory, "cluster", "two", said.append).check()
    assert 8 <= other.now <= most_seconds + 2
    (line,) = said
    assert f"pid {os.getpid()} on elsewhere has been writing it since" in line
    assert line.endswith("; waiting up to 60 s for it to end")
    assert [path.name for path in run_directory.root.iterdir()] == ["owner.json"]


def test_a_writer_in_another_pod_that_lives_is_waited_for_no_longer_than_one_may_be_dead(
    run_directory: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = claim(run_directory, "cluster", "one")
    edit_owner(run_directory, host="elsewhere")
    other = OtherHost(lambda: os.utime(run_directory.owner_file))
    monkeypatch.setattr(owner, "time", other)
    said: list[str] = []
    with pytest.raises(WriteError, match=r"elsewhere .*; wait for it, stop it, or give this run"):
        claim(run_directory, "cluster", "two", said.append)
    assert STALE_SECONDS < other.now < STALE_SECONDS + 10
    assert len(said) == 1
    first.check()
    assert [path.name for path in run_directory.root.iterdir()] == ["owner.json"]


def test_a_process_that_is_seen_to_live_is_not_waited_for(run_directory: RunDirectory) -> None:
    claim(run_directory, "extract", "one")
    said: list[str] = []
    with pytest.raises(WriteError, match="has been writing it"):
        claim(run_directory, "cluster", "two", said.append)
    assert said == []


def test_a_writer_without_a_heartbeat_is_succeeded_and_learns_of_it(
    run_directory: RunDirectory,
) -> None:
    first = claim(run_directory, "extract", "one")
    edit_owner(run_directory, host="elsewhere")
    age_heartbeat(run_directory, STALE_SECONDS + 1)
    second = claim(run_directory, "extract", "two")
    second.check()
    with pytest.raises(WriteError, match="taken over by pid"):
        first.check()


def test_a_pod_that_was_recreated_succeeds_itself(run_directory: RunDirectory) -> None:
    first = claim(run_directory, "extract", "one")
    second = claim(run_directory, "extract", "one")
    second.check()
    with pytest.raises(WriteError):
        first.check()


def test_writers_that_name_no_submission_are_not_the_same_one(run_directory: RunDirectory) -> None:
    claim(run_directory, "extract", "")
    with pytest.raises(WriteError):
        claim(run_directory, "extract", "")


def test_a_process_that_is_gone_is_succeeded_at_once(run_directory: RunDirectory) -> None:
    code = f"""
import os
from pathlib import Path
from clusterfit.artifacts.layout import RunDirectory
from clusterfit.artifacts.owner import claim
claim(RunDirectory(Path({str(run_directory.storage_root)!r}), "digits"), "extract", "one")
os._exit(9)  # as if killed: nothing is released
"""
    subprocess.run([sys.executable, "-c", code], check=False, timeout=60)
    assert run_directory.owner_file.exists()
    claim(run_directory, "extract", "two").check()


def test_a_pid_that_was_given_to_another_process_is_not_the_writer(
    run_directory: RunDirectory,
) -> None:
    claim(run_directory, "extract", "one")
    edit_owner(run_directory, pid_started="12345")
    claim(run_directory, "extract", "two").check()


def test_a_pod_of_the_same_host_name_is_not_dead_because_its_pid_is_not_ours_to_see(
    run_directory: RunDirectory,
) -> None:
    claim(run_directory, "extract", "one")
    edit_owner(run_directory, pid=2**22 + 1, pid_namespace="pid:[1]")
    with pytest.raises(WriteError, match="has been writing it"):
        claim(run_directory, "extract", "two")


@pytest.mark.parametrize("content", ["", "{", "[]", '{"pid": 1}', "\xff"])
def test_a_damaged_claim_is_nobodys(run_directory: RunDirectory, content: str) -> None:
    run_directory.owner_file.write_text(content, encoding="latin-1")
    claim(run_directory, "extract", "one").check()


def test_a_released_claim_is_gone_and_free(run_directory: RunDirectory) -> None:
    first = claim(run_directory, "extract", "one")
    first.start_heartbeat()
    first.release()
    assert list(run_directory.root.iterdir()) == []
    with pytest.raises(WriteError, match="taken over by somebody, and released since"):
        first.check()
    claim(run_directory, "extract", "two").check()


def test_releasing_leaves_a_successors_claim(run_directory: RunDirectory) -> None:
    first = claim(run_directory, "extract", "one")
    second = claim(run_directory, "extract", "one")
    first.release()
    second.check()
    second.release()
    assert not run_directory.owner_file.exists()
    second.release()


def test_ranks_continue_the_claim_of_their_entry_by_its_token(run_directory: RunDirectory) -> None:
    writer = claim(run_directory, "extract", "one")
    Writer(run_directory.owner_file, writer.token).check()
    with pytest.raises(WriteError):
        Writer(run_directory.owner_file, "another").check()


def test_a_heartbeat_touches_the_file_and_never_a_successors(
    run_directory: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owner, "HEARTBEAT_SECONDS", 0.01)
    first = claim(run_directory, "extract", "one")
    age_heartbeat(run_directory, 1000)
    aged = run_directory.owner_file.stat().st_mtime
    beaten = threading.Event()

    def utime(path: Path) -> None:
        os.utime(path, (aged + 5, aged + 5))
        beaten.set()

    monkeypatch.setattr(owner, "os", FakeOs(utime))
    first.start_heartbeat()
    assert beaten.wait(30)
    assert run_directory.owner_file.stat().st_mtime == aged + 5
    edit_owner(run_directory, token="a successor's")
    assert first._thread is not None
    first._thread.join(30)
    assert not first._thread.is_alive(), "a writer that lost its claim stops beating"


def test_a_paused_heartbeat_has_no_thread_and_beats_again_after_it(
    run_directory: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owner, "HEARTBEAT_SECONDS", 0.01)
    writer = claim(run_directory, "extract", "one")
    beaten = threading.Event()
    monkeypatch.setattr(owner, "os", FakeOs(lambda _path: beaten.set()))
    writer.start_heartbeat()
    with writer.heartbeat_paused():
        assert "heartbeat" not in [thread.name for thread in threading.enumerate()]
        beaten.clear()
    assert beaten.wait(30)
    writer.release()
    assert "heartbeat" not in [thread.name for thread in threading.enumerate()]


class FakeOs:
    """The os module with a utime of our own."""

    def __init__(self, utime: Any) -> None:
        self.utime = utime

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)


def test_of_many_claims_at_once_exactly_one_wins(run_directory: RunDirectory) -> None:
    start = threading.Barrier(8)
    winners: list[Writer] = []
    refusals: list[WriteError] = []

    def compete(number: int) -> None:
        start.wait()
        try:
            winners.append(claim(run_directory, "extract", f"submission-{number}"))
        except WriteError as error:
            refusals.append(error)

    threads = [threading.Thread(target=compete, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(winners), len(refusals)) == (1, 7)
    winners[0].check()


def test_an_owner_that_releases_while_we_look_is_succeeded(
    run_directory: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between reading whose claim it is and asking how old its heartbeat is, it may be gone."""
    first = claim(run_directory, "extract", "one")
    read = owner._read_owner

    def read_then_release(path: Path) -> owner.Owner | None:
        found = read(path)
        if found is not None and found.token == first.token:
            path.unlink()
        return found

    monkeypatch.setattr(owner, "_read_owner", read_then_release)
    claim(run_directory, "extract", "two").check()


def test_a_folder_that_cannot_be_written_cannot_be_claimed(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(WriteError, match="the run directory cannot be written: "):
        claim(RunDirectory(tmp_path / "runs", "digits"), "extract", "one")


@pytest.mark.parametrize("call", ["fsync", "link"])
@pytest.mark.parametrize(
    ("number", "kind"), [(errno.ESTALE, RetryableError), (errno.EPERM, WriteError)]
)
def test_storage_that_fails_may_be_claimed_later(
    run_directory: RunDirectory, monkeypatch: pytest.MonkeyPatch, call: str, number: int,
    kind: type[ClusterfitError],
) -> None:  # fmt: skip
    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(kind, match=os.strerror(number)):
        claim(run_directory, "extract", "one")
    assert list(run_directory.root.iterdir()) == []
