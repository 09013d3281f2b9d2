"""Which engine does a clustering, and why."""

from __future__ import annotations

from clusterfit.config.sections.clustering import Cluster
from clusterfit.worker.distenv import DistEnv
from clusterfit.worker.kmeans.arithmetic import has_fast_products
from clusterfit.worker.kmeans.engine import Engine
from clusterfit.worker.kmeans.faiss_engine import FaissEngine
from clusterfit.worker.kmeans.ranks import Ranks
from clusterfit.worker.kmeans.torch_engine import TorchEngine


def choose_engine(config: Cluster, env: DistEnv) -> tuple[Engine, str]:
    """Return the engine that the run file names, or the better one, and the reason."""
    torch_engine = TorchEngine(env.device, Ranks(env.rank, env.world_size))
    if config.engine == "torch":
        return torch_engine, "cluster.engine: torch"
    if config.engine == "faiss":
        use_gpus = env.device.type == "cuda"
        return FaissEngine(env.threads_per_rank, use_gpus=use_gpus), "cluster.engine: faiss"
    if config.init == "two_level":
        return torch_engine, "auto: init: two_level saves most iterations"
    if config.num_candidates or config.relaxation != 1:
        return torch_engine, "auto: numCandidates and relaxation are only there"
    if config.stop_improvement or config.stop_churn:
        return torch_engine, "auto: stopImprovement and stopChurn are only there"
    if config.spherical:
        return torch_engine, "auto: spherical is only there"
    if config.max_size_ratio:
        return torch_engine, "auto: maxSizeRatio is only there"
    if env.world_size > 1:
        return torch_engine, f"auto: shares the rows out over {env.world_size} ranks"
    if env.device.type == "cuda":
        return torch_engine, "auto: keeps the rows on the GPU"
    if has_fast_products():
        return torch_engine, "auto: this CPU multiplies rounded numbers faster"
    return FaissEngine(env.threads_per_rank), (
        "auto: plain Lloyd by one process on a CPU that is fast at float32 only"
    )
