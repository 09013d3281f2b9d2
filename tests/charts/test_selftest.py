"""What `helm test` does on the claims."""

from __future__ import annotations

import os
import runpy
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from clusterfit.launch.charts import RUN_CHART, find_chart

CheckStorage = Callable[[Path], str]


@pytest.fixture(scope="module")
def check_storage() -> CheckStorage:
    functions = runpy.run_path(str(find_chart(RUN_CHART) / "files" / "selftest.py"))
    check: CheckStorage = functions["check_storage"]
    return check


@dataclass
class Claim:
    """Notes what is asked of the file system, in its order; one step may be beyond it."""

    done: list[str] = field(default_factory=list)
    beyond: str = ""

    def note(self, step: str) -> None:
        self.done.append(step)
        if step == self.beyond:
            raise OSError(f"no {step}")


@pytest.fixture
def claim(monkeypatch: pytest.MonkeyPatch) -> Claim:
    claim = Claim()
    sync, rename = os.fsync, Path.rename

    def note_sync(handle: int) -> None:
        is_folder = stat.S_ISDIR(os.fstat(handle).st_mode)
        claim.note(f"sync of a {'folder' if is_folder else 'file'}")
        sync(handle)

    def note_rename(path: Path, target: Path) -> Path:
        claim.note("rename")
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(Path, "rename", note_rename)
    return claim


STEPS = ["sync of a file", "rename", "sync of a folder"]


def test_a_file_is_synced_then_renamed_then_its_folder_is_synced(
    check_storage: CheckStorage, claim: Claim, tmp_path: Path
) -> None:
    assert check_storage(tmp_path) == "written, synced, renamed, linked and read back"
    assert claim.done == STEPS
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("step", STEPS)
def test_what_the_claim_cannot_do_fails_it_and_leaves_nothing(
    check_storage: CheckStorage, claim: Claim, step: str, tmp_path: Path
) -> None:
    claim.beyond = step
    with pytest.raises(OSError, match=f"no {step}"):
        check_storage(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_file_system_without_hard_links_is_named(
    check_storage: CheckStorage, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """All else would pass, and no stage could begin."""

    def refuse(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(OSError, match=r"no hard links, .*Operation not supported"):
        check_storage(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_no_two_users_share_a_folder(
    check_storage: CheckStorage, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """One user's would be closed to the next."""
    folders: list[Path] = []
    sync = os.fsync

    def note(handle: int) -> None:
        folders.extend(tmp_path.iterdir())
        sync(handle)

    monkeypatch.setattr(os, "fsync", note)
    check_storage(tmp_path)
    check_storage(tmp_path)
    assert len({*folders}) == 2
