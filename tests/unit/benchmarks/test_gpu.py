"""The case that needs a GPU, at toy size on the CPU: what each side computes, and its tables."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import gpu, gpu_sides
from benchmarks.cases import Case
from benchmarks.data import draw_initial_centroids, read_features
from benchmarks.gpu_tables import build_gpu
from benchmarks.judge import Verdict, judge
from benchmarks.measure import Results
from tests.unit.benchmarks.conftest import TOY

pytestmark = pytest.mark.filterwarnings("ignore")  # of the peers' own making

K = 20
CPU = torch.device("cpu")
TOY_CASE = Case("gpu", "fit", TOY, K, ())


@pytest.fixture
def inputs(toy_features: Path) -> gpu_sides.GpuInputs:
    rows = torch.from_numpy(read_features(toy_features))
    start = torch.from_numpy(draw_initial_centroids(toy_features, K, 0))
    return gpu_sides.GpuInputs(rows, start, CPU)


@pytest.fixture
def verdict(inputs: gpu_sides.GpuInputs) -> Verdict:
    return judge([inputs.host_rows.numpy()], inputs.host_centroids.numpy())


def test_without_a_gpu_the_case_says_why_it_is_skipped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if not torch.cuda.is_available():
        gpu.measure_gpu(1, tmp_path)
        assert capsys.readouterr().out == "gpu: skipped: needs a GPU: torch sees none\n"
        assert not list(tmp_path.iterdir())


def test_every_assignment_is_the_nearest_or_nearly(
    inputs: gpu_sides.GpuInputs, verdict: Verdict
) -> None:
    sides = [side for side in gpu_sides.list_sides(inputs) if side.task == "assign"]
    assert {side.name for side in sides} >= {"bf16 GEMM", "chunked cuBLAS", "clusterfit"}
    for side in sides:
        for work in side.attempts.values():
            found = work()
            if found is not None:
                assert (found.numpy() == verdict.assignments).mean() > 0.95, side.name


def test_every_iteration_ends_at_the_means(inputs: gpu_sides.GpuInputs, verdict: Verdict) -> None:
    rows = inputs.host_rows.numpy()
    means = np.stack([rows[verdict.assignments == k].mean(0, dtype=np.float64) for k in range(K)])
    sides = {side.name: side for side in gpu_sides.list_sides(inputs) if side.task == "iterate"}
    for name in ("chunked cuBLAS", "faiss' dataflow, emulated"):
        found = sides[name].attempts["one pass"]()
        assert found is not None
        np.testing.assert_allclose(found.numpy(), means, atol=1e-5, err_msg=name)
    ours = sides["clusterfit"].attempts["one pass"]()
    assert ours is not None
    frame_mean = inputs.host_centroids - inputs.our_rows[1]
    # Rounded products: a few rows go to a neighbour.
    assert np.abs((ours + frame_mean).numpy() - means).mean() < 0.1 * np.abs(means).mean()


def test_objectives_are_those_of_the_judge(inputs: gpu_sides.GpuInputs, verdict: Verdict) -> None:
    found = gpu.compute_objective(inputs.host_rows, inputs.host_centroids)
    assert found == pytest.approx(verdict.objective, rel=1e-9)


def test_the_case_is_measured_goes_on_and_fills_its_tables(
    toy_folders: Path, inputs: gpu_sides.GpuInputs, verdict: Verdict
) -> None:
    gpu.measure_on(CPU, TOY_CASE, 2, toy_folders)
    content = json.loads(Results("gpu", toy_folders).path.read_text())
    sides = gpu_sides.list_sides(inputs)
    assert len(content["records"]) == 2 * len(sides)
    fits = [record for record in content["records"] if record["task"] == "fit"]
    for record in fits:
        for attempt in record["attempts"]:
            assert attempt["seconds"] > 0
            assert attempt["objective"] < 0.95 * verdict.objective, record
    gpu.measure_on(CPU, TOY_CASE, 2, toy_folders)
    assert json.loads(Results("gpu", toy_folders).path.read_text()) == content, "nothing twice"
    page = build_gpu(content)
    lines = [line for line in page.splitlines() if line.startswith("| ")]
    assert len(lines) == len(sides) + 2 * 3  # heads and rules
    assert "not reached" not in next(line for line in lines[::-1] if "chunked cuBLAS" in line)


def test_the_tables_answer_what_is_wanted() -> None:
    def record(task: str, side: str, *attempts: tuple[float, float]) -> dict[str, object]:
        timed = [
            {"label": "x", "seconds": seconds, "objective": objective, "peak_bytes": 3 << 30}
            for seconds, objective in attempts
        ]
        return {"task": task, "side": side, "round": 0, "attempts": timed}

    content = {
        "shape": [10**6, 1000, 1000],
        "machine": {"gpu": "one"},
        "records": [
            record("assign", "bf16 GEMM", (3.0, 0)),
            record("assign", "clusterfit", (4.0, 0)),
            record("iterate", "clusterfit", (5.0, 0)),
            record("iterate", "flash-kmeans", (6.5, 0)),
            record("fit", "chunked cuBLAS", (20.0, 100)),
            record("fit", "clusterfit", (6.0, 101), (8.0, 99)),
            record("fit", "flash-kmeans", (12.0, 100.0001)),
            record("fit", "fastkmeans", (30.0, 103)),
        ],
    }
    page = build_gpu(content)
    assert "| clusterfit | 4.000 (once) | 0 (once) | 0.75 (once) | 1.00x (once) | 3.0 |" in page
    assert "| flash-kmeans | 6.500 (once) | 1.30x (once) | 3.0 |" in page
    assert "| clusterfit | 8.00 (once) | 1.00x (once) | -1.00 % | 3.0 |" in page
    assert "| flash-kmeans | 12.00 (once) | 1.50x (once) | +0.00 % | 3.0 |" in page
    assert "| fastkmeans | not reached | - | +3.00 % | 3.0 |" in page
