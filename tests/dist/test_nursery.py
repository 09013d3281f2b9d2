"""The process that ranks are forked from is clean, deaf to signals, and gone with its entry."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from clusterfit.config.stages import STAGES

from .conftest import CONFIG

_LOOK = """
import json, os, sys
from clusterfit.worker.nursery import preload
preload(sys.argv[1:])
import torch
threads = lambda: len(os.listdir("/proc/self/task"))
is_used = torch.cuda.is_initialized()
pid = os.fork()
if pid == 0:
    print(json.dumps([is_used, torch.cuda._is_in_bad_fork(), threads()]), flush=True)
    os._exit(0)
os.waitpid(pid, 0)
print(threads())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="threads are counted in /proc")
def test_what_is_loaded_before_a_fork_leaves_no_thread_and_no_gpu_in_use() -> None:
    looked = subprocess.run(
        [sys.executable, "-c", _LOOK, *STAGES], capture_output=True, text=True, check=True
    )
    child, parent = map(json.loads, looked.stdout.splitlines())
    assert child == [False, False, 1]
    assert parent == 1, "OpenBLAS has stopped its threads for the fork, and nobody else had any"


def test_ranks_come_from_it_and_end_with_it(tmp_path: Path) -> None:
    """Checked by a program, as this process has threads of pytest's and must not be forked."""
    (tmp_path / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    program = (
        f"import sys; sys.path.append({str(Path(__file__).parents[2])!r}); "
        "from tests.dist.forked_ranks import check; check()"
    )
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True, timeout=240)
