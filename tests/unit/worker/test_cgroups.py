"""A process is in the groups that the kernel names, and in those above them."""

from __future__ import annotations

from pathlib import Path

import pytest

from clusterfit.worker import cgroups
from clusterfit.worker.cgroups import list_groups


@pytest.mark.parametrize(
    ("of_process", "expected"),
    [
        ("0::/\n", ["."]),
        ("0::/job/step\n", ["job/step", "job", "."]),
        ("4:memory:/job/step\n1:cpu:/\n", ["memory/job/step", "memory/job", "memory"]),
        ("4:hugetlb,memory:/job\n0::/job\n", ["memory/job", "memory", "job", "."]),
        ("0::/not/seen/from/here\n", ["."]),
        ("0::/../sibling\n", ["."]),
        ("1:cpu:/job\n", []),
        ("2:name=systemd:/a:b\n", []),
    ],
)
def test_groups_are_listed_from_the_innermost_to_the_mount(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, of_process: str, expected: list[str]
) -> None:
    (tmp_path / "memory/job/step").mkdir(parents=True)
    (tmp_path / "job/step").mkdir(parents=True)
    (tmp_path / "of-process").write_text(of_process)
    monkeypatch.setattr(cgroups, "_MOUNT", tmp_path)
    monkeypatch.setattr(cgroups, "_OF_PROCESS", tmp_path / "of-process")
    assert list(list_groups("memory")) == [tmp_path / name for name in expected]


def test_without_such_a_file_there_are_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cgroups, "_OF_PROCESS", tmp_path / "none")
    assert list(list_groups("memory")) == []
