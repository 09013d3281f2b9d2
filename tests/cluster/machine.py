"""The machine: one process tree with pids, mounts and a network of its own.

Its process 1 is `clusterfit-init`, named with the state folder on its command line. When that process dies the kernel
kills every other process in the machine, and with the last of them go all mounts, network namespaces, interfaces and
iptables rules that the cluster made. Outside remain the cgroups and the state folder, which `destroy` removes.

The machine has no route out: neither it nor a pod can reach anything but the cluster and this computer's end of
one pair of interfaces. Its addresses are from 198.18.0.0/15, which RFC 2544 sets aside for test networks.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import shutil
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.cluster.commands import ClusterError, CommandError, run, wait_for
from tests.cluster.paths import State
from tests.cluster.preflight import cgroup_roots

HOST_INTERFACE = "clusterfit0"
NODE_INTERFACE = "node0"
HOST_ADDRESS = "198.18.0.1"
NODE_ADDRESS = "198.18.0.2"
LINK_BITS = 30
POD_RANGE = "198.18.64.0/18"
POD_GATEWAY = "198.18.64.1"
SERVICE_RANGE = "198.19.0.0/16"

# All pods live below this cgroup; the kubelet is told so.
CGROUP = "clusterfit"

# The kubelet wants these kernel settings and would change them for the whole computer. It leaves alone what it finds
# right, so that in the machine it is shown files of ours instead.
KERNEL_SETTINGS = {
    "vm/overcommit_memory": "1",
    "vm/panic_on_oom": "0",
    "kernel/panic": "10",
    "kernel/panic_on_oops": "1",
    "kernel/keys/root_maxkeys": "1000000",
    "kernel/keys/root_maxbytes": "25000000",
}


class Machine:
    """The namespaces of one cluster, found again by whoever has its state folder."""

    def __init__(self, state: State) -> None:
        """Refer to the machine of a state folder, whether it runs or not."""
        self.state = state

    @property
    def _record(self) -> Path:
        return self.state.root / "machine.json"

    def create(self, init: Path) -> None:
        """Start process 1 and give the machine its mounts and its network.

        Args:
            init: The clusterfit-init program. It is copied, so that its path says whose machine it is.
        """
        check_addresses_free()
        own_init = self.state.root / "clusterfit-init"
        shutil.copy2(init, own_init)
        unshare = [
            "unshare",
            "--fork",
            "--pid",
            "--mount-proc",
            "--mount",
            "--net",
            "--propagation",
            "private",
        ]
        launcher = spawn([*unshare, str(own_init)], self.state.logs / "machine.log")
        pid = wait_for(
            "process 1 of the machine",
            lambda: only_child(launcher),
            lambda child: command_line(child)[:1] == [os.fsencode(own_init)],
            timeout_seconds=30,
        )
        self._record.write_text(json.dumps({"pid": pid, "start_time": start_time(pid)}))
        self._mount()
        self._connect(pid)
        for root in cgroup_roots():
            (root / CGROUP).mkdir(exist_ok=True)

    def _mount(self) -> None:
        own = self.state.root
        self.run(
            ["mount", "--make-rshared", "/"]
        )  # a pod's volume mounts must reach the kubelet's other mounts
        self.run(["mount", "--types", "tmpfs", "tmpfs", "/run"])
        self.run(["mkdir", "--parents", "/run/lock", "/var/lib/cni"])
        for name, target in (("var-log", "/var/log"), ("var-lib-cni", "/var/lib/cni")):
            (own / name).mkdir()
            self.run(["mount", "--bind", own / name, target])
        for name, value in KERNEL_SETTINGS.items():
            shown = self.state.config / "kernel" / name
            shown.parent.mkdir(parents=True, exist_ok=True)
            shown.write_text(value + "\n")
            self.run(["mount", "--bind", shown, f"/proc/sys/{name}"])

    def _connect(self, pid: int) -> None:
        pair = [
            "link",
            "add",
            HOST_INTERFACE,
            "type",
            "veth",
            "peer",
            "name",
            NODE_INTERFACE,
            "netns",
            str(pid),
        ]
        run(["ip", *pair])
        run(["ip", "address", "add", f"{HOST_ADDRESS}/{LINK_BITS}", "dev", HOST_INTERFACE])
        run(["ip", "link", "set", HOST_INTERFACE, "up"])
        self.run(["ip", "link", "set", "lo", "up"])
        self.run(["ip", "address", "add", f"{NODE_ADDRESS}/{LINK_BITS}", "dev", NODE_INTERFACE])
        self.run(["ip", "link", "set", NODE_INTERFACE, "up"])
        # Service addresses are rewritten on their way out, but a packet needs a route before it gets that far.
        self.run(["ip", "route", "add", SERVICE_RANGE, "dev", NODE_INTERFACE])
        self.run(["sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward"])

    def pid(self) -> int:
        """Process 1 of the running machine, by its number outside of it.

        Raises:
            ClusterError: It does not run.
        """
        try:
            record = json.loads(self._record.read_text())
        except FileNotFoundError as error:
            raise ClusterError(f"no cluster is running (state folder {self.state.root})") from error
        pid = int(record["pid"])
        if not is_alive(pid, int(record["start_time"])):
            raise ClusterError(f"the cluster in {self.state.root} has died; start it again")
        return pid

    def start_time(self, pid: int) -> int:
        """When the process of that number inside the machine started; 0 if there is none."""
        return start_time(pid, Path(f"/proc/{self.pid()}/root/proc"))

    def enter(self, command: Sequence[str | Path]) -> list[str]:
        """Turn a command into one that runs inside."""
        return [
            "nsenter",
            f"--target={self.pid()}",
            "--pid",
            "--mount",
            "--net",
            "--",
            *map(str, command),
        ]

    def run(self, command: Sequence[str | Path], timeout_seconds: float = 120) -> str:
        """Run a command inside to its end and return what it prints."""
        return run(self.enter(command), timeout_seconds=timeout_seconds)

    def destroy(self) -> None:
        """Remove the machine and every trace of it outside, whatever state it is in."""
        for pid in self._inits():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        wait_for(
            "the machine's processes end", self._inits, lambda pids: not pids, timeout_seconds=60
        )
        remove_interface()
        remove_cgroups()
        check_nothing_mounted_below(self.state.root)
        if self.state.exists():
            shutil.rmtree(self.state.root)

    def _inits(self) -> list[int]:
        """Every process that runs this state folder's copy of init, recorded or not.

        A harness that was killed between starting it and writing its record leaves only the process itself.
        """
        own = os.fsencode(self.state.root / "clusterfit-init")
        return [pid for pid in pids() if command_line(pid)[:1] == [own]]


def spawn(command: Sequence[str | Path], log: Path) -> int:
    """Start a process that outlives this one, in a session of its own, and return its pid."""
    argv = [str(part) for part in command]
    program = shutil.which(argv[0])
    if program is None:
        raise ClusterError(f"{argv[0]}: not found")
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    return os.posix_spawn(
        program,
        argv,
        os.environ,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(log), flags, 0o644),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setsid=True,
    )


def only_child(pid: int) -> int:
    """The child of a process that has one, 0 while it has none."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except FileNotFoundError:
        raise ClusterError(f"process {pid} ended before it had started another") from None
    return int(children[0]) if children else 0


def start_time(pid: int, proc: Path = Path("/proc")) -> int:
    """When a process started, in clock ticks since boot: with its pid, this names it for ever. 0 if it is gone."""
    try:
        after_name = (proc / f"{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return 0 if after_name[0] in "ZX" else int(after_name[19])


def is_alive(pid: int, started: int) -> bool:
    """Whether the process of that pid is still the one that started then."""
    return started != 0 and start_time(pid) == started


def pids() -> Iterator[int]:
    """Every process on this computer."""
    return (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())


def command_line(pid: int) -> list[bytes]:
    """A process' arguments; none for a kernel thread, a zombie, or a process that is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[:-1]
    except (FileNotFoundError, ProcessLookupError):
        return []


def check_addresses_free() -> None:
    """Refuse to start where another network uses our addresses."""
    ours = [ipaddress.ip_network(POD_RANGE), ipaddress.ip_network(SERVICE_RANGE)]
    ours.append(ipaddress.ip_network(f"{HOST_ADDRESS}/{LINK_BITS}", strict=False))
    for route in json.loads(run(["ip", "-json", "-4", "route", "show", "table", "all"])):
        if route["dst"] == "default" or route.get("dev") == HOST_INTERFACE:
            continue
        network = ipaddress.ip_network(route["dst"], strict=False)
        if any(network.overlaps(own) for own in ours) and network.prefixlen > 0:
            raise ClusterError(
                f"the test cluster's addresses overlap the route to {network} on this computer"
            )


def remove_interface() -> None:
    """Remove this computer's end of the pair. The kernel may be at it already, in its own time."""
    if Path(f"/sys/class/net/{HOST_INTERFACE}").exists():
        with contextlib.suppress(CommandError):
            run(["ip", "link", "delete", HOST_INTERFACE])
    interface = Path(f"/sys/class/net/{HOST_INTERFACE}")
    wait_for(f"{HOST_INTERFACE} goes", lambda: not interface.exists(), timeout_seconds=30)


def remove_cgroups() -> None:
    """Remove our cgroups, deepest first; one that still holds a dying process is tried again."""
    deadline = time.monotonic() + 30
    for root in cgroup_roots():
        own = root / CGROUP
        while own.exists():
            folders = sorted((path for path in own.rglob("*") if path.is_dir()), reverse=True)
            for folder in (*folders, own):
                with contextlib.suppress(OSError):
                    folder.rmdir()
            if own.exists():
                if time.monotonic() > deadline:
                    raise ClusterError(f"{own} still holds processes")
                time.sleep(0.1)


def check_nothing_mounted_below(folder: Path) -> None:
    """Make sure that deleting a folder deletes nothing that is only mounted there."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        target = line.split()[4]
        if target.startswith(f"{folder}/"):
            raise ClusterError(f"{target} is mounted: unmount it, then stop the cluster again")
