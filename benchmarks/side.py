"""The process that is measured: reads a request, runs its attempts one after another, tells times.

The request names a program of `benchmarks.programs`, a folder of features, starting centroids, and
attempts: a label and options each. Loading comes before the clock starts. The first attempt is also
the first use of everything in the process, compilers included; the harness repeats it where that is
to be told apart.
"""

from __future__ import annotations

import gc
import json
import re
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import programs
from benchmarks.load import ForeignLoad


def main() -> None:
    """Answer the request on standard input with one line of JSON."""
    request: dict[str, Any] = json.load(sys.stdin)
    program = programs.load(request["program"])
    inputs = programs.Inputs(
        folder=Path(request["features"]),
        centroids=np.load(request["centroids"]),
        seed=request["seed"],
        num_threads=request["num_threads"],
    )
    if program.needs_rows:
        _ = inputs.rows
    attempts = []
    for number, attempt in enumerate(request["attempts"]):
        gc.collect()
        load = ForeignLoad()
        start = time.perf_counter()
        outcome = program.run(inputs, attempt["options"])
        seconds = time.perf_counter() - start
        foreign = load.measure(seconds)
        path = Path(request["outcomes"]) / f"{number}.npy"
        if outcome.result is not None:
            np.save(path, outcome.result)
        attempts.append(
            {
                "label": attempt["label"],
                "seconds": seconds,
                "foreign_cores": round(foreign, 2),
                "outcome": str(path) if outcome.result is not None else "",
                **outcome.said,
            }
        )
        del outcome
    print(json.dumps({"attempts": attempts, "peak_bytes": _read_peak_bytes()}), flush=True)


def _read_peak_bytes() -> int:
    """Return this process's largest resident set.

    getrusage's ru_maxrss is not that: it outlives exec, so a child's begins at its parent's.
    """
    [kib] = re.findall(r"^VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    return int(kib) * 1024


if __name__ == "__main__":
    main()
