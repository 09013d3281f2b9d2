"""How many ranks this node has, and so how many threads each may use.

numpy's OpenBLAS and OpenMP read the number of threads when they are loaded, and ranks are forks of
this process. So both are settled in the environment before anything numeric is imported.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import MutableMapping
from typing import Final, Literal

from clusterfit.worker.cores import count_cores

VARIABLE: Final = "PET_NPROC_PER_NODE"
AUTOMATIC: Final = ("auto", "gpu", "cpu")
"""What torchrun knows beside a number."""


def limit_threads(environment: MutableMapping[str, str]) -> None:
    """Give each rank its share of the cores, where the number of ranks is known."""
    # Idle threads of one pool (faiss', torch's) must not spin on cores that the other needs.
    environment.setdefault("OMP_WAIT_POLICY", "passive")
    text = environment.get(VARIABLE, "")
    if text.isdecimal() and int(text) > 0:
        environment.setdefault("OMP_NUM_THREADS", str(max(1, count_cores() // int(text))))


def settle_nproc(environment: MutableMapping[str, str], device: Literal["cuda", "cpu"]) -> None:
    """Where the number of ranks is left to us, find it and start this program again with it.

    One for each GPU; one where there is none, which then says that its GPU is not there.
    """
    if environment.get(VARIABLE, "auto") not in AUTOMATIC:
        return
    environment[VARIABLE] = str(max(1, _count_gpus()) if device == "cuda" else 1)
    sys.stdout.flush()
    # As PID 1 this process would miss it until `main` has a handler again.
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 - no shell is wanted


def _count_gpus() -> int:
    # In a process of its own: once this one had asked the driver, its forks could not use a GPU.
    ask = (sys.executable, "-P", "-c", "import torch; print(torch.cuda.device_count())")
    return int(subprocess.run(ask, stdout=subprocess.PIPE, text=True, check=True).stdout)
