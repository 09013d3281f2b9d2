"""Long-running programs in the machine, each tracked by its pid and its start time."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.cluster.commands import ClusterError, wait_for
from tests.cluster.machine import Machine
from tests.cluster.paths import State, write_whole

# Run inside the machine, where the program is left to process 1. $0 is where its pid goes, $1 its
# log.
LAUNCH = 'echo $$ >"$0"; log=$1; shift; exec "$@" </dev/null >>"$log" 2>&1'


@dataclass(frozen=True, slots=True)
class Components:
    """The programs of one cluster, recorded in its folder: any process may control them."""

    state: State
    machine: Machine

    def start(self, name: str, command: Sequence[str | Path]) -> None:
        """Start a program for the first time.

        Args:
            name: What it is called from now on; its log is logs/NAME.log.
            command: The program and its arguments.
        """
        argv = [str(part) for part in command]
        pid_file = self.state.records / f"{name}.pid"
        self.machine.run(["setsid", "--fork", "sh", "-c", LAUNCH, pid_file, self.log(name), *argv])
        pid = int(pid_file.read_text())
        record = {"pid": pid, "start_time": self.machine.start_time(pid), "argv": argv}
        write_whole(self._record(name), json.dumps(record, indent=1))

    def start_again(self, name: str) -> None:
        """Start a program that was killed, as it was started before."""
        if self.is_running(name):
            raise ClusterError(f"{name} is running")
        self.start(name, [str(part) for part in self._read(name)["argv"]])

    def kill(self, name: str, with_signal: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal to a program, and wait until it has ended."""
        if self.is_running(name):
            pid = self._read(name)["pid"]
            self.machine.run(
                ["sh", "-c", 'kill -s "$0" "$1"', with_signal.name.removeprefix("SIG"), str(pid)]
            )
        wait_for(f"{name} ends", lambda: not self.is_running(name), timeout_seconds=60)

    def is_running(self, name: str) -> bool:
        """Whether the program that was started last under this name still runs."""
        record = self._read(name)
        started = int(record["start_time"])
        return started != 0 and self.machine.start_time(int(record["pid"])) == started

    def names(self) -> list[str]:
        """Every program that was started."""
        return sorted(path.stem for path in self.state.records.glob("*.json"))

    def log(self, name: str) -> Path:
        """Where a program's output goes."""
        return self.state.logs / f"{name}.log"

    def wait_until_ready(
        self, name: str, look: Callable[[], object], timeout_seconds: float = 60
    ) -> None:
        """Wait for a program to answer; if it ends instead, fail with the end of its log."""

        def observe() -> object:
            try:
                return look() or True
            except ClusterError as error:
                if not self.is_running(name):
                    return error  # stop waiting: it will not answer any more
                raise

        state = wait_for(f"{name} answers", observe, timeout_seconds=timeout_seconds)
        if isinstance(state, ClusterError):
            tail = "\n".join(self.log(name).read_text(errors="replace").splitlines()[-15:])
            raise ClusterError(f"{name} ended at its start. The end of its log:\n{tail}")

    def _record(self, name: str) -> Path:
        return self.state.records / f"{name}.json"

    def _read(self, name: str) -> dict[str, Any]:
        try:
            record: dict[str, Any] = json.loads(self._record(name).read_text())
        except FileNotFoundError:
            raise ClusterError(
                f"{name}: no such component; there are {', '.join(self.names())}"
            ) from None
        return record
