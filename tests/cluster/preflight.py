"""Whether this machine can run the cluster, and the Debian packages that it lacks."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from tests.cluster import cgroups
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
    "containers-storage": "containers-storage",
    "debootstrap": "debootstrap",
}

REMEDY = (
    "run as root on Linux with cgroups, where a virtual machine or a privileged container will do, "
    "or set CLUSTERFIT_E2E_KUBECONFIG to use another cluster"
)


class UnsuitableError(ClusterError):
    """This machine cannot run the cluster: one line with the reason and with what would do."""


def check_machine() -> None:
    """Check what cannot be installed.

    Raises:
        UnsuitableError: In one line, what is missing and what would do.
    """
    try:
        run(["unshare", "--fork", "--pid", "--mount", "--net", "--mount-proc", "true"])
        namespaces = ""
    except CommandError as error:
        namespaces = str(error).strip().splitlines()[-1]
    unwritable = [str(root) for root in cgroups.roots() if not os.access(root, os.W_OK)]
    checks = {
        f"Linux, this is {sys.platform}": sys.platform.startswith("linux"),
        f"root, this is user {os.geteuid()}": os.geteuid() == 0,
        "cgroups, none are mounted": bool(cgroups.roots()),
        f"writable cgroups, {', '.join(unwritable)} are not": not unwritable,
        f"namespaces ({namespaces})": not namespaces,
    }
    for want, met in checks.items():
        if not met:
            raise UnsuitableError(f"the test cluster needs {want}: {REMEDY}")


def missing_packages() -> list[str]:
    """Name the Debian packages whose programs are not there."""
    return sorted(
        {package for program, package in PACKAGE_OF.items() if shutil.which(program) is None}
    )


def install_packages() -> None:
    """Install what is missing with apt-get, which is never allowed to remove anything for it.

    Raises:
        UnsuitableError: There is no apt-get, or it failed.
    """
    packages = missing_packages()
    if not packages:
        return
    words = " ".join(packages)
    if shutil.which("apt-get") is None:
        raise UnsuitableError(
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
            raise UnsuitableError(
                f"the test cluster needs {words}, and apt-get failed: {error}"
            ) from error
    still = missing_packages()
    if still:
        raise UnsuitableError(
            f"the test cluster needs {' '.join(still)}, and apt-get brought no program of that name"
        )
