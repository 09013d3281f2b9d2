"""A file appears whole or not at all, and what cannot be read is refused by name."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clusterfit.artifacts.files import (
    compute_sha256,
    concatenate_arrays,
    find_visible_files,
    read_array,
    read_json,
    remove_partial_files,
    write_array,
    write_file,
    write_json,
)
from clusterfit.errors import (
    ClusterfitError,
    InvalidDataError,
    MissingInputError,
    RetryableError,
    WriteError,
)

MIB = 1 << 20


def list_all(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*")}


def test_a_written_file_holds_its_content_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    target = tmp_path / "new" / "folders" / "file.bin"
    write_file(target, b"first")
    write_file(target, b"second")
    assert target.read_bytes() == b"second"
    assert list_all(tmp_path) == {"new", "folders", "file.bin"}


def test_a_full_disk_leaves_the_old_content_and_no_partial_file(tiny_disk: Path) -> None:
    target = tiny_disk / "part.bin"
    write_file(target, b"old" * 1000)
    with pytest.raises(WriteError, match=r"part\.bin: cannot write 2097152 bytes: No space"):
        write_file(target, bytes(2 * MIB))
    assert target.read_bytes() == b"old" * 1000
    assert list_all(tiny_disk) == {"part.bin"}
    write_file(target, b"space was made" * 1000)
    assert target.read_bytes() == b"space was made" * 1000


def test_a_limit_on_file_size_leaves_the_old_content_and_no_partial_file(tmp_path: Path) -> None:
    """Whoever runs it, root or not; in a process of its own, because the limit is for good."""
    target = tmp_path / "part.bin"
    write_file(target, b"old")
    code = f"""
import resource, signal
from pathlib import Path
from clusterfit.artifacts.files import write_file
from clusterfit.errors import WriteError

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    write_file(Path({str(target)!r}), bytes(100_000))
except WriteError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "File too large; make space" in done.stdout
    assert target.read_bytes() == b"old"
    assert list_all(tmp_path) == {"part.bin"}


NO_OTHER_ATTEMPT = "cannot write 3 bytes: {}; make space or mend the permissions, then run"


@pytest.mark.parametrize(("number", "kind", "wanted"), [
    (errno.EIO, RetryableError, "{}; the storage is not available"),
    (errno.ESTALE, RetryableError, "{}; the storage is not available"),
    (errno.ETIMEDOUT, RetryableError, "{}; the storage is not available"),
    (errno.ENOSPC, WriteError, NO_OTHER_ATTEMPT),
    (errno.EACCES, WriteError, NO_OTHER_ATTEMPT),
    (errno.EROFS, WriteError, NO_OTHER_ATTEMPT),
])  # fmt: skip
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_storage_that_fails_is_worth_another_attempt_and_no_room_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, kind: type[ClusterfitError],
    wanted: str, call: str,
) -> None:  # fmt: skip
    target = tmp_path / "part.bin"
    write_file(target, b"old")

    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(ClusterfitError, match=rf"part\.bin: {wanted.format('.*')}") as failure:
        write_file(target, b"new")
    assert type(failure.value) is kind
    assert os.strerror(number) in str(failure.value)
    assert target.read_bytes() == b"old"
    assert list_all(tmp_path) == {"part.bin"}


def test_a_file_where_a_folder_should_be_cannot_be_written_below(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(WriteError, match="cannot write 1 bytes"):
        write_file(tmp_path / "file" / "below" / "target", b"x")
    with pytest.raises(WriteError, match="cannot write 1 bytes"):
        write_file(tmp_path / "file" / "target", b"x")


def test_a_guard_that_refuses_keeps_the_old_content(tmp_path: Path) -> None:
    target = tmp_path / "file"
    write_file(target, b"old")
    seen: list[bytes] = []

    def refuse() -> None:
        seen.append(target.read_bytes())
        [partial] = tmp_path.glob(".file.*.partial")
        seen.append(partial.read_bytes())
        raise WriteError("taken over")

    with pytest.raises(WriteError, match="taken over"):
        write_file(target, b"new", refuse)
    assert seen == [b"old", b"new"], "the guard is asked after writing, before renaming"
    assert target.read_bytes() == b"old"
    assert list_all(tmp_path) == {"file"}


def test_what_killed_writers_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    kept = {"a.partial", ".hidden", "file"}
    for name in (*kept, ".file.0123456789ab.partial"):
        (tmp_path / name).write_bytes(b"x")
    assert [path.name for path in find_visible_files(tmp_path)] == ["a.partial", "file"]
    remove_partial_files(tmp_path)
    assert list_all(tmp_path) == kept
    remove_partial_files(tmp_path / "not there")
    assert find_visible_files(tmp_path / "not there") == []


def test_json_comes_back_and_is_readable_by_people(tmp_path: Path) -> None:
    value = {"name": "Größe", "list": [1, 2.5, None], "nested": {"a": True}}
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == value
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert "Größe" in text
    assert text.endswith("}\n")
    assert json.loads(text) == value


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[1]", b'"text"', b"null"])
def test_what_is_no_json_object_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(InvalidDataError, match=r"a\.json: .*delete it"):
        read_json(path)
    with pytest.raises(MissingInputError, match=r"b\.json: not there"):
        read_json(tmp_path / "b.json")
    with pytest.raises(InvalidDataError, match=r"a\.json/below: Not a directory"):
        read_json(path / "below")


@pytest.mark.parametrize(
    "array",
    [
        np.arange(7),
        np.empty((0, 5), np.float32),
        np.zeros((3, 2), np.float16),
        np.array(["a", "bc"]),
    ],
)
def test_arrays_come_back_as_they_were(tmp_path: Path, array: np.ndarray) -> None:
    write_array(tmp_path / "a.npy", array)
    back = read_array(tmp_path / "a.npy")
    np.testing.assert_array_equal(back, array)
    assert back.dtype == array.dtype


def test_arrays_of_objects_archives_and_torn_files_are_refused(tmp_path: Path) -> None:
    whole = tmp_path / "whole.npy"
    np.save(whole, np.arange(1000))
    archive = tmp_path / "archive.npz"
    np.savez(archive, a=np.arange(3))
    contents = {
        "torn": whole.read_bytes()[:4000],
        "head": whole.read_bytes()[:20],
        "empty": b"",
        "text": b"1 2 3\n",
        "archive": archive.read_bytes(),
        "torn archive": archive.read_bytes()[:40],
    }
    np.save(tmp_path / "object.npy", np.array([{}], object), allow_pickle=True)
    contents["object"] = (tmp_path / "object.npy").read_bytes()
    for name, content in contents.items():
        path = tmp_path / f"{name}.npy"
        path.write_bytes(content)
        with pytest.raises(InvalidDataError, match=rf"{name}\.npy: "):
            read_array(path)
    with pytest.raises(MissingInputError, match="not there"):
        read_array(tmp_path / "none.npy")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(position=st.integers(0, 127), value=st.integers(0, 255))
def test_any_changed_byte_of_a_header_is_read_or_refused(
    tmp_path: Path, position: int, value: int
) -> None:
    path = tmp_path / "changed.npy"
    np.save(path, np.arange(10))
    content = bytearray(path.read_bytes())
    content[position] = value
    path.write_bytes(content)
    warnings.simplefilter("ignore")  # numpy's, about headers written by Python 2
    with contextlib.suppress(InvalidDataError):
        read_array(path)


def test_a_large_file_is_hashed_in_chunks(tmp_path: Path) -> None:
    content = bytes(range(256)) * (5 * MIB // 256) + b"an odd end"
    (tmp_path / "large").write_bytes(content)
    assert compute_sha256(tmp_path / "large") == hashlib.sha256(content).hexdigest()


def test_arrays_become_one_without_being_held(tmp_path: Path) -> None:
    parts = [np.arange(12).reshape(4, 3), np.empty((0, 3), int), np.arange(3).reshape(1, 3)]
    sources = [tmp_path / f"{number}.npy" for number in range(3)]
    for source, part in zip(sources, parts, strict=True):
        write_array(source, part)
    concatenate_arrays(tmp_path / "whole.npy", sources)
    np.testing.assert_array_equal(np.load(tmp_path / "whole.npy"), np.concatenate(parts))
    write_array(tmp_path / "expected.npy", np.concatenate(parts))
    assert (tmp_path / "whole.npy").read_bytes() == (tmp_path / "expected.npy").read_bytes()
