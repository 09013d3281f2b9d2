"""How features are clustered."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import model_validator

from clusterfit.config.section import Section
from clusterfit.config.sections.values import (
    Fraction,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveInt,
    RelativePath,
    Relaxation,
    SizeRatio,
)


class Cluster(Section):
    """Step 1, second half: k-means on the features of the train partition."""

    engine: Literal["auto", "faiss", "torch"] = "auto"
    """`torch`: on all ranks, each with its own rows; products of rounded numbers where the device
    is fast at them, the last assignment exact. `faiss`: faiss.Kmeans in one process, on the CPU or
    on the GPUs of one node where its GPU wheel is in. `auto`: torch, unless one process on a CPU
    that is fast at float32 only is asked for plain Lloyd iterations (init: random or given,
    numCandidates: 0, relaxation: 1, stopImprovement: 0); the log says what was chosen and why."""
    num_clusters: PositiveInt = 16000
    """K. Must not exceed the number of images."""
    init: Literal["two_level", "random", "given"] = "two_level"
    """`two_level`: the square root of K coarse cells, then each cell's share of K inside it; about
    the cost of two iterations. `random`: K distinct rows, drawn by the seed. `given`:
    initialCentroids. faiss takes the last two."""
    initial_centroids: RelativePath = ""
    """With init: given: a (K, D) .npy below the storage root to start from."""
    num_iterations: PositiveInt = 50
    """Rounds of assignment and update, at most."""
    num_candidates: NonNegativeInt = 16
    """With the torch engine on CPUs an iteration compares each row with so many centroids only:
    those that were nearest when it was last compared with all, which is at the first iteration, the
    second, the 4th, 8th, 16th ..., and before it stops early. 0: all, at each iteration, as on
    GPUs."""
    relaxation: Relaxation = 1.8
    """With the torch engine an iteration moves centroids so many times the way to the means of
    their rows; between 1 and 2 the objective falls in fewer iterations, and to a lower end. The
    last one goes to the means. 1: always, as Lloyd's."""
    stop_improvement: NonNegativeFloat = 1e-4
    """Stop after an iteration that began less than this fraction below the objective of the one
    before; 0: never. With the torch engine; faiss does all iterations."""
    stop_churn: Fraction = 0.0
    """Stop after an iteration in which at most this fraction of the rows changed its cluster; at 0
    where none did. With the torch engine."""
    spherical: bool = False
    """Whether centroids are divided by their L2 norm after each update, for normalised rows; with
    the torch engine."""
    max_size_ratio: SizeRatio = 0.0
    """No cluster gets more of the train partition's images than so many times their mean number,
    N / K, rounded up; 0: no limit. At 1 all sizes are equal up to one image. With the torch engine:
    up to ten iterations with prices on the clusters follow those without. Other partitions are
    assigned by the same prices, and not limited."""
    normalize: bool = True
    """Whether rows are divided by their L2 norm, as VISSL does; after pcaDim, where that is set."""
    pca_dim: NonNegativeInt = 0
    """Dimensions kept by a principal component analysis; 0: none."""
    pca_whiten: bool = False
    """Whether the kept components are scaled to unit variance."""
    max_points_per_centroid: NonNegativeInt = 0
    """Train on at most this many rows per cluster, drawn by the seed; 0: all rows. The
    assignments always cover all rows."""
    num_nearest: PositiveInt = 1
    """Nearest centroids listed for each image; above 1 they are also written to nearest.npy, (N,
    this many) int64, the nearest first."""

    @model_validator(mode="after")
    def _whitening_needs_pca(self) -> Self:
        if self.pca_whiten and not self.pca_dim:
            raise ValueError("pcaWhiten: has no effect without pcaDim; give the dimensions to keep")
        return self

    @model_validator(mode="after")
    def _centroids_go_with_init_given(self) -> Self:
        if self.init == "given" and not self.initial_centroids:
            raise ValueError("initialCentroids: missing, want a file, because of init: given")
        if self.init != "given" and self.initial_centroids:
            raise ValueError(
                f"initialCentroids: has no effect with init: {self.init}; set init: given"
            )
        return self

    @model_validator(mode="after")
    def _faiss_does_what_is_asked(self) -> Self:
        if self.engine != "faiss":
            return self
        asked = {
            "init: two_level": self.init == "two_level",
            "spherical": self.spherical,
            "maxSizeRatio": self.max_size_ratio > 0,
        }
        if refused := [setting for setting, is_asked in asked.items() if is_asked]:
            raise ValueError(
                f"engine: faiss does not know {', '.join(refused)}; set engine: torch, or leave "
                "these and set init: random or given"
            )
        # Defaults are nobody's wish, and these are what faiss does.
        lloyds = {"num_candidates": 0, "relaxation": 1, "stop_improvement": 0, "stop_churn": 0}
        for name, lloyd in lloyds.items():
            field, value = type(self).model_fields[name], getattr(self, name)
            if value not in {field.default, lloyd}:
                raise ValueError(
                    f"{field.alias}: got {value:g}, has no effect with engine: faiss; leave it "
                    f"out or set {lloyd}, or set engine: torch"
                )
        return self

    @model_validator(mode="after")
    def _limit_can_be_reached(self) -> Self:
        if self.max_size_ratio >= self.num_clusters:
            raise ValueError(
                f"maxSizeRatio: got {self.max_size_ratio:g}, want less than numClusters "
                f"({self.num_clusters}); no cluster can be as many times larger than the mean"
            )
        return self

    @model_validator(mode="after")
    def _nearest_are_of_the_clusters(self) -> Self:
        if self.num_nearest > self.num_clusters:
            raise ValueError(
                f"numNearest: got {self.num_nearest}, want at most numClusters "
                f"({self.num_clusters})"
            )
        return self
