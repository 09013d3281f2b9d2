"""The machine: one process tree with pids, mounts and a network of its own.

Its process 1 is a copy of `clusterfit-init` in the state folder. When that process dies the kernel
kills every other process in the machine, and with the last of them go all mounts, network
namespaces, interfaces and iptables rules that the cluster made. Outside remain cgroups and the
state folder, which `destroy` removes.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
from collections.abc import Sequence
from pathlib import Path

from tests.cluster import cgroups, network, processes
from tests.cluster.commands import ClusterError, run, wait_for
from tests.cluster.paths import State

# The kubelet wants these kernel settings and would change them for the whole computer. It leaves
# alone what it finds right, so in the machine it is shown files of ours in their place.
KERNEL_SETTINGS = {
    "vm/overcommit_memory": "1",
    "vm/panic_on_oom": "0",
    "kernel/panic": "10",
    "kernel/panic_on_oops": "1",
    "kernel/keys/root_maxkeys": "1000000",
    "kernel/keys/root_maxbytes": "25000000",
}

# Where the pod network's plugins keep their records, and the kubelet its device plugins' sockets;
# neither will be told otherwise. In the machine folders of ours are mounted there, but the places
# to mount them on must be there on this computer.
FIXED_FOLDERS = (Path("/var/lib/cni"), Path("/var/lib/kubelet"))


class Machine:
    """The namespaces of one cluster, found again by whoever has its state folder."""

    def __init__(self, state: State) -> None:
        """Refer to the machine of a state folder, whether it runs or not."""
        self.state = state
        self._init = state.root / "clusterfit-init"
        self._record = state.root / "machine.json"
        self._made = state.root / "made"

    def create(self, init: Path) -> None:
        """Start process 1, and give the machine its mounts, its network and its cgroups.

        Args:
            init: The clusterfit-init program. It is copied, so that its path says whose it is.
        """
        network.check_addresses_free()
        shutil.copy2(init, self._init)
        namespaces = ["--pid", "--mount-proc", "--mount", "--propagation=private", "--net"]
        log = self.state.logs / "machine.log"
        launcher = processes.spawn(["unshare", "--fork", *namespaces, self._init], log)
        pid = wait_for(
            "process 1 of the machine",
            lambda: processes.only_child(launcher),
            lambda child: processes.command_line(child) == [os.fsencode(self._init)],
            timeout_seconds=30,
        )
        self._record.write_text(json.dumps(processes.name_process(pid)))
        self._mount()
        network.connect(pid, self.run)
        cgroups.create()

    def _mount(self) -> None:
        own = self.state.root
        self.run(["mount", "--make-rshared", "/"])  # containers' mounts must reach the kubelet
        self.run(["mount", "--types", "tmpfs", "tmpfs", "/run"])
        self.run(["mkdir", "/run/lock"])
        self._made.mkdir()
        for folder in FIXED_FOLDERS:
            if not folder.exists():
                (self._made / folder.name).touch()
                folder.mkdir()
        for target in (Path("/var/log"), *FIXED_FOLDERS):
            shown = own / "-".join(target.parts[1:])
            shown.mkdir()
            self.run(["mount", "--bind", shown, target])
        for name, value in KERNEL_SETTINGS.items():
            shown, setting = self.state.config / "kernel" / name, Path("/proc/sys") / name
            shown.parent.mkdir(parents=True, exist_ok=True)
            shown.write_text(value + "\n")
            if setting.exists():
                self.run(["mount", "--bind", shown, setting])

    def pid(self) -> int:
        """Process 1 of the running machine, by its number outside of it.

        Raises:
            ClusterError: It does not run.
        """
        try:
            pid, started = self._recorded()
        except FileNotFoundError as error:
            raise ClusterError(f"no cluster is running in {self.state.root}") from error
        if not processes.is_alive(pid, started):
            raise ClusterError(f"the cluster in {self.state.root} has died; start it again")
        return pid

    def start_time(self, pid: int) -> int:
        """When the process of that number inside the machine started; 0 if it has ended."""
        return processes.start_time(pid, Path(f"/proc/{self.pid()}/root/proc"))

    def enter(self, command: Sequence[str | Path]) -> list[str]:
        """Turn a command into one that runs inside."""
        namespaces = ["--pid", "--mount", "--net"]
        return ["nsenter", f"--target={self.pid()}", *namespaces, "--", *map(str, command)]

    def run(self, command: Sequence[str | Path], timeout_seconds: float = 120) -> str:
        """Run a command inside to its end and return what it prints."""
        return run(self.enter(command), timeout_seconds=timeout_seconds)

    def destroy(self) -> None:
        """Remove the machine and every trace of it outside, whatever state it is in."""
        ending: set[tuple[int, int]] = set()
        with contextlib.suppress(FileNotFoundError, ValueError):
            ending.add(self._recorded())  # which has lost its command line if it is ending already

        def end() -> list[int]:
            for pid in self._launchers_and_inits():
                ending.add((pid, processes.start_time(pid)))
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            return [pid for pid, started in ending if processes.is_alive(pid, started)]

        wait_for("the machine ends", end, lambda alive: not alive, timeout_seconds=60)
        network.disconnect()
        cgroups.remove()
        if self.state.exists():
            check_nothing_mounted_below(self.state.root)
            for folder in FIXED_FOLDERS:
                if (self._made / folder.name).exists():
                    with contextlib.suppress(FileNotFoundError):
                        folder.rmdir()
            shutil.rmtree(self.state.root)

    def _recorded(self) -> tuple[int, int]:
        """Process 1 by its number and the time of its start, whether it still runs or not."""
        record = json.loads(self._record.read_text())
        return int(record["pid"]), int(record["start_time"])

    def _launchers_and_inits(self) -> list[int]:
        """Every process that belongs to the machine, but those inside that end with its process 1.

        Recorded or not: a harness that was killed before it recorded one leaves only the process.
        The launcher holds the machine's network from outside, and may be about to start process 1.
        """
        own = [os.fsencode(self._init)]
        return [pid for pid in processes.pids() if processes.command_line(pid)[-1:] == own]


def check_nothing_mounted_below(folder: Path) -> None:
    """Make sure that deleting a folder deletes nothing that is only mounted there."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        target = line.split()[4]
        if target.startswith(f"{folder}/"):
            raise ClusterError(f"{target} is mounted: unmount it, then stop the cluster again")
