"""Whether this machine can run the cluster, and the Debian packages that it lacks."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from tests.cluster.commands import ClusterError, CommandError, run

CNI_PLUGINS = Path("/usr/lib/cni")

# What must be there: Debian package.
PACKAGE_OF = {
    "containerd": "containerd",
    "ctr": "containerd",
    "runc": "runc",
    str(CNI_PLUGINS / "bridge"): "containernetworking-plugins",
    "iptables": "iptables",
    "ip": "iproute2",
    "openssl": "openssl",
    "buildah": "buildah",
    "debootstrap": "debootstrap",
}


class Unsuitable(ClusterError):
    """This machine cannot run the cluster: one line with the reason and with what would do."""


def check_machine() -> None:
    """Check what cannot be installed.

    Raises:
        Unsuitable: In one line, what is missing and what would do.
    """
    remedy = (
        "run as root on Linux with cgroups (a plain machine or virtual machine, or a privileged container), "
        "or set CLUSTERFIT_E2E_KUBECONFIG to use another cluster"
    )
    if not sys.platform.startswith("linux"):
        raise Unsuitable(f"the test cluster needs Linux, this is {sys.platform}: {remedy}")
    if os.geteuid() != 0:
        raise Unsuitable(f"the test cluster needs root, this is user {os.geteuid()}: {remedy}")
    if not cgroup_roots():
        raise Unsuitable(f"the test cluster needs cgroups, none are mounted: {remedy}")
    unwritable = [str(root) for root in cgroup_roots() if not os.access(root, os.W_OK)]
    if unwritable:
        raise Unsuitable(
            f"the test cluster needs writable cgroups, {unwritable[0]} is not: {remedy}"
        )
    try:
        run(["unshare", "--fork", "--pid", "--mount", "--net", "--mount-proc", "true"])
    except (CommandError, FileNotFoundError) as error:
        reason = str(error).strip().splitlines()[-1]
        raise Unsuitable(f"the test cluster needs namespaces ({reason}): {remedy}") from error


def cgroup_roots() -> list[Path]:
    """The mounted cgroup hierarchies: one on version 2, one per group of controllers on version 1."""
    roots = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        mount, _, source = line.partition(" - ")
        if source.split()[0] in ("cgroup", "cgroup2"):
            roots.append(Path(mount.split()[4]))
    return roots


def missing_packages() -> list[str]:
    """Name the Debian packages whose programs are not there."""
    return sorted(
        {package for program, package in PACKAGE_OF.items() if shutil.which(program) is None}
    )


def install_packages() -> None:
    """Install what is missing with apt-get, which is never allowed to remove anything for it.

    Raises:
        Unsuitable: There is no apt-get, or it failed.
    """
    packages = missing_packages()
    if not packages:
        return
    words = " ".join(packages)
    if shutil.which("apt-get") is None:
        raise Unsuitable(
            f"the test cluster needs {words}: install them, there is no apt-get here to do it"
        )
    print(f"installing {words}", file=sys.stderr, flush=True)
    command = ["apt-get", "install", "--yes", "--no-install-recommends", "--no-remove", *packages]
    env = {"DEBIAN_FRONTEND": "noninteractive"}
    try:
        run(command, env=env, timeout_seconds=900)
    except CommandError:  # the package lists may be absent or stale
        try:
            run(["apt-get", "update"], env=env)
            run(command, env=env, timeout_seconds=900)
        except CommandError as error:
            raise Unsuitable(
                f"the test cluster needs {words}, and apt-get failed: {error}"
            ) from error
    still = missing_packages()
    if still:
        raise Unsuitable(
            f"the test cluster needs {' '.join(still)}, and apt-get brought no program of that name"
        )
