"""The compiled loops and torch's own operations, on every shape that takes another path."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch

from clusterfit.worker.kmeans import native_library
from clusterfit.worker.kmeans.arithmetic import Arithmetic
from clusterfit.worker.kmeans.assignment import Scorer
from clusterfit.worker.kmeans.kernel import Kernel
from clusterfit.worker.kmeans.native import NativeKernel, load_native_kernel
from clusterfit.worker.kmeans.portable import PortableKernel
from clusterfit.worker.kmeans.products import Scores

CPU = torch.device("cpu")
SHAPES = [(1, 1), (5, 3), (37, 16), (37, 53), (3, 4097), (600, 1000)]
PRODUCTS = [torch.int32, torch.bfloat16, torch.float32]
ROWS = [torch.bfloat16, torch.float32]


@pytest.fixture(params=["native", "torch"])
def kernel(request: pytest.FixtureRequest) -> Kernel:
    native: NativeKernel | None = None
    if request.param == "native":
        native = request.getfixturevalue("native")
    return native or PortableKernel()


def draw_scores(shape: tuple[int, int], dtype: torch.dtype) -> tuple[Scores, torch.Tensor]:
    """Return scores whose products lie in a wider matrix, and what they are in float32."""
    generator = torch.Generator().manual_seed(0)
    num_rows, num_columns = shape
    wide = torch.randn(num_rows, num_columns + 7, generator=generator)
    bias = torch.randn(num_columns, generator=generator)
    if dtype != torch.int32:
        products = wide.to(dtype)[:, :num_columns]
        return Scores(products, bias), products.float() + bias
    products = (wide * 1000).int()[:, :num_columns]
    row_steps, column_steps = (torch.rand(n, generator=generator) / 30 for n in shape)
    scores = products * row_steps.double()[:, None] * column_steps.double() + bias
    return Scores(products, bias, row_steps, column_steps), scores.float()


@pytest.mark.parametrize("dtype", PRODUCTS)
@pytest.mark.parametrize("shape", SHAPES)
def test_the_best_two_are_those_of_a_sort(
    kernel: Kernel, shape: tuple[int, int], dtype: torch.dtype
) -> None:
    given, scores = draw_scores(shape, dtype)
    columns, best, second = kernel.find_best_two(given)
    expected = scores.sort(1, descending=True).values
    # Steps are multiplied in float32 there and in float64 here.
    atol = 1e-6 if dtype == torch.int32 else 0
    torch.testing.assert_close(best, expected[:, 0], rtol=0, atol=atol)
    torch.testing.assert_close(scores.gather(1, columns[:, None])[:, 0], best, rtol=0, atol=atol)
    if shape[1] > 1:
        torch.testing.assert_close(second, expected[:, 1], rtol=0, atol=atol)
    else:
        assert (second == -torch.inf).all()


@pytest.mark.parametrize("num_listed", [1, 5, 16, 64, 65, 1000])
@pytest.mark.parametrize("dtype", PRODUCTS)
@pytest.mark.parametrize("shape", SHAPES)
def test_what_is_listed_are_the_columns_that_score_highest(
    kernel: Kernel, shape: tuple[int, int], dtype: torch.dtype, num_listed: int
) -> None:
    given, scores = draw_scores(shape, dtype)
    wanted = min(num_listed, shape[1])
    listed = kernel.list_best(given, wanted)
    assert listed.shape == (shape[0], wanted)
    assert (listed.diff(dim=1) > 0).all(), "rising, and so all different"
    found = scores.gather(1, listed.long()).sort(1, descending=True).values
    expected = scores.sort(1, descending=True).values[:, :wanted]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_of_equal_columns_the_lower_ones_are_listed(native: NativeKernel) -> None:
    listed = native.list_best(Scores(torch.zeros(2, 100), torch.zeros(100)), 20)
    assert listed.tolist() == [list(range(20))] * 2


@pytest.mark.parametrize("num_columns", [40, 1000])
def test_scores_that_are_no_numbers_fill_a_list_all_the_same(
    kernel: Kernel, num_columns: int
) -> None:
    products = torch.randn(3, num_columns, generator=torch.Generator().manual_seed(0))
    products[1] = torch.nan
    products[2, 7:] = torch.nan
    listed = kernel.list_best(Scores(products, torch.zeros(num_columns)), 16)
    assert (listed.diff(dim=1) > 0).all()
    assert listed.min() >= 0
    assert listed.max() < num_columns


@pytest.mark.parametrize("dtype", ROWS)
@pytest.mark.parametrize("dim", [1, 31, 64, 67, 2048])
@pytest.mark.parametrize("num_listed", [1, 3, 4, 16])
def test_the_best_of_a_list_is_float64s(
    kernel: Kernel, num_listed: int, dim: int, dtype: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(301, dim, generator=generator).to(dtype)
    centroids, bias = (torch.randn(*shape, generator=generator) for shape in ((40, dim), (40,)))
    lists = torch.rand(301, 40, generator=generator).argsort(1)[:, :num_listed].sort(1).values.int()
    order = torch.randperm(301, generator=generator)
    chosen = kernel.choose(rows, lists, centroids, bias, order)
    scores = (rows.double() @ centroids.double().t() + bias).gather(1, lists.long())
    expected = lists.long().gather(1, scores.argmax(1, keepdim=True))[:, 0]
    torch.testing.assert_close(chosen, expected, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", ROWS)
@pytest.mark.parametrize("dim", [1, 16, 37, 512])
def test_rounded_rows_are_half_a_step_off_at_most(
    kernel: Kernel, dim: int, dtype: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(301, dim, generator=generator).to(dtype)
    rows[7] = 0
    rows[8:] *= torch.logspace(-9, 9, 293)[:, None].to(dtype)
    factor = kernel.round_rows(rows)
    assert factor.steps is not None
    torch.testing.assert_close(factor.steps, rows.float().abs().amax(1) / 127)
    errors = factor.numbers.double() * factor.steps.double()[:, None] - rows.double()
    assert (errors.abs() <= 0.5001 * factor.steps[:, None]).all()
    assert (factor.numbers[7] == 0).all()


@pytest.mark.parametrize("dtype", PRODUCTS)
@pytest.mark.parametrize("shape", SHAPES)
def test_what_scores_enough_is_compared_by_distance(
    kernel: Kernel, shape: tuple[int, int], dtype: torch.dtype
) -> None:
    num_rows, num_columns = shape
    generator = torch.Generator().manual_seed(1)
    rows = torch.randn(num_rows, 67, generator=generator)
    centroids = torch.randn(num_columns, 67, generator=generator)
    centroids[num_columns // 2 :] = centroids[: num_columns - num_columns // 2].clone()  # ties
    given, scores = draw_scores(shape, dtype)
    places = torch.arange(0, num_rows, 2).flip(0)
    for kept in (1, 2, num_columns):
        least = scores.topk(min(kept, num_columns), 1).values[places, -1] - 1e-6
        chosen = kernel.compare(given, least, rows, places, centroids)
        differences = rows.double()[places, None] - centroids.double()
        distances = differences.square().sum(2)
        distances[scores[places] < least[:, None]] = torch.inf
        expected = distances.argmin(1)  # the lowest of equals
        torch.testing.assert_close(chosen, expected, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", PRODUCTS)
@pytest.mark.parametrize("shape", SHAPES)
def test_where_nothing_scores_enough_all_are_compared(
    kernel: Kernel, shape: tuple[int, int], dtype: torch.dtype
) -> None:
    num_rows, num_columns = shape
    generator = torch.Generator().manual_seed(1)
    rows, centroids = (torch.randn(n, 67, generator=generator) for n in shape)
    given, scores = draw_scores(shape, dtype)
    places = torch.arange(num_rows)
    expected = torch.cdist(rows.double(), centroids.double()).argmin(1)
    for least in (scores.amax(1) + 1, torch.full((num_rows,), torch.nan)):
        torch.testing.assert_close(kernel.compare(given, least, rows, places, centroids), expected)
    lost = kernel.compare(given, scores.amax(1) - 1, rows * torch.nan, places, centroids)
    assert ((lost >= 0) & (lost < num_columns)).all()


@pytest.mark.parametrize("dim", [1, 15, 64, 67, 2048])
def test_distances_are_those_of_float64(kernel: Kernel, dim: int) -> None:
    generator = torch.Generator().manual_seed(0)
    rows, centroids = (torch.randn(n, dim, generator=generator) for n in (301, 40))
    columns = torch.randint(40, (301,), generator=generator)
    expected = (rows.double() - centroids.double()[columns]).square().sum(1)
    measured = kernel.measure_distances(rows, centroids, columns)
    torch.testing.assert_close(measured.double(), expected, rtol=1e-6, atol=0)


def test_the_lower_column_wins_a_tie_wherever_it_stands(native: NativeKernel) -> None:
    for first, other in [(0, 1), (3, 19), (15, 16), (17, 34), (20, 35)]:
        products = torch.zeros(1, 36)
        products[0, [first, other]] = 1
        columns, best, second = native.find_best_two(Scores(products, torch.zeros(36)))
        assert (columns.item(), best.item(), second.item()) == (first, 1.0, 1.0)


@pytest.mark.parametrize("dtype", ROWS)
@pytest.mark.parametrize("dim", [1, 17, 1000])
def test_sums_are_exact(kernel: Kernel, dim: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    rows = (torch.randint(-(2**21), 2**21, (300, dim), generator=generator) / 2**10).to(dtype)
    clusters = torch.randint(7, (300,), generator=generator)
    sums = torch.zeros(9, dim, dtype=torch.float64)
    order = torch.randperm(300, generator=generator)[:290]
    kernel.add_rows(sums, rows, order, clusters)
    expected = torch.zeros(9, dim, dtype=torch.float64)
    for place in order.tolist():
        expected[clusters[place]] += rows[place].double()
    assert torch.equal(sums, expected)
    kernel.add_rows(sums, rows, order.flip(0), clusters, sign=-1)
    assert (sums == 0).all()


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


@pytest.mark.usefixtures("native")
def test_a_cache_folder_that_cannot_be_written_is_done_without(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cache, elsewhere = tmp_path / "cache", tmp_path / "tmp"
    cache.mkdir()
    elsewhere.mkdir()
    (cache / "clusterfit").symlink_to("/proc")  # there, and not even root writes to it
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    monkeypatch.setattr(tempfile, "tempdir", str(elsewhere))
    loaded, reason = load_native_kernel()
    assert loaded is not None, reason
    rows, columns = torch.ones(3, 5), torch.zeros(3, dtype=torch.int64)
    assert loaded.measure_distances(rows, rows, columns).tolist() == [0, 0, 0]
    assert list(elsewhere.iterdir()) == []


@pytest.mark.parametrize("kept_bytes", [0, 100, -1])
def test_a_library_that_is_not_what_was_written_is_compiled_again(
    native: NativeKernel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kept_bytes: int
) -> None:
    """A crash of the machine may leave any part of it, and loading that kills the process."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    compiles = []
    compile_library = native_library._compile

    def count(*arguments: Any) -> Path:
        compiles.append(arguments)
        return compile_library(*arguments)

    monkeypatch.setattr(native_library, "_compile", count)
    assert load_native_kernel()[0] is not None
    assert load_native_kernel()[0] is not None
    assert len(compiles) == 1
    [kept] = (tmp_path / "clusterfit").iterdir()
    whole = kept.read_bytes()
    kept.unlink()  # not in place: this process has mapped it
    kept.write_bytes(whole[:kept_bytes])
    loaded, reason = load_native_kernel()
    assert loaded is not None, reason
    assert len(compiles) == 2
    assert len(kept.read_bytes()) == len(whole)


@pytest.mark.parametrize("dim", [1, 3, 63])
@pytest.mark.parametrize(("num_rows", "num_clusters"), [(1, 1), (7, 5), (130, 16), (601, 1001)])
def test_short_rows_are_searched_as_products_are(
    native: NativeKernel, num_rows: int, num_clusters: int, dim: int
) -> None:
    generator = torch.Generator().manual_seed(1)
    rows = torch.randn(num_rows, dim, generator=generator)
    centroids = torch.randn(num_clusters, dim, generator=generator)
    found, expected = (
        list(Scorer(centroids, arithmetic).search(arithmetic.prepare(rows)))
        for arithmetic in (
            Arithmetic(CPU, torch.float32, torch.float32, used, "")
            for used in (native, PortableKernel())
        )
    )
    [(_, scores, (columns, best, second))] = found
    [(_, _, (expected_columns, expected_best, expected_second))] = expected
    assert scores is None
    assert (columns == expected_columns).float().mean() > 0.99
    torch.testing.assert_close(best, expected_best, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(second, expected_second, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("dtype", ROWS)
@pytest.mark.parametrize("dim", [1, 16, 37, 512])
def test_rows_enter_their_frame_as_defined(kernel: Kernel, dim: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    raw, mean = torch.randn(301, dim, generator=generator), torch.randn(dim, generator=generator)
    rows = torch.empty(301, dim, dtype=dtype)
    norms_sq = kernel.enter_rows(raw, mean, 1.5 * 2**13, rows)  # a grid of 2^-10
    expected = ((raw - mean).double() * 2**10).round() / 2**10
    assert torch.equal(rows, expected.to(dtype))
    expected_norms = rows.double().square().sum(1)
    torch.testing.assert_close(norms_sq.double(), expected_norms, rtol=1e-6, atol=1e-6)
