"""Which engine `auto` is."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import faiss
import pytest
import torch
from pydantic import ValidationError

from clusterfit.config.sections.clustering import Cluster
from clusterfit.errors import ConfigError
from clusterfit.worker.distenv import DistEnv
from clusterfit.worker.kmeans import arithmetic
from clusterfit.worker.kmeans.choice import choose_engine
from clusterfit.worker.kmeans.faiss_engine import FaissEngine

PLAIN: dict[str, Any] = {
    "init": "random", "num_candidates": 0, "relaxation": 1.0, "stop_improvement": 0.0,
}  # fmt: skip


def choose(device: str = "cpu", **settings: Any) -> str:
    env = SimpleNamespace(
        device=torch.device(device), rank=0, world_size=1, is_main_rank=True, threads_per_rank=1
    )
    return choose_engine(Cluster.model_validate(settings), cast(DistEnv, env))[0].name


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (PLAIN, "faiss"),
        (PLAIN | {"num_candidates": 16}, "torch"),
        (PLAIN | {"relaxation": 1.8}, "torch"),
        (PLAIN | {"stop_improvement": 1e-4}, "torch"),
        (PLAIN | {"stop_churn": 0.01}, "torch"),
        (PLAIN | {"spherical": True}, "torch"),
        (PLAIN | {"max_size_ratio": 1.5}, "torch"),
        (PLAIN | {"init": "two_level"}, "torch"),
        (PLAIN | {"engine": "torch"}, "torch"),
    ],
)
def test_auto_is_faiss_for_lloyds_iterations_in_float32_alone(
    settings: dict[str, Any], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arithmetic, "read_cpu_flags", set)
    assert choose(**settings) == expected
    monkeypatch.setattr(arithmetic, "read_cpu_flags", lambda: {"avx512_vnni"})
    assert choose(**settings) == "torch"


@pytest.mark.parametrize(
    ("flags", "products", "rows"),
    [
        ({"avx512_vnni", "avx512_bf16"}, torch.int8, torch.bfloat16),
        ({"avx_vnni"}, torch.int8, torch.bfloat16),
        ({"bf16"}, torch.bfloat16, torch.bfloat16),
        ({"avx2", "fma"}, torch.float32, torch.float32),
    ],
)
def test_a_cpus_flags_decide_what_products_are_of(
    flags: set[str],
    products: torch.dtype,
    rows: torch.dtype,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(arithmetic, "read_cpu_flags", lambda: flags)
    chosen = arithmetic.choose_arithmetic(torch.device("cpu"), 64)
    assert (chosen.product_dtype, chosen.dtype) == (products, rows)
    narrow = arithmetic.choose_arithmetic(torch.device("cpu"), 63)
    assert (narrow.product_dtype, narrow.dtype) == (torch.float32, torch.float32)


@pytest.mark.parametrize(
    "settings",
    [{"numCandidates": 8}, {"relaxation": 1.5}, {"stopImprovement": 1e-3}, {"stopChurn": 0.01}],
)
def test_settings_that_faiss_does_not_look_at_are_refused(settings: dict[str, float]) -> None:
    [name] = settings
    with pytest.raises(ValidationError, match=f"{name}: got .*, has no effect with engine: faiss"):
        Cluster.model_validate({"engine": "faiss", "init": "random", **settings})
    Cluster.model_validate({"engine": "faiss", "init": "random"})
    Cluster.model_validate({"engine": "faiss", **PLAIN})


@pytest.mark.parametrize("num_gpus", [0, 2])
def test_faiss_is_where_the_run_file_says(num_gpus: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither on CPUs while the pod holds GPUs, nor on GPUs that nobody asked for."""
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: num_gpus)
    assert FaissEngine(1).describe()["faiss_gpus"] == 0
    if num_gpus:
        assert FaissEngine(1, use_gpus=True).describe()["faiss_gpus"] == num_gpus
        assert choose("cuda", **PLAIN, engine="faiss") == "faiss"
    else:
        with pytest.raises(ConfigError, match=r"engine: faiss.* knows of no GPU"):
            choose("cuda", **PLAIN, engine="faiss")
    assert choose(**PLAIN, engine="faiss") == "faiss"
