"""`clusterfit artifacts` on a run of two small artifacts, and how light the command line is."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from clusterfit.artifacts.layout import RunDirectory
from clusterfit.artifacts.manifest import Identity, write_manifest
from clusterfit.cli import main

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    """Write a run with features of 1,500 bytes and centroids of 10."""
    directory = RunDirectory(tmp_path / "runs", "digits")
    for stage, name, size in (("extract/res5avg/train", "part", 1500), ("cluster", "c.npy", 10)):
        folder = directory.root / stage
        folder.mkdir(parents=True)
        (folder / name).write_bytes(bytes(size))
        write_manifest(folder, Identity(stage, {}, {}), [name], {}, {})
    directory.run_file.write_text("{}")
    return directory


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Call:
    """Run the command line here and return exit code, output and errors."""

    def call_(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ending:
            main(["artifacts", *arguments, "--storage-root", str(tmp_path / "runs")])
        captured = capsys.readouterr()
        code = ending.value.code
        assert code is None or isinstance(code, int)
        return code or 0, captured.out, captured.err

    return call_


def test_ls_lists_every_artifact_with_its_size(run: RunDirectory, call: Call) -> None:
    for arguments in (["ls"], ["ls", "digits"]):
        code, out, err = call(*arguments)
        assert (code, err) == (0, "")
        first, second = out.splitlines()
        fingerprint = Identity("cluster", {}, {}).fingerprint[:12]
        assert first.split() == ["digits/cluster", "1", "file", "10", "B", fingerprint]
        assert second.split()[:5] == ["digits/extract/res5avg/train", "1", "file", "1.5", "kB"]


def test_ls_says_when_there_is_nothing(tmp_path: Path, call: Call) -> None:
    assert call("ls") == (0, f"no runs below {tmp_path / 'runs'}\n", "")


def test_a_run_of_which_nothing_has_finished_is_no_whole_one(tmp_path: Path, call: Call) -> None:
    begun = RunDirectory(tmp_path / "runs", "begun")
    begun.root.mkdir(parents=True)
    begun.run_file.write_text("{}")
    assert call("ls") == (0, "begun: no stage of it has finished\n", "")
    code, out, err = call("verify", "begun")
    assert (code, out) == (66, "")
    assert err == f"error: {begun.root}: no stage has finished; there is no manifest\n"


def test_verify_finds_a_whole_run_whole(run: RunDirectory, call: Call) -> None:
    code, out, _ = call("verify", "digits")
    assert code == 0
    assert out == "ok: 2 files of 2 artifacts: all is as the manifests say\n"


def test_verify_names_each_damaged_file_and_ends_with_65(run: RunDirectory, call: Call) -> None:
    part = run.root / "extract" / "res5avg" / "train" / "part"
    part.write_bytes(bytes(1499) + b"x")
    (run.root / "cluster" / "c.npy").unlink()
    code, out, err = call("verify", "digits")
    assert (code, out) == (65, "")
    assert f"error: {part}: content differs" in err
    assert f"error: {run.root / 'cluster' / 'c.npy'}: missing" in err
    assert err.splitlines()[-1] == (
        "error: delete what is named and run its stage again: of features the named parts alone "
        "are redone, of another stage perhaps all"
    )


@pytest.mark.parametrize(("number", "code", "more"), [
    (errno.ESTALE, 203, "; the storage is not available"),
    (errno.EACCES, 65, ""),
])  # fmt: skip
def test_storage_that_cannot_be_looked_at_is_one_line(
    run: RunDirectory, call: Call, monkeypatch: pytest.MonkeyPatch, number: int, code: int,
    more: str,
) -> None:  # fmt: skip
    def fail(path: Path) -> os.stat_result:
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(Path, "stat", fail)
    assert call("verify", "digits") == (
        code, "", f"error: {run.root}: {os.strerror(number)}{more}\n"
    )  # fmt: skip


@pytest.mark.parametrize("name", ["manifest.json", "c.npy"])
def test_storage_that_fails_while_it_is_verified_is_one_line(
    run: RunDirectory, call: Call, lose: Callable[[Path], None], name: str
) -> None:
    cluster = run.root / "cluster"
    (cluster / "c.npy").write_bytes(b"")  # as long as what fails to be read
    write_manifest(cluster, Identity("cluster", {}, {}), ["c.npy"], {}, {})
    lose(cluster / name)
    said = f"error: {cluster / name}: Input/output error; the storage is not available\n"
    assert call("verify", "digits") == (203, "", said)


def test_an_unknown_run_ends_with_66_and_the_known_ones(run: RunDirectory, call: Call) -> None:
    code, _, err = call("verify", "other")
    assert code == 66
    assert "no run other" in err
    assert "there are: digits" in err


@pytest.mark.parametrize("statement", ["import clusterfit.cli", "clusterfit.cli.main(['--help'])"])
def test_the_command_line_loads_nothing_heavy(statement: str) -> None:
    code = f"""
import json, sys
import clusterfit.cli
try:
    {statement}
except SystemExit:
    pass
print(json.dumps(sorted(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(json.loads(done.stdout.splitlines()[-1]))
    assert not loaded & {"torch", "numpy", "kubernetes", "faiss", "PIL", "safetensors", "rich"}
