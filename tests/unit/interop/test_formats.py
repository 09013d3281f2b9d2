"""A weights file is known by its bytes, and everything else is named and refused."""

from __future__ import annotations

import io
import os
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from clusterfit.errors import InvalidDataError, MissingInputError
from clusterfit.interop.checkpoint import read_checkpoint
from clusterfit.interop.formats import recognise_format

TENSORS = {"conv1.weight": torch.arange(6.0).reshape(2, 3), "bn1.bias": torch.ones(2)}


class Bomb:
    """Creates a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.target),)


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def refusal_of(path: Path) -> str:
    with pytest.raises(InvalidDataError) as caught:
        read_checkpoint(path)
    (fault,) = caught.value.faults
    assert "\n" not in fault
    assert fault.startswith(f"{path}: ")
    return fault.removeprefix(f"{path}: ")


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pth", "weights"])
def test_each_format_is_read_whatever_the_name(tmp_path: Path, name: str) -> None:
    def write_zip(path: Path) -> None:
        torch.save(TENSORS, path)

    def write_legacy(path: Path) -> None:
        torch.save(TENSORS, path, _use_new_zipfile_serialization=False)

    def write_safetensors(path: Path) -> None:
        save_file(TENSORS, path)

    writers = {
        "torch zip": write_zip,
        "torch legacy": write_legacy,
        "safetensors": write_safetensors,
    }
    for file_format, writer in writers.items():
        writer(tmp_path / name)
        checkpoint = read_checkpoint(tmp_path / name)
        assert checkpoint.file_format == file_format
        assert isinstance(checkpoint.content, dict)
        assert all(torch.equal(checkpoint.content[key], TENSORS[key]) for key in TENSORS)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_runs_code_is_refused_and_did_not_run(tmp_path: Path, zipped: bool) -> None:
    made = tmp_path / "made-by-the-bomb"
    path = tmp_path / "weights.pth"
    torch.save({**TENSORS, "bomb": Bomb(made)}, path, _use_new_zipfile_serialization=zipped)
    message = refusal_of(path)
    assert not made.exists()
    assert "needs Python code to be run (posix.mkdir)" in message
    assert "safetensors.torch.save_file" in message
    torch.load(path, weights_only=False)  # The bomb is real.
    assert made.is_dir()


def test_a_plain_pickle_is_refused_unread(tmp_path: Path) -> None:
    made = tmp_path / "made-by-the-bomb"
    path = write(tmp_path / "weights.pkl", pickle.dumps({"blobs": Bomb(made)}))
    assert "a Python pickle, which runs code as it is read" in refusal_of(path)
    assert not made.exists()


def test_a_checkpoint_with_its_command_line_is_read(tmp_path: Path) -> None:
    import argparse

    torch.save({"state_dict": TENSORS, "args": argparse.Namespace(lr=0.1)}, tmp_path / "a.pth")
    content = read_checkpoint(tmp_path / "a.pth").content
    assert isinstance(content, dict)
    assert content["args"].lr == 0.1


def test_a_class_of_somebody_elses_is_named(tmp_path: Path) -> None:
    torch.save({"state_dict": TENSORS, "when": np.float64(3)}, tmp_path / "a.pth")
    assert "numpy" in refusal_of(tmp_path / "a.pth")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "an empty file"),
        (b"<!DOCTYPE html><html><title>Sign\n in</title>", "a web page titled 'Sign in'"),
        (b"\n<html><body>404</body></html>", "a web page: "),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "a web page"),
        (b"Not Found", "a text file that begins 'Not Found'"),
        (b"a" + "ö".encode() * 4000, "a text file that begins 'aö"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a Git LFS pointer"),
        (b"\x89HDF\r\n\x1a\n" + bytes(64), "an HDF5 file"),
        (b"\x1f\x8b\x08" + bytes(64), "a gzip archive"),
        (b"\x00\x01\x02\x03" * 40, "unknown format (it begins with the bytes 00 01 02 03"),
        (b"PK\x05\x06" + bytes(18), "a zip archive that torch.save did not write: it is empty"),
    ],
)  # fmt: skip
def test_what_is_no_weights_file_is_named(tmp_path: Path, content: bytes, said: str) -> None:
    assert said in refusal_of(write(tmp_path / "weights.pth", content))


def test_archives_that_torch_did_not_write_are_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", weight=np.zeros(3))
    assert "a NumPy archive (.npz)" in refusal_of(tmp_path / "a.npz")
    np.save(tmp_path / "a.npy", np.zeros(3))
    assert "a NumPy array" in refusal_of(tmp_path / "a.npy")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("resnet50.pth", b"")
    assert "its first entry is 'resnet50.pth'" in refusal_of(tmp_path / "a.zip")
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.addfile(tarfile.TarInfo("resnet50.pth"), io.BytesIO())
    assert "a tar archive" in refusal_of(tmp_path / "a.tar")
    with zipfile.ZipFile(tmp_path / "a.pt", "w") as archive:
        archive.writestr("a/data.pkl", b"")
        archive.writestr("a/constants.pkl", b"")
        archive.writestr("a/code/__torch__.py", b"")
    assert "a TorchScript archive" in refusal_of(tmp_path / "a.pt")


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("kept_fraction", [0.5, 0.9, 0.999])
def test_a_torch_file_that_is_cut_off(tmp_path: Path, zipped: bool, kept_fraction: float) -> None:
    path = tmp_path / "weights.pth"
    tensors = {"a": torch.rand(2000), "b": torch.rand(2000)}
    torch.save(tensors, path, _use_new_zipfile_serialization=zipped)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * kept_fraction)])
    assert "cut off or damaged" in refusal_of(path)


@pytest.mark.parametrize("kept_bytes", [12, 60, -1])
def test_a_safetensors_file_that_is_cut_off(tmp_path: Path, kept_bytes: int) -> None:
    path = tmp_path / "weights.safetensors"
    save_file(TENSORS, path)
    whole = path.read_bytes()
    path.write_bytes(whole[:kept_bytes])
    message = refusal_of(path)
    assert "a safetensors file that is cut off" in message
    assert f"it has {len(whole[:kept_bytes])} bytes" in message
    assert str(len(whole)) in message or kept_bytes > 0
    path.write_bytes(whole + b"\0")
    assert "a safetensors file that is too long" in refusal_of(path)


@pytest.mark.parametrize(
    "header",
    [
        b"{not json",
        b'{"a": 3}',
        b'{"a": {"dtype": "F32", "shape": [9], "data_offsets": [0, 0]}}',
        b"{" + b'"a":{' * 50_000,
    ],
)
def test_a_safetensors_header_that_lies(tmp_path: Path, header: bytes) -> None:
    path = write(tmp_path / "a.safetensors", struct.pack("<Q", len(header)) + header)
    assert "damaged" in refusal_of(path)


def test_what_is_not_there_is_a_missing_input(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match=r"nowhere\.pth: there is no such weights file"):
        read_checkpoint(tmp_path / "nowhere.pth")
    with pytest.raises(InvalidDataError, match="a folder; give the weights file in it"):
        read_checkpoint(tmp_path)


def test_random_bytes_after_every_magic_end_in_a_refusal(tmp_path: Path) -> None:
    """Any byte soup is one clear line, never a traceback of a parser."""
    generator = np.random.default_rng(0)
    torch.save(TENSORS, tmp_path / "zip")
    torch.save(TENSORS, tmp_path / "legacy", _use_new_zipfile_serialization=False)
    save_file(TENSORS, tmp_path / "safe")
    for name in ("zip", "legacy", "safe"):
        whole = (tmp_path / name).read_bytes()
        for _ in range(60):
            damaged = bytearray(whole)
            for position in generator.integers(0, len(whole), 8):
                damaged[position] = generator.integers(256)
            path = write(tmp_path / "damaged", bytes(damaged))
            try:
                read_checkpoint(path)  # Damage inside a tensor's values is not seen here.
            except InvalidDataError as refusal:
                assert "\n" not in str(refusal)  # noqa: PT017


def test_recognising_needs_no_torch(tmp_path: Path, fresh_python: Callable[[str], str]) -> None:
    path = write(tmp_path / "a.pth", b"hello")
    code = (
        "import sys, pathlib, clusterfit.interop.formats as f, clusterfit.interop.weights\n"
        f"try: f.recognise_format(pathlib.Path({str(path)!r}))\n"
        "except Exception as e: print(type(e).__name__, 'torch' in sys.modules)"
    )
    assert fresh_python(code) == "InvalidDataError False"
    assert recognise_format.__module__ == "clusterfit.interop.formats"
