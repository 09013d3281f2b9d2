"""Starts the ranks of a request and passes on what rank 0 says: the program of `distributed`.

The ranks run in a network namespace of their own, whose loopback interface carries their traffic
and nothing else.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Final

NAMESPACE: Final = ("unshare", "--net", "--", "sh", "-c", 'ip link set lo up; exec "$@"', "sh")
"""Words before a command that give it a network of its own, with a loopback interface."""


def main() -> None:
    """Answer the request on standard input with rank 0's line of JSON."""
    request = json.load(sys.stdin)
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


if __name__ == "__main__":
    main()
