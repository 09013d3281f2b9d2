"""Proofs that the test cluster leaves nothing behind, however it ends.

These tests start clusters of their own, through the command line, and compare this computer before
and after: processes, mounts, interfaces, routes, iptables, namespaces, cgroups, kernel settings.
"""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cluster import cgroups, lifecycle, preflight, processes, programs
from tests.cluster.commands import ClusterError, CommandError, run, wait_for
from tests.cluster.images import BASE_IMAGE
from tests.cluster.machine import KERNEL_SETTINGS
from tests.cluster.manifests import claim, is_ready
from tests.cluster.namespace import STORAGE_CLAIM, Namespace
from tests.cluster.paths import CHECKOUT, Cache, State
from tests.cluster.preflight import UnsuitableError
from tests.unsuitable import give_up

CACHE = Cache.from_environment()
STATE = State.from_environment()
CLI = [sys.executable, "-m", "tests.cluster"]
# Theirs, so that it is removed where these tests are killed.
UP = ["up", f"--owner={os.getpid()}"]
# Programs that run only as part of the cluster, by the names of their files.
OURS = (b"kube", b"etcd", b"containerd", b"runc", b"coredns", b"nsenter", b"unshare", b"kwok")
# Where the programs would leave files, were it not for the machine's own mounts.
PLACES = ("/run/containerd", "/run/netns", "/var/lib/kubelet", "/var/log/pods", "/var/lib/cni")


def look() -> dict[str, object]:
    """Describe everything on this computer that a cluster could have left behind."""
    namespaces = set()
    for pid in filter(processes.start_time, processes.pids()):  # a zombie still shows its pid's
        for kind in ("net", "pid"):  # others on this computer may well make mount namespaces
            with contextlib.suppress(OSError):  # the process has ended meanwhile
                namespaces.add(str(Path(f"/proc/{pid}/ns/{kind}").readlink()))
    settings = [*KERNEL_SETTINGS, "net/ipv4/ip_forward", "net/netfilter/nf_conntrack_max"]
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    rules = run(["iptables-save"]).splitlines()
    return {
        "processes": [line for line in map(processes.command_line, processes.pids()) if ours(line)],
        "namespaces": namespaces,
        "mounts": [line.split()[4] for line in mounts],
        "interfaces": sorted(path.name for path in Path("/sys/class/net").iterdir()),
        "routes": run(["ip", "route", "show", "table", "all"]),
        "iptables": [line for line in rules if line[:1] in "*-"],
        "cgroups": [root for root in cgroups.roots() if (root / cgroups.NAME).exists()],
        "settings": [read(Path("/proc/sys") / name) for name in settings],
        "places": [place for place in (*PLACES, STATE.root) if Path(place).exists()],
    }


def ours(command_line: list[bytes]) -> bool:
    """Whether a process is one of the cluster's."""
    program = command_line[0].rpartition(b"/")[2] if command_line else b""
    return program.startswith(OURS) or os.fsencode(STATE.root) in b" ".join(command_line)


def read(path: Path) -> str:
    """Read a kernel setting, which this kernel may not have."""
    return path.read_text() if path.exists() else "absent"


@pytest.fixture
def before() -> Iterator[dict[str, object]]:
    """This computer without a cluster."""
    if os.environ.get("CLUSTERFIT_E2E_KUBECONFIG"):
        pytest.skip("tests our own cluster, not another one")
    try:
        lifecycle.prepare(CACHE)
    except UnsuitableError as reason:
        give_up(reason)
    if lifecycle.is_kept(STATE):
        pytest.skip("a cluster is kept running here; stop it first (make cluster-down)")
    lifecycle.check_unused(STATE, processes.this_process())
    lifecycle.down(STATE)
    yield look()
    lifecycle.down(STATE)


def cli(*args: str) -> str:
    """Run the harness to its end."""
    return run([*CLI, *args], cwd=CHECKOUT, timeout_seconds=300)


def begin(until: str) -> subprocess.Popen[bytes]:
    """Begin to start a cluster, and return when it has come as far as a component."""
    process = subprocess.Popen([*CLI, *UP], cwd=CHECKOUT, stderr=subprocess.DEVNULL)
    record = STATE.records / f"{until}.json"
    wait_for(f"{until} was started", lambda: record.exists() or process.poll() is not None)
    assert process.poll() is None, "the start ended early"
    return process


def run_a_pod() -> None:
    """Give the cluster interfaces, mounts, rules and processes that only pods bring."""
    namespace = Namespace("default", lifecycle.attach(CACHE, STATE).kubectl, BASE_IMAGE)
    namespace.kubectl.create(claim(STORAGE_CLAIM))
    pod = namespace.pod("pod", ["sleep", "infinity"], claims={"/claim": STORAGE_CLAIM})
    namespace.kubectl.create(pod)
    namespace.wait_for_pod("pod", is_ready)


def test_stop_leaves_nothing(before: dict[str, object]) -> None:
    cli(*UP)
    run_a_pod()
    during = look()
    assert during["settings"] == before["settings"]
    assert during["iptables"] == before["iptables"]
    assert during["mounts"] == before["mounts"]
    assert during["processes"] != before["processes"]
    cli("down")
    assert look() == before
    cli("down")  # nothing to stop is no error


def test_stop_ends_what_holds_the_network_from_outside(before: dict[str, object]) -> None:
    cli(*UP)
    init = os.fsencode(STATE.root / "clusterfit-init")
    commands = {pid: processes.command_line(pid) for pid in processes.pids()}
    (launcher,) = (pid for pid, words in commands.items() if len(words) > 1 and words[-1] == init)
    os.kill(launcher, signal.SIGSTOP)  # it has not come to end yet
    cli("down")
    assert look() == before


def find_guards() -> list[int]:
    """Return the processes that watch over who started a cluster."""
    return [pid for pid in processes.pids() if b"guard" in processes.command_line(pid)]


def wait_until_as(before: dict[str, object]) -> None:
    """Wait until somebody has removed everything."""
    wait_for("nothing is left", look, lambda now: now == before, timeout_seconds=90)


@pytest.mark.parametrize("component", ["etcd", "kube-apiserver", "kubelet"])
def test_killed_start_is_cleaned_up_at_once(before: dict[str, object], component: str) -> None:
    process = begin(until=component)
    process.kill()
    process.wait()
    wait_until_as(before)


def test_what_is_killed_with_its_guard_is_cleaned_up_by_the_next_start(
    before: dict[str, object],
) -> None:
    process = begin(until="kubelet")
    (guard,) = find_guards()
    os.kill(guard, signal.SIGKILL)
    process.kill()
    process.wait()
    assert look() != before
    cli(*UP)
    run_a_pod()
    cli("down")
    assert look() == before


@pytest.mark.parametrize("reason", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_start_cleans_up_itself(
    before: dict[str, object], reason: signal.Signals
) -> None:
    process = begin(until="kube-apiserver")
    process.send_signal(reason)
    assert process.wait(60) == 130
    assert look() == before


def test_stop_works_with_dead_components(before: dict[str, object]) -> None:
    cli(*UP)
    run_a_pod()
    for component in ("containerd", "kubelet", "kube-apiserver"):
        cli("kill", component)
    with pytest.raises(CommandError, match="died"):
        cli("env")
    cli("down")
    assert look() == before


def test_dead_machine_is_replaced(before: dict[str, object]) -> None:
    cli(*UP)
    os.kill(lifecycle.attach(CACHE, STATE).components.machine.pid(), signal.SIGKILL)
    with pytest.raises(CommandError, match="died"):
        cli("env")
    cli(*UP)
    assert f"export KUBECONFIG={STATE.kubeconfig}" in cli("env")
    cli("down")
    assert look() == before


def test_cluster_of_a_killed_process_goes(before: dict[str, object]) -> None:
    with subprocess.Popen(["sleep", "infinity"]) as owner:
        cli("up", f"--owner={owner.pid}")
        assert not lifecycle.is_kept(STATE)
        with pytest.raises(CommandError, match=f"process {owner.pid} is using"):
            cli(*UP)
        run_a_pod()
        owner.kill()
        wait_until_as(before)


def test_cluster_that_stays_outlives_who_started_it(before: dict[str, object]) -> None:
    assert f"export KUBECONFIG={STATE.kubeconfig}" in cli("up").splitlines()
    wait_for("it has no guard", lambda: not find_guards())
    assert lifecycle.is_kept(STATE)
    cli("down")
    assert look() == before


def test_broken_component_fails_the_start_with_its_own_words(
    before: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.cluster.controlplane.SERVICE_RANGE", "nonsense")
    with pytest.raises(ClusterError, match=r"kube-apiserver ended(?s:.*)not a valid cidr"):
        lifecycle.up(CACHE, STATE, owner=processes.this_process())
    assert (CACHE.failed_start / "kube-apiserver.log").exists()
    assert look() == before


def test_command_ends_with_a_harness_that_is_killed(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    shell = f"echo $$ >{pid_file}.new; mv {pid_file}.new {pid_file}; exec sleep 600"
    program = f"from tests.cluster.commands import run; run(['sh', '-c', {shell!r}])"
    harness = subprocess.Popen([sys.executable, "-c", program], cwd=CHECKOUT)
    wait_for("the command runs", pid_file.exists)
    pid = int(pid_file.read_text())
    harness.kill()
    harness.wait()
    wait_for("the command ends", lambda: processes.start_time(pid) == 0, timeout_seconds=30)


def test_computer_without_go_is_told_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "nice").symlink_to(str(shutil.which("nice")))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UnsuitableError, match="built with Go, which is missing: install it"):
        programs.go("version")


def test_process_runs_as_long_as_any_of_its_threads() -> None:
    # Its first thread ends by the system call exit, which 60 is on x86 and 93 on Arm.
    number = {"x86_64": 60, "aarch64": 93}[platform.machine()]
    program = f"""if True:
        import ctypes, sys, threading
        threading.Thread(target=sys.stdin.read).start()
        ctypes.CDLL(None).syscall({number}, 0)
    """
    process = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE)
    stat = Path(f"/proc/{process.pid}/stat")
    wait_for("its first thread ends", lambda: ") Z " in stat.read_text())
    assert processes.start_time(process.pid) != 0
    process.communicate()
    assert processes.start_time(process.pid) == 0


@pytest.mark.parametrize(
    ("target", "instead", "lack"),
    [
        ("os.geteuid", lambda: 1000, "root, this is user 1000"),
        ("tests.cluster.cgroups.roots", list, "cgroups, none are mounted"),
    ],
)
def test_computer_that_lacks_something_is_told_what_would_do(
    monkeypatch: pytest.MonkeyPatch, target: str, instead: Callable[[], object], lack: str
) -> None:
    monkeypatch.setattr(target, instead)
    with pytest.raises(UnsuitableError) as error:
        preflight.check_machine()
    assert str(error.value).startswith(f"the test cluster needs {lack}: run as root on Linux with")
    assert "CLUSTERFIT_E2E_KUBECONFIG" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("ci", "code", "outcome"), [("true", 1, "1 error"), ("", 0, "1 skipped")])
def test_what_is_skipped_on_an_unsuitable_computer_fails_in_ci(
    tmp_path: Path, ci: str, code: int, outcome: str
) -> None:
    test = "tests/e2e/test_cluster.py::test_node_is_ready_and_offers_gpus"
    elsewhere = {"CI": ci, "PATH": str(tmp_path), "CLUSTERFIT_E2E_KUBECONFIG": ""}  # no unshare
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-rs", test],
        cwd=CHECKOUT,
        env={**os.environ, **elsewhere},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stdout
    assert outcome in done.stdout
    assert "the test cluster needs namespaces (" in done.stdout
    assert "Traceback" not in done.stdout
