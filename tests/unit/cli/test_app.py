"""How every command ends, and how light the command line is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import clusterfit
from clusterfit.cli import config
from clusterfit.errors import ClusterfitError, ConfigError, InvalidDataError, WriteError

from .conftest import RunCommand


def test_version(run_command: RunCommand) -> None:
    ending = run_command("--version")
    assert (ending.code, ending.out) == (0, f"clusterfit {clusterfit.__version__}\n")


def test_help_names_every_command(run_command: RunCommand) -> None:
    ending = run_command("--help")
    assert ending.code == 0
    for command in ("config", "init", "--version"):
        assert command in ending.out


@pytest.mark.parametrize(
    "arguments",
    [
        ("--no-such-option",),
        ("no-such-command",),
        ("config", "no-such-command"),
        ("config", "show", "--no-such-option"),
        ("config", "show", "-o", "xml"),
        ("config", "show", "extra"),
    ],
)
def test_a_wrong_option_ends_as_a_wrong_setting_does(
    run_command: RunCommand, arguments: tuple[str, ...]
) -> None:
    ending = run_command(*arguments)
    assert ending.code == 64
    assert ending.out == ""
    assert "Traceback" not in ending.err


@pytest.mark.parametrize("kind", [ConfigError, InvalidDataError, WriteError, ClusterfitError])
def test_a_failure_is_its_lines_and_its_code(
    run_command: RunCommand, monkeypatch: pytest.MonkeyPatch, kind: type[ClusterfitError]
) -> None:
    def fail(*_: object) -> None:
        raise kind("one: got 1", "two: got 2")

    monkeypatch.setattr(config, "load", fail)
    ending = run_command("config", "check")
    assert ending.code == kind.exit_code
    assert ending.err == "error: one: got 1\nerror: two: got 2\n"
    assert ending.out == ""


def test_an_interrupt_ends_with_130(
    run_command: RunCommand, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(config, "load", interrupt)
    ending = run_command("config", "check")
    assert ending.code == 130
    assert "Traceback" not in ending.err


def test_ctrl_c_in_a_real_process_ends_with_130(tmp_path: Path) -> None:
    # What a shell starts in the background, pytest for one, and what that starts, ignores SIGINT.
    program = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from clusterfit.cli import main; main()"
    )
    waiting = subprocess.Popen(
        [sys.executable, "-c", program, "config", "check", "-f-"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONPROFILEIMPORTTIME": "1"},
    )
    assert waiting.stderr is not None
    for line in waiting.stderr:
        if b"clusterfit.config.loading" in line:
            break  # all is imported: it now waits for its standard input
    waiting.send_signal(signal.SIGINT)
    _, err = waiting.communicate(timeout=60)
    assert waiting.returncode == 130
    assert b"Traceback" not in err


HEAVY = ("torch", "numpy", "kubernetes", "pydantic", "yaml", "rich", "faiss", "torchvision")


def test_importing_the_command_line_loads_nothing_heavy() -> None:
    program = (
        f"import sys, clusterfit.cli\nprint([name for name in {HEAVY!r} if name in sys.modules])\n"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert loaded.stdout == "[]\n"


def test_loading_a_run_file_needs_neither_torch_nor_numpy() -> None:
    program = (
        "import sys, clusterfit.config.loading, clusterfit.config.schedule\n"
        "import clusterfit.config.generate\n"
        "print([name for name in ('torch', 'numpy', 'kubernetes', 'typer') "
        "if name in sys.modules])\n"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert loaded.stdout == "[]\n"
