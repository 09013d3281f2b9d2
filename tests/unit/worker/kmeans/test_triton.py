"""The loops for GPUs without one: Triton's interpreter does what a GPU would, slowly."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from clusterfit.worker.kmeans.arithmetic import load_triton_kernel

pytest.importorskip("triton", reason="Triton is made for Linux alone")

_PROGRAM = """
import sys
import numpy as np
import torch
from clusterfit.worker.kmeans.products import Scores
from clusterfit.worker.kmeans.triton_kernel import TritonKernel

given = np.load(sys.argv[1])
kernel = TritonKernel()
products = torch.from_numpy(given["products"]).bfloat16()
scores = Scores(products[:, : len(given["bias"])], torch.from_numpy(given["bias"]))
columns, best, second = kernel.find_best_two(scores)
sums = torch.from_numpy(given["sums"])
rows, order, clusters = (torch.from_numpy(given[key]) for key in ("rows", "order", "clusters"))
kernel.add_rows(sums, rows.bfloat16(), order, clusters, int(given["sign"]))
kernel.add_rows(sums, rows.bfloat16(), order[:0], clusters)
np.savez(sys.argv[2], columns=columns, best=best, second=second, sums=sums)
"""


@pytest.mark.parametrize(
    ("num_rows", "num_columns", "dim", "sign"), [(1, 1, 1, 1), (130, 3, 5, -1), (70, 4101, 2050, 1)]
)
def test_the_loops_for_gpus_are_numpys(
    tmp_path: Path, num_rows: int, num_columns: int, dim: int, sign: int
) -> None:
    random = np.random.default_rng(0)
    # Of few different numbers: many columns are equally good, and nothing is rounded.
    products = random.integers(-3, 4, (num_rows, num_columns + 7)).astype(np.float32)
    bias = random.integers(-2, 3, num_columns).astype(np.float32)
    rows = random.integers(-99, 100, (num_rows, dim)).astype(np.float32)
    clusters = random.integers(0, 4, num_rows)
    order = np.argsort(clusters, kind="stable")[: -(-num_rows // 2)]
    sums = random.integers(-9, 10, (4, dim)).astype(np.float64)
    given, found = tmp_path / "given.npz", tmp_path / "found.npz"
    np.savez(
        given,
        products=products, bias=bias, rows=rows, clusters=clusters, order=order, sums=sums,
        sign=sign,
    )  # fmt: skip
    subprocess.run(
        [sys.executable, "-c", _PROGRAM, str(given), str(found)],
        env=os.environ | {"TRITON_INTERPRET": "1"},
        check=True,
    )
    results = np.load(found)
    scores = products[:, :num_columns] + bias
    np.testing.assert_array_equal(results["columns"], scores.argmax(1))  # the first of equals
    ordered = np.sort(np.pad(scores, ((0, 0), (1, 0)), constant_values=-np.inf), 1)
    np.testing.assert_array_equal(results["best"], ordered[:, -1])
    np.testing.assert_array_equal(results["second"], ordered[:, -2])
    np.add.at(sums, clusters[order], sign * rows[order])
    np.testing.assert_array_equal(results["sums"], sums)


@pytest.mark.skipif(torch.cuda.is_available(), reason="Triton has a GPU here and can compile")
def test_what_triton_cannot_compile_torch_does_and_says_why() -> None:
    # Outside its interpreter Triton needs a GPU and a C compiler.
    kernel, why = load_triton_kernel(torch.device("cpu"))
    assert kernel is None
    assert why.startswith("Triton: ")
