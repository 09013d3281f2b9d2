"""The words of docs/benchmarks.md; the numbers are `benchmarks.report`'s."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

INTRODUCTION: Final = """\
# Benchmarks

How fast and how good clusterfit's k-means is, beside its peers, each case on one machine. Every number here is
written by `python -m benchmarks write` from `benchmarks/results/*.json`, which `make bench` measures (what the data
are like: `python -m benchmarks compare`); `make check` fails where this page and the results differ.

    make bench                        # all cases: about an hour on 2 cores
    make bench CASES=assign           # one case; several are separated by commas
    make bench CASES=assign ROUNDS=5  # goes on from the rounds that are there

A run that was interrupted goes on where it stopped. `python -m benchmarks run --fresh` begins anew.

## How it is measured

- Each side runs in a process of its own for each round: no thread pool, no setting and no compiled code of
  another reaches it. Caches of compiled code start empty. All sides have as many threads as the machine
  has cores.
- Rounds are interleaved: each side once, in rotating order. A table shows the median of the rounds, and the
  smallest and largest beside it. A ratio is formed within a round and then summarized, because a
  machine's pace drifts. `(once)` stands where there was one round only.
- Peers have their rows in memory before the clock starts. clusterfit reads its rows from the feature parts
  on disk (in the page cache) within the measured time.
- All rows take part: no side draws a sample of them, no peer stops early. Data and seeds are the same;
  so are the initial centroids where a peer takes any (faiss.Kmeans, scikit-learn).
- A *first use* is the first call in a process, with whatever it compiles; it is reported apart, and once added to
  the time. All other times are warm.
- Objectives (sums of squared distances) and nearest centroids are those of a judge: numpy in float64, all
  distances, no line or library shared with what it judges.
- *Time to the target* is the fastest of a side's attempts that ends at the objective of faiss.Kmeans after
  its 25 iterations in the same round, or at most 0.001 % above it. In plots, points are attempts; the curve of
  faiss.Kmeans alone is of one attempt's iterations, as faiss tells them.
- *Peak* is the largest resident set of the process, with the interpreter, the libraries and, for peers, the rows.
- Peers that bring OpenBLAS run at their best core type, as the case `blas` found it, and at the default, with no
  BLAS variable set. OpenBLAS may take a new processor for an old one; the default is what a user gets.
- *Other load* is how many cores other processes kept busy meanwhile: where it is not near 0, times are
  too long, and only ratios mean something.

## Data

`relu` is synthetic: rows of groups whose sizes follow a power law (exponent 0.8), along 512 latent axes whose variances
follow power laws, through a random layer with ReLU, divided by their norm. `digits` is real: scikit-learn's
1,438 training digits in 20 poses each, seen by the small ResNet of `examples/digits.yaml` after its
pretext, layer res4 before pooling, divided by their norm. `gaussian` has no clusters: independent normal numbers.

What `relu` has of real features, measured on 28,760 rows of 512 by `python -m benchmarks compare`:"""

HEADS: Final[Mapping[str, str]] = {
    "blas": """\
## The BLAS setting of each peer

One exact assignment of 16,384 x 2,048 rows to 1,024 centroids (the matrix product dominates), in
GFLOP/s, for each value of `OPENBLAS_CORETYPE`.""",
    "assign": """\
## Assignment

Each of 32,768 x 2,048 `relu` rows to the nearest of 4,096 centroids. `bf16 GEMM` is no assignment: it
multiplies the same matrices in bfloat16 with torch and drops the products; `int8 GEMM` does so in whole
numbers of 8 bits, which clusterfit takes where the CPU has VNNI or AMX. The faster of the two is this machine's own rate.
`no re-check` takes the best of the rounded products; `clusterfit` is the last pass, whose close calls are
decided in float32, rows read from disk; `fp32 forced` is the path of a machine that has neither.
Wanted: at least 1.8 times as fast as the best peer, and 85 % of that rate without the re-check.""",
    "update": """\
## Update

Sums of 65,536 x 512 rows by 1,024 clusters, the assignments given. clusterfit's are exact (float64 on a grid),
so that neither order nor the number of ranks changes them. Wanted: 10 times as fast as faiss' loop.""",
    "fit-2048": """\
## Fit: 65,536 x 2,048, K = 1,024

`relu` features. Wanted: at least 3 times as fast to the target as faiss.Kmeans, 2 times as fast as the best peer.""",
    "fit-512": """\
## Fit: 131,072 x 512, K = 4,096

`relu` features, the same wanted.""",
    "fit-digits": """\
## Fit on real features: 28,760 x 512, K = 1,024

`digits` features.""",
    "fit-gaussian": """\
## Fit without clusters: 32,768 x 512, K = 1,024

`gaussian` features: the case in which nothing can be gained from structure.""",
    "distributed": """\
## Several ranks: 65,536 x 512, K = 1,024

1, 2 and 4 gloo ranks on this machine, in a network namespace of their own; bytes are what the kernel counted
on its loopback interface, for one iteration. A ring of all-reduce moves about 2 (P - 1) K D numbers in all,
whatever N is. The faiss loop is our own re-implementation of the dataflow of its
`demo_distributed_kmeans_torch.py` for CPUs; it also gathers an assignment and a distance for each row.
`all rows to rank 0` counts one transfer of the rows. clusterfit's sums are float64 and every rank gets them, the\nloop's are float32 and only rank 0 does: at this N clusterfit sends more. Its bytes do not grow with N, those of the loop do\n(12 bytes for each row of another rank).""",
    "memory": """\
## Features four times the memory

393,216 x 2,048 float32 features, 3 GiB on disk, K = 2,048, two levels and 2 iterations over all centroids, in a control
group of 0.75 GiB that also counts cached pages of files; pages were dropped before. Wanted: it finishes, within the
limit, in at most 1.3 times the time without a limit.""",
    "gpu": """\
## GPU

1,281,167 x 2,048 `relu` features, K = 16,000, bfloat16, beside flash-kmeans, fastkmeans, chunked cuBLAS and an
emulation of faiss' dataflow: an assignment beside assignments, an iteration beside iterations, a fit beside fits. Rows
are on the GPU before the clock starts where a side takes them there (cuBLAS, flash-kmeans); clusterfit's fit, fastkmeans
and the emulation get them in host memory, and uploading them is in their time. Objectives are computed again in
float64 on the GPU. Wanted: an assignment at 75 % of the rate of `bf16 GEMM`, an iteration and the objective 1.3 times as
fast as flash-kmeans, and the objective of 50 iterations in under 10 s. `make bench CASES=gpu` says why it is skipped
where there is no GPU.""",
    "loading": """\
## Loading images

From the bytes of a JPEG file to the 224 x 224 pixels that a network is given, on one core: what decides how many
`data.loadersPerRank` keep a GPU busy. The files are scikit-learn's two photographs in 500 x 375 pixels. torchvision is
measured both ways: tensors all the way, and Pillow's images, as VISSL loads them. Colours are most of the work of a training view.
clusterfit changes them on the device, a batch at a time, so its loaders do not; what that costs on this core
is a line of its own.""",
}

SCALE: Final = """\
## A billion rows, on paper

Nothing here is measured: `benchmarks/scale.py` computes one full pass (assignment, sums, one all-reduce) for
32 GPUs in 4 nodes, with products at three quarters of 790 TFLOP/s, 3.0 TB/s of memory, 50 GB/s out of each node and
25 GB/s from host memory to each GPU. Sums are float64."""

REMARKS: Final[Mapping[str, str]] = {
    "assign": """\
What was wanted is reached. On a machine with float32 alone (`fp32 forced`) this pass takes longer than faiss', which is given
its rows in memory: reading them, the check of close calls and the audit in float64 come on top of the same
product. It is one pass at the end; fits are faster than faiss' there too (`fp32 forced` in the tables below).""",
    "update": """\
What was wanted is reached beside the loop. `index_add_` is twice as fast as clusterfit: it adds float32 numbers to
float32 sums, half of the bytes, and they are not exact.""",
    "memory": """\
It finishes within the limit, but takes 1.7 times as long, not 1.3: five times (for the range of the numbers, the norms, the
sample that a start is found among, and each iteration) all rows are read from disk and rounded, where without the
limit that is done twice, from the page cache. A start is found among fewer rows, as many as there is room for.""",
    "gpu": """\
What was wanted is reached. An iteration of cuBLAS, clusterfit and flash-kmeans was measured in one round only: in the two
others it was the first use in its process. Fits were not warmed up: the first of them in a process also compiled. Nor are all
sides in all rounds: the machine was there for a quarter of an hour. torch was 2.11 on it, older than clusterfit asks for.
The Triton kernel finds the two best centroids of a row in the time in which what `torch.compile` makes of
`argmax` finds the best. flash-kmeans keeps centroids in bfloat16, which is why it does not get down to the objective.""",
}
"""What stands below a case's table: why something falls short, and what the numbers do not say."""
