"""Running a command as a user does, in a folder of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from clusterfit.cli import main


@dataclass(frozen=True)
class Ending:
    """How a command ended and what it printed."""

    code: int
    out: str
    err: str


RunCommand = Callable[..., Ending]


@pytest.fixture
def run_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> RunCommand:
    """Return a function that runs `clusterfit ARGUMENTS...` in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> Ending:
        with pytest.raises(SystemExit) as ending:
            main(arguments)
        said = capsys.readouterr()
        code = ending.value.code
        assert code is None or isinstance(code, int)
        return Ending(code or 0, said.out, said.err)

    return run
