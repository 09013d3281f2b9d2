"""The torch engine on a GPU, where there is one: kernels, fits and assignments, as on a CPU."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from clusterfit.config.sections.clustering import Cluster
from clusterfit.worker.kmeans import torch_engine
from clusterfit.worker.kmeans.arithmetic import Arithmetic, choose_arithmetic, load_triton_kernel
from clusterfit.worker.kmeans.assignment import Scorer
from clusterfit.worker.kmeans.engine import Fit
from clusterfit.worker.kmeans.kernel import Kernel
from clusterfit.worker.kmeans.portable import PortableKernel
from clusterfit.worker.kmeans.products import Scores, pad
from clusterfit.worker.kmeans.ranks import Ranks
from clusterfit.worker.kmeans.rows import ArrayRows
from clusterfit.worker.kmeans.torch_engine import TorchEngine

from .conftest import compute_distances, draw, iterate_lloyd, settings

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="needs a GPU: torch sees none"
)
GPU = torch.device("cuda")


def fit(rows: np.ndarray, config: Cluster, initial: np.ndarray | None = None) -> Fit:
    start = None if initial is None else Fit(initial)
    return TorchEngine(GPU).fit(ArrayRows(rows), config, 0, start, lambda _fit: None)


@pytest.fixture
def compiled() -> Kernel:
    kernel, why = load_triton_kernel(GPU)
    assert kernel is not None, why
    return kernel


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("shape", [(1, 1), (5, 3), (37, 16), (3, 4097), (600, 16001)])
def test_the_best_two_are_those_of_a_sort(
    compiled: Kernel, shape: tuple[int, int], dtype: torch.dtype
) -> None:
    wide = torch.randn(shape[0], shape[1] + 7, device=GPU).to(dtype)
    scores = Scores(wide[:, : shape[1]], torch.randn(shape[1], device=GPU))
    columns, best, second = compiled.find_best_two(scores)
    expected = scores.compute().sort(1, descending=True).values
    assert torch.equal(best, expected[:, 0])
    assert torch.equal(scores.compute().gather(1, columns[:, None])[:, 0], best)
    if shape[1] > 1:
        assert torch.equal(second, expected[:, 1])


def test_the_lower_column_wins_a_tie(compiled: Kernel) -> None:
    products = torch.zeros(9, 5000, device=GPU)
    places = torch.arange(9, device=GPU) * 500
    products[torch.arange(9), places] = 1
    products[torch.arange(9), places + 499] = 1
    columns, best, second = compiled.find_best_two(Scores(products, torch.zeros(5000, device=GPU)))
    assert columns.tolist() == places.tolist()
    assert torch.equal(best, second)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(("num_rows", "dim"), [(1, 1), (200, 5), (5000, 2049)])
def test_sums_are_exact(compiled: Kernel, num_rows: int, dim: int, sign: int) -> None:
    rows = torch.randn(num_rows, dim, device=GPU).bfloat16()
    clusters = torch.randint(0, 30, (num_rows,), device=GPU)
    taken = torch.argsort(clusters)[: -(-num_rows // 2)]
    sums = torch.ones(30, dim, dtype=torch.float64, device=GPU)
    compiled.add_rows(sums, rows, taken, clusters, sign)
    expected = torch.ones_like(sums)
    PortableKernel().add_rows(expected, rows, taken, clusters, sign)
    assert torch.equal(sums, expected)  # of bfloat16 numbers none is rounded


@pytest.mark.parametrize(("dim", "num_clusters"), [(64, 64), (65, 63), (100, 1001), (129, 2)])
def test_products_are_of_whole_steps_whatever_the_shape(dim: int, num_clusters: int) -> None:
    rows = torch.randn(3000, dim, device=GPU)
    centroids = torch.randn(num_clusters, dim, device=GPU)
    arithmetic = choose_arithmetic(GPU, dim)
    assert arithmetic.product_dtype == torch.bfloat16
    prepared = arithmetic.prepare(rows)
    assert prepared.numbers.shape[1] == -(-dim // 8) * 8
    scorer = Scorer(centroids, arithmetic)
    assert all(scores.products.shape[1] == num_clusters for _, scores in scorer.multiply(prepared))
    found = scorer.assign(prepared)
    truth = rows.double() @ centroids.double().T - centroids.double().square().sum(1) / 2
    assert (found == truth.argmax(1)).double().mean() > 0.97


def test_rows_of_whole_steps_are_not_copied() -> None:
    rows = torch.randn(5, 64, device=GPU)
    assert pad(rows) is rows


@pytest.mark.parametrize("dim", [12, 96])
def test_lloyd_from_the_same_start_is_an_independent_programs(dim: int) -> None:
    rows = draw(900, dim)
    initial = rows[:8].copy()
    centroids, objectives = iterate_lloyd(rows, initial, 6)
    found = fit(rows, settings(8, 6, relaxation=1), initial)
    tolerance = 5e-3 if dim == 96 else 1e-5
    done = found.num_iterations
    np.testing.assert_allclose(found.objectives, objectives[:done], rtol=tolerance)
    ours, theirs = (
        float(compute_distances(rows, each).min(1).sum()) for each in (found.centroids, centroids)
    )
    assert ours == pytest.approx(theirs, rel=tolerance)


@pytest.mark.parametrize("others", [{}, {"spherical": True}, {"max_size_ratio": 1.5}])
def test_equal_seeds_give_equal_bits(others: dict[str, object]) -> None:
    rows = draw(30_000, 100, num_groups=400)
    config = settings(200, 8, **others)
    first, second = fit(rows, config), fit(rows, config)
    assert first.objectives == second.objectives
    np.testing.assert_array_equal(first.centroids, second.centroids)


def test_streamed_rows_end_as_resident_ones_do(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = draw(40_000, 100, num_groups=400)
    config = settings(200, 8, init="random")
    resident = fit(rows, config)
    monkeypatch.setattr(torch_engine, "find_available_bytes", lambda _device: (1 << 20, "a test"))
    streamed = fit(rows, config)
    assert resident.objectives == streamed.objectives
    np.testing.assert_array_equal(resident.centroids, streamed.centroids)


def test_a_gpu_ends_where_a_cpu_does() -> None:
    rows = draw(30_000, 100, num_groups=400)
    config = settings(200, 12, num_candidates=0)
    on_cpu = TorchEngine().fit(ArrayRows(rows), config, 0, None, lambda _fit: None)
    # They round differently, and so end in different minima.
    assert fit(rows, config).objectives[-1] == pytest.approx(on_cpu.objectives[-1], rel=1e-2)


@pytest.mark.parametrize(("dim", "num_clusters"), [(8, 500), (100, 333), (512, 2000)])
def test_the_assignment_is_float64s(dim: int, num_clusters: int) -> None:
    rows = draw(50_000, dim, num_groups=300)
    centroids = rows[:num_clusters] + np.float32(0.01)
    found = TorchEngine(GPU).build_assigner(centroids, rows[::200]).assign(rows, 3)
    wide, given = (torch.from_numpy(each).to(GPU, torch.float64) for each in (rows, centroids))
    distances = torch.cdist(wide, given, compute_mode="donot_use_mm_for_euclid_dist")
    nearest = distances.topk(3, 1, largest=False).indices.cpu().numpy()
    np.testing.assert_array_equal(found.assignments, nearest[:, 0])
    assert found.nearest is not None
    np.testing.assert_array_equal(found.nearest[:, 0], nearest[:, 0])
    assert (found.nearest == nearest).mean() > 0.999
    np.testing.assert_allclose(
        found.distances_sq, distances.amin(1).square().cpu().numpy(), rtol=1e-4
    )


def test_without_triton_torch_does_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = draw(30_000, 100, num_groups=400)
    config = settings(200, 8)
    compiled = fit(rows, config)

    def choose_portable(device: torch.device, dim: int, ranks: Ranks | None) -> Arithmetic:
        found = choose_arithmetic(device, dim, ranks)
        return Arithmetic(device, found.dtype, found.product_dtype, PortableKernel(), "a test")

    monkeypatch.setattr(torch_engine, "choose_arithmetic", choose_portable)
    portable = fit(rows, config)
    np.testing.assert_array_equal(compiled.centroids, portable.centroids)
