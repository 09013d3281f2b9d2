"""The compiled loops against torch's own operations, on every shape that takes another path."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import torch

from clusterfit.worker.kmeans.arithmetic import Arithmetic
from clusterfit.worker.kmeans.assignment import Scorer
from clusterfit.worker.kmeans.native import NativeKernel, load_native_kernel

CPU = torch.device("cpu")
SHAPES = [(1, 1), (5, 3), (37, 16), (37, 53), (3, 4097), (600, 1000)]


@pytest.fixture(params=["native", "torch"])
def arithmetic(request: pytest.FixtureRequest) -> Arithmetic:
    used = request.getfixturevalue("native") if request.param == "native" else None
    return Arithmetic(CPU, torch.float32, used, "")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_best_two_are_those_of_a_sort(
    arithmetic: Arithmetic, shape: tuple[int, int], dtype: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(0)
    wide = torch.randn(shape[0], shape[1] + 7, generator=generator).to(dtype)
    products, bias = wide[:, : shape[1]], torch.randn(shape[1], generator=generator)
    columns, best, second = arithmetic.find_best_two(products, bias)
    scores = products.float() + bias
    expected = scores.sort(1, descending=True).values
    torch.testing.assert_close(best, expected[:, 0], rtol=0, atol=0)
    torch.testing.assert_close(scores.gather(1, columns[:, None])[:, 0], best, rtol=0, atol=0)
    if shape[1] > 1:
        torch.testing.assert_close(second, expected[:, 1], rtol=0, atol=0)
    else:
        assert (second == -torch.inf).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("shape", SHAPES)
def test_what_scores_enough_is_compared_by_distance(
    arithmetic: Arithmetic, shape: tuple[int, int], dtype: torch.dtype
) -> None:
    num_rows, num_columns = shape
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(num_rows, 67, generator=generator)
    centroids = torch.randn(num_columns, 67, generator=generator)
    centroids[num_columns // 2 :] = centroids[: num_columns - num_columns // 2].clone()  # ties
    wide = torch.randn(num_rows, num_columns + 7, generator=generator).to(dtype)
    products, bias = wide[:, :num_columns], torch.randn(num_columns, generator=generator)
    scores = products.float() + bias
    places = torch.arange(0, num_rows, 2).flip(0)
    for kept in (1, 2, num_columns):
        least = scores.topk(min(kept, num_columns), 1).values[places, -1]
        chosen = arithmetic.compare(products, bias, least, rows, places, centroids)
        differences = rows.double()[places, None] - centroids.double()
        distances = differences.square().sum(2)
        distances[scores[places] < least[:, None]] = torch.inf
        expected = distances.argmin(1)  # the lowest of equals
        torch.testing.assert_close(chosen, expected, rtol=0, atol=0)


@pytest.mark.parametrize("dim", [1, 15, 64, 67, 2048])
def test_distances_are_those_of_float64(arithmetic: Arithmetic, dim: int) -> None:
    generator = torch.Generator().manual_seed(0)
    rows, centroids = (torch.randn(n, dim, generator=generator) for n in (301, 40))
    columns = torch.randint(40, (301,), generator=generator)
    expected = (rows.double() - centroids.double()[columns]).square().sum(1)
    measured = arithmetic.measure_distances(rows, centroids, columns)
    torch.testing.assert_close(measured.double(), expected, rtol=1e-6, atol=0)


def test_the_lower_column_wins_a_tie_wherever_it_stands(native: NativeKernel) -> None:
    for first, other in [(0, 1), (3, 19), (15, 16), (17, 34), (20, 35)]:
        products = torch.zeros(1, 36)
        products[0, [first, other]] = 1
        columns, best, second = native.find_best_two(products, torch.zeros(36))
        assert (columns.item(), best.item(), second.item()) == (first, 1.0, 1.0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("dim", [1, 17, 1000])
def test_sums_are_exact(arithmetic: Arithmetic, dim: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    rows = (torch.randint(-(2**21), 2**21, (300, dim), generator=generator) / 2**10).to(dtype)
    clusters = torch.randint(7, (300,), generator=generator)
    sums = torch.zeros(9, dim, dtype=torch.float64)
    arithmetic.add_rows(sums, rows, clusters)
    expected = torch.zeros(9, dim, dtype=torch.float64)
    for row, cluster in zip(rows.double(), clusters.tolist(), strict=True):
        expected[cluster] += row
    assert torch.equal(sums, expected)


def test_a_machine_without_a_compiler_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert load_native_kernel() == (None, "no C++ compiler (g++, clang++, c++) on PATH")


def test_a_compiler_that_fails_is_quoted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    compiler = tmp_path / "g++"
    compiler.write_text("#!/bin/sh\necho 'error: no headers' >&2\nexit 1\n", encoding="utf-8")
    compiler.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    loaded, reason = load_native_kernel()
    assert loaded is None
    assert reason.endswith("failed: error: no headers")


@pytest.mark.usefixtures("native")
def test_only_the_first_process_compiles(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert load_native_kernel()[0] is not None
    assert len(list((tmp_path / "clusterfit").glob("kmeans-*.so"))) == 1

    def refuse(*_arguments: object, **_options: object) -> None:
        raise AssertionError("compiled again")

    monkeypatch.setattr(subprocess, "run", refuse)
    assert load_native_kernel()[0] is not None


@pytest.mark.parametrize("dim", [1, 3, 63])
@pytest.mark.parametrize(("num_rows", "num_clusters"), [(1, 1), (7, 5), (130, 16), (601, 1001)])
def test_short_rows_are_searched_as_products_are(
    native: NativeKernel, num_rows: int, num_clusters: int, dim: int
) -> None:
    generator = torch.Generator().manual_seed(1)
    rows = torch.randn(num_rows, dim, generator=generator)
    centroids = torch.randn(num_clusters, dim, generator=generator)
    found, expected = (
        list(Scorer(centroids, Arithmetic(CPU, torch.float32, used, "")).search(rows))
        for used in (native, None)
    )
    [(_, products, (columns, best, second))] = found
    [(_, _, (expected_columns, expected_best, expected_second))] = expected
    assert products is None
    assert (columns == expected_columns).float().mean() > 0.99
    torch.testing.assert_close(best, expected_best, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(second, expected_second, rtol=1e-5, atol=1e-4)
