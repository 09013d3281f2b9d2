"""`clusterfit init`: a file that is right, never over another one."""

from __future__ import annotations

from pathlib import Path

from .conftest import RunCommand


def test_what_init_writes_is_right(run_command: RunCommand) -> None:
    ending = run_command("init")
    assert ending.code == 0
    assert ending.out == "wrote run.yaml; adapt it, then: clusterfit config check -f run.yaml\n"
    assert run_command("config", "check", "-f", "run.yaml").code == 0


def test_options_reach_the_file(run_command: RunCommand) -> None:
    options = ("--name", "other", "--train", "in/t", "--weights", "w.pth", "--model", "resnet18")
    assert run_command("init", "sweep.yaml", *options, "--val", "in/v").code == 0
    shown = run_command("config", "show", "-f", "sweep.yaml").out
    for line in ("name: other", "train: in/t", "val: in/v", "path: w.pth", "model: resnet18"):
        assert line in shown
    assert "-f sweep.yaml" in Path("sweep.yaml").read_text()


def test_a_file_that_is_there_is_kept(run_command: RunCommand) -> None:
    Path("run.yaml").write_text("mine")
    ending = run_command("init")
    assert ending.code == 64
    assert ending.err == "error: run.yaml: already there; remove it or name another file\n"
    assert Path("run.yaml").read_text() == "mine"


def test_a_wrong_option_writes_nothing(run_command: RunCommand) -> None:
    ending = run_command("init", "--name", "My_Run")
    assert ending.code == 64
    assert ending.err.startswith('error: name: got "My_Run", want 1 to 40 lower-case letters')
    assert not Path("run.yaml").exists()


def test_where_it_cannot_be_written_is_said(run_command: RunCommand) -> None:
    ending = run_command("init", "no/such/run.yaml")
    assert ending.code == 73
    assert ending.err == "error: no/such/run.yaml: No such file or directory\n"
