"""The cluster's addresses, and the one pair of interfaces that joins it to this computer.

The addresses are from 198.18.0.0/15, which RFC 2544 sets aside for test networks. The machine has
no route out of it: neither the node nor a pod reaches anything but the cluster and this computer's
end of the pair.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.cluster.commands import ClusterError, CommandError, run, wait_for

HOST_INTERFACE = "clusterfit0"
NODE_INTERFACE = "node0"
HOST_ADDRESS = "198.18.0.1"
NODE_ADDRESS = "198.18.0.2"
LINK = "198.18.0.0/30"
POD_RANGE = "198.18.64.0/18"
POD_GATEWAY = "198.18.64.1"
SERVICE_RANGE = "198.19.0.0/16"


def check_addresses_free() -> None:
    """Refuse to start where this computer has another use for our addresses."""
    ours = [ipaddress.ip_network(text) for text in (LINK, POD_RANGE, SERVICE_RANGE)]
    for route in json.loads(run(["ip", "-json", "-4", "route", "show", "table", "all"])):
        if route["dst"] == "default" or route.get("dev") == HOST_INTERFACE:
            continue
        network = ipaddress.ip_network(route["dst"], strict=False)
        if any(network.overlaps(own) for own in ours):
            raise ClusterError(f"the cluster's addresses overlap the route to {network} here")


def connect(pid: int, run_inside: Callable[[Sequence[str | Path]], str]) -> None:
    """Join a machine to this computer.

    Args:
        pid: A process in the machine's network namespace.
        run_inside: Runs a command in it.
    """
    bits = LINK.partition("/")[2]
    peer = ["peer", "name", NODE_INTERFACE, "netns", str(pid)]
    run(["ip", "link", "add", HOST_INTERFACE, "type", "veth", *peer])
    run(["ip", "address", "add", f"{HOST_ADDRESS}/{bits}", "dev", HOST_INTERFACE])
    run(["ip", "link", "set", HOST_INTERFACE, "up"])
    run_inside(["ip", "link", "set", "lo", "up"])
    run_inside(["ip", "address", "add", f"{NODE_ADDRESS}/{bits}", "dev", NODE_INTERFACE])
    run_inside(["ip", "link", "set", NODE_INTERFACE, "up"])
    # A service's address is rewritten on the way out, but a packet needs a route to get that far.
    run_inside(["ip", "route", "add", SERVICE_RANGE, "dev", NODE_INTERFACE])
    run_inside(["sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward"])


def disconnect() -> None:
    """Remove this computer's end. The kernel may be at it already, in its own time."""
    interface = Path("/sys/class/net") / HOST_INTERFACE
    if interface.exists():
        with contextlib.suppress(CommandError):
            run(["ip", "link", "delete", HOST_INTERFACE])
    wait_for(f"{HOST_INTERFACE} goes", lambda: not interface.exists(), timeout_seconds=30)
