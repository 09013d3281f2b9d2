"""Starts the ranks of a request and passes on what rank 0 says: the program of `distributed`.

The ranks run in a network namespace of their own, whose loopback interface carries their traffic
and nothing else.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import struct
import subprocess
import sys
from typing import Final

NAMESPACE: Final = ("unshare", "--net", "--")
"""Words before a command that give it a network of its own, whose loopback interface is off."""

_SET_FLAGS: Final = 0x8914
_IS_UP: Final = 1
"""SIOCSIFFLAGS and IFF_UP of netdevice(7)."""


def main() -> None:
    """Answer the request on standard input with rank 0's line of JSON."""
    request = json.load(sys.stdin)
    switch_loopback_on()
    processes = []
    for rank in range(request["world_size"]):
        own = {"RANK": str(rank), "BENCHMARK_REQUEST": json.dumps(request)}
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.wire_rank"],
            env=os.environ | own, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        processes.append(process)
    outputs = [process.communicate()[0] for process in processes]
    if any(process.returncode for process in processes):
        sys.exit(f"ranks ended with {[process.returncode for process in processes]}")
    print(outputs[0], flush=True)


def switch_loopback_on() -> None:
    """Do as `ip link set lo up`, which not every computer has."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, _SET_FLAGS, struct.pack("16sh22x", b"lo", _IS_UP))


if __name__ == "__main__":
    main()
