"""What a fit takes for its centroids is what `plan`, the page and the model on paper say."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from clusterfit.config.forecast.centroids import DEVICE_BYTES, FAISS_BYTES, HOST_BYTES

NUM_ROWS, DIM, NUM_CLUSTERS = 4200, 2048, 4000
NUMBERS = NUM_CLUSTERS * DIM

PROGRAM = f"""
import re
from pathlib import Path
import numpy as np
from clusterfit.config.sections.clustering import Cluster
from clusterfit.worker.kmeans.{{module}} import {{engine}}
from clusterfit.worker.kmeans.rows import ArrayRows

def read(name):
    status = Path("/proc/self/status").read_text()
    return int(re.search(rf"{{{{name}}}}:\\s+(\\d+)", status)[1]) << 10

def fit(num_rows, num_clusters, num_iterations):
    rows = np.random.default_rng(0).random((num_rows, {DIM}), np.float32)
    config = Cluster(
        num_clusters=num_clusters, num_iterations=num_iterations, init="random",
        normalize=False, stop_improvement=0,
    )
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = read("VmRSS")
    initial = []  # is kept by the stage
    {{engine}}().fit(
        ArrayRows(rows), config, 0, None, lambda fit: initial or initial.append(fit.centroids)
    )
    return read("VmHWM") - before

fit(600, 20, 3)  # threads, libraries and compiled code
print(fit({NUM_ROWS}, {NUM_CLUSTERS}, 3) - fit({NUM_ROWS}, 20, 3))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from Linux's /proc")
@pytest.mark.parametrize(
    ("module", "engine", "number_bytes"),
    [
        ("torch_engine", "TorchEngine", DEVICE_BYTES + HOST_BYTES),
        pytest.param("faiss_engine", "FaissEngine", FAISS_BYTES, marks=pytest.mark.campaign),
    ],
)
def test_a_fit_takes_so_many_bytes_for_each_number_of_its_centroids(
    module: str, engine: str, number_bytes: int, request: pytest.FixtureRequest
) -> None:
    if engine == "TorchEngine":
        # Without them torch's own operations take more for rows, and the peak is elsewhere.
        request.getfixturevalue("native")
    # Freed memory goes back at once, so that a peak is of what is held together.
    environment = {"MALLOC_MMAP_THRESHOLD_": "1000000", "MALLOC_TRIM_THRESHOLD_": "0"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(module=module, engine=engine)],
        env=os.environ | environment, capture_output=True, text=True, check=True, timeout=240,
    )  # fmt: skip
    taken = int(done.stdout.splitlines()[-1]) / NUMBERS
    print(f"{engine}: {taken:.1f} bytes")
    assert taken == pytest.approx(number_bytes, rel=0.1)


def test_the_page_says_the_same() -> None:
    page = (Path(__file__).parents[4] / "docs" / "kmeans.md").read_text(encoding="utf-8")
    said = (
        f"{DEVICE_BYTES + HOST_BYTES} bytes a centroid number (on a GPU {DEVICE_BYTES} of them "
        f"there, {HOST_BYTES} in host memory)"
    )
    assert said in page
