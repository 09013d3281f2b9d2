"""Files arrive whole, with their times, and only where they belong."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from clusterfit.artifacts.files import PARTIAL_SUFFIX
from clusterfit.errors import ConfigError, MissingInputError, WriteError
from clusterfit.launch import transfer
from clusterfit.launch.files import Amount, get_files, parse_place, put_files
from clusterfit.launch.transfer import list_files, receive_files, send_files

from .here_command import work_here


def ignore(_size: int) -> None:
    pass


def make_tree(folder: Path) -> Path:
    for name, content in (("a.bin", b"\x00\xff" * 5000), ("b/ü ö/c.txt", b""), ("b/d", b"x")):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        os.utime(path, (1_700_000_000.7, 1_700_000_000.7))
    return folder


def test_a_folder_goes_through_a_stream_and_is_then_known(tmp_path: Path) -> None:
    source, target = make_tree(tmp_path / "source"), tmp_path / "target"
    stream = io.BytesIO()
    send_files(source, list_files(source), stream, ignore)
    stream.seek(0)
    assert receive_files(target, stream, ignore) == 3
    assert list_files(target) == list_files(source), "sizes and times: nothing is sent again"
    assert (target / "a.bin").read_bytes() == (source / "a.bin").read_bytes()


def test_a_file_takes_the_name_that_it_is_given(tmp_path: Path) -> None:
    source = tmp_path / "weights.torch"
    source.write_bytes(b"w")
    stream = io.BytesIO()
    send_files(source, list_files(source), stream, ignore)
    stream.seek(0)
    receive_files(tmp_path / "target", stream, ignore, rename="rotnet.torch")
    assert (tmp_path / "target" / "rotnet.torch").read_bytes() == b"w"


def test_a_list_that_takes_long_shows_that_it_is_being_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = make_tree(tmp_path / "source")
    for seconds, pulses in ((3600.0, 0), (0.0, 5)):  # three files in two folders
        monkeypatch.setattr(transfer, "_PULSE_SECONDS", seconds)
        assert transfer.main(["list", str(source)]) == 0
        said = capsys.readouterr().out
        assert json.loads(said) == list_files(source)
        assert said.rstrip("\n").count("\n") == pulses


def test_links_are_what_they_lead_to(tmp_path: Path) -> None:
    """Image folders are often made of them."""
    store = make_tree(tmp_path / "store")
    source = tmp_path / "source"
    source.mkdir()
    (source / "file").symlink_to(store / "a.bin")
    (source / "folder").symlink_to(store / "b")
    (source / "again").symlink_to(store / "b")
    (source / "gone").symlink_to(store / "nothing")
    (source / "round").symlink_to(source)
    os.link(store / "a.bin", source / "one")
    os.link(store / "a.bin", source / "two")
    names = ["again/d", "again/ü ö/c.txt", "file", "folder/d", "folder/ü ö/c.txt", "one", "two"]
    assert [*list_files(source, everything=True)] == names
    assert [*list_files(source)] == ["file", "one", "two"], "a folder's link is left alone"
    stream = io.BytesIO()
    send_files(source, names, stream, ignore)
    stream.seek(0)
    target = tmp_path / "target"
    assert receive_files(target, stream, ignore) == len(names)
    assert list_files(target) == list_files(source, everything=True)
    for name in names:
        assert (target / name).read_bytes() == (source / name).read_bytes()
        assert not (target / name).is_symlink()


@pytest.mark.parametrize(
    "error", [PermissionError(13, "Permission denied"), FileNotFoundError(2, "No such file")]
)
def test_a_folder_that_refuses_or_goes_is_missed_where_all_is_wanted(
    error: OSError, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make_tree(tmp_path / "source")
    real = Path.iterdir

    def refuse(path: Path) -> Iterator[Path]:
        if path == source / "b":
            raise type(error)(*error.args, str(path))
        return iter(list(real(path)))

    monkeypatch.setattr(Path, "iterdir", refuse)
    assert [*list_files(source)] == ["a.bin"]
    with pytest.raises(type(error)):
        list_files(source, everything=True)
    api: Any = None
    with pytest.raises(MissingInputError, match=f"source/b: {error.strerror}$"):
        put_files(api, "pod", source, parse_place("data:x"), lambda _: ignore)


def test_a_stream_that_breaks_off_leaves_no_half_file(tmp_path: Path) -> None:
    source = make_tree(tmp_path / "source")
    stream = io.BytesIO()
    send_files(source, list_files(source), stream, ignore)
    target = tmp_path / "target"
    with pytest.raises(tarfile.TarError):
        receive_files(target, io.BytesIO(stream.getvalue()[:3000]), ignore)
    assert list(target.rglob("*")) == []


def test_a_full_disk_is_not_left_fuller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hidden file of what was cut off would be as large as all that was free."""
    source, target = make_tree(tmp_path / "source"), tmp_path / "target"
    stream = io.BytesIO()
    send_files(source, ["a.bin"], stream, ignore)
    stream.seek(0)

    def fail(_handle: int) -> None:
        assert len(list(target.iterdir())) == 1
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        receive_files(target, stream, ignore)
    assert list(target.iterdir()) == []


def test_what_a_stage_removes_meanwhile_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    claims = work_here(tmp_path / "claims", monkeypatch)
    run = make_tree(claims / "storage" / "digits")
    (run / f".model.safetensors.0123{PARTIAL_SUFFIX}").write_bytes(b"half")
    begun: list[Amount] = []

    def begin(amount: Amount) -> Any:
        begun.append(amount)
        (run / "a.bin").unlink()
        return ignore

    api: Any = None
    amount = get_files(api, "pod", parse_place("storage:digits"), tmp_path / "here", begin)
    assert begun == [Amount(3, 10001, 0)], "what is not whole yet is not asked for"
    assert amount.num_gone == 1
    assert [*list_files(tmp_path / "here")] == ["b/d", "b/ü ö/c.txt"]


def test_a_file_that_goes_while_it_is_listed_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make_tree(tmp_path / "source")
    real = transfer._describe

    def describe(path: Path) -> list[int]:
        if path.name == "a.bin":
            path.unlink(missing_ok=True)
        return real(path)

    monkeypatch.setattr(transfer, "_describe", describe)
    assert [*list_files(source)] == ["b/d", "b/ü ö/c.txt"]
    with pytest.raises(FileNotFoundError):
        list_files(make_tree(source), everything=True)


def test_a_claim_that_cannot_be_written_says_so_with_its_own_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    claims = work_here(tmp_path / "claims", monkeypatch)
    (claims / "data" / "flowers").write_bytes(b"a file where a folder is wanted")
    api: Any = None
    with pytest.raises(WriteError, match=r"^in the pod: .*Not a directory: .*/data/flowers"):
        put_files(api, "pod", make_tree(tmp_path / "x"), parse_place("data:flowers/x"), begin_not)


def begin_not(_amount: Amount) -> Any:
    return ignore


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "a/../../evil"])
def test_nothing_leaves_the_folder(name: str, tmp_path: Path) -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        archive.addfile(tarfile.TarInfo(name), io.BytesIO())
    stream.seek(0)
    with pytest.raises(ValueError, match="not a file below the folder"):
        receive_files(tmp_path / "target", stream, ignore)


def test_links_are_refused(tmp_path: Path) -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    stream.seek(0)
    with pytest.raises(ValueError, match="not a file"):
        receive_files(tmp_path / "target", stream, ignore)


def test_places_are_on_the_claims() -> None:
    assert parse_place("data:imagenet/train/").in_pod == "/data/imagenet/train"
    assert parse_place("storage:").in_pod == "/storage"
    for wrong in ("imagenet", "tmp:x", "data:../x"):
        with pytest.raises(ConfigError, match="want data:PATH or storage:PATH"):
            parse_place(wrong)
