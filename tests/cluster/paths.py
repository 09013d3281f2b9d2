"""Where the harness keeps things: a cache that stays, and the state of the one running cluster."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.cluster.processes import is_alive, this_process

CHECKOUT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class Cache:
    """What is expensive to make and independent of any running cluster."""

    root: Path

    @classmethod
    def from_environment(cls) -> Cache:
        """Use CLUSTERFIT_CLUSTER_CACHE, else a folder in the user's cache."""
        chosen = os.environ.get("CLUSTERFIT_CLUSTER_CACHE")
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        root = Path(chosen) if chosen else home / "clusterfit" / "cluster"
        root.mkdir(parents=True, exist_ok=True)
        return cls(root.resolve())

    @property
    def programs(self) -> Path:
        """Built programs, each named with its version."""
        return self.root / "programs"

    @property
    def images(self) -> Path:
        """Image archives, and the layouts that buildah pushes to."""
        return self.root / "images"

    @property
    def containerd(self) -> Path:
        """Containerd's content and snapshots: imported images outlive a cluster."""
        return self.root / "containerd"

    @property
    def failed_start(self) -> Path:
        """Logs of the last cluster that did not come up."""
        return self.root / "failed-start"

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Path]:
        """A temporary folder on the cache's file system, so that a rename out of it is atomic.

        What processes left that were killed is removed at the next occasion.
        """
        for left in self.root.glob(".scratch-*"):
            pid, started = left.name.split("-")[1:3]
            if not is_alive(int(pid), int(started)):
                shutil.rmtree(left, ignore_errors=True)
        own = this_process()
        prefix = f".scratch-{own['pid']}-{own['start_time']}-"
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=self.root))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    @contextlib.contextmanager
    def lock(self, what: str) -> Iterator[None]:
        """Let one process at a time build `programs`, or `images`.

        The kernel releases the lock of a process that dies.
        """
        with locked(self.root / f".lock-{what}"):
            yield


@dataclass(frozen=True, slots=True)
class State:
    """One running cluster. There is one per computer: a second would want its addresses."""

    root: Path

    @classmethod
    def from_environment(cls) -> State:
        """Use CLUSTERFIT_CLUSTER_STATE, else a folder that all checkouts on this computer share."""
        chosen = os.environ.get("CLUSTERFIT_CLUSTER_STATE")
        return cls(Path(chosen or "/var/lib/clusterfit-cluster").absolute())

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig."""
        return self.root / "kubeconfig"

    @property
    def logs(self) -> Path:
        """One file per component."""
        return self.root / "logs"

    @property
    def pod_logs(self) -> Path:
        """The kubelet's: a folder per pod."""
        return self.root / "pod-logs"

    @property
    def records(self) -> Path:
        """One JSON file per component: what was started, its pid and its start time."""
        return self.root / "components"

    @property
    def config(self) -> Path:
        """Configuration files written for the components."""
        return self.root / "config"

    @property
    def volumes(self) -> Path:
        """The folders behind the claims."""
        return self.root / "volumes"

    def exists(self) -> bool:
        """Whether a cluster runs, or the remains of one are there."""
        return self.root.exists()

    def create(self) -> None:
        """Make the empty folders of a new cluster."""
        self.root.mkdir(parents=True, mode=0o755)
        for folder in (self.logs, self.records, self.config, self.volumes):
            folder.mkdir()

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Let one process at a time start or stop the cluster. The lock file lies beside it."""
        with locked(self.root.with_name(self.root.name + ".lock")):
            yield


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on a file, waiting for it as long as it takes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def write_whole(path: Path, text: str, mode: int = 0o644) -> None:
    """Write a file so that a reader sees all of it or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_text(text)
    beside.chmod(mode)
    beside.replace(path)
