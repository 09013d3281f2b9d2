"""The commands of the pod of `put` and `get`, run on this computer, on claims that are folders."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import pytest

from clusterfit.launch import files
from clusterfit.launch.remote_command import CommandFailedError


class HereCommand(io.RawIOBase):
    """The pod's command, in a process of this computer, on the claims below a folder."""

    claims: Path

    def __init__(self, _api: object, _pod: str, command: Sequence[str]) -> None:
        python, *words = command
        assert python == "python"
        place = words[3]
        assert place.startswith(("/data", "/storage")), "it would write where no claim is"
        words[3] = f"{self.claims}{place}"
        self._process = subprocess.Popen(
            [sys.executable, *words],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def write(self, content: Any) -> int:
        assert self._process.stdin is not None
        return self._process.stdin.write(content)

    def readinto(self, buffer: Any) -> int:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        if not self._process.stdin.closed:
            self._process.stdin.flush()
        piece = self._process.stdout.read1(len(buffer))  # type: ignore[attr-defined]
        if not piece and (status := self._process.wait()):
            raise CommandFailedError(self._process.stderr.read().decode().strip(), status)
        buffer[: len(piece)] = piece
        return len(piece)


def work_here(claims: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make the two claims in a folder and let commands meant for the pod work there; return it."""
    for name in ("data", "storage"):
        (claims / name).mkdir(parents=True)
    HereCommand.claims = claims
    monkeypatch.setattr(files, "RemoteCommand", HereCommand)
    return claims
