"""What k-means holds of its centroids, in bytes for each of their K x d numbers.

Counted where an iteration ends, which is when most of it is there at once. A test holds it against
what a fit takes; `plan`, docs/kmeans.md and the model of benchmarks/scale.py use it.
"""

from __future__ import annotations

from typing import Final

DEVICE_BYTES: Final = 24
"""Of the torch engine on its device: two float64 (sums of this rank and of all) and two float32
(centroids and means); one rank alone has no second sums, but two float32 more on their way out."""

HOST_BYTES: Final = 16
"""Of the torch engine in host memory: four float32 (centroids now, before, at the beginning, and
when rows were last compared with all)."""

FAISS_BYTES: Final = 20
"""Of faiss' engine in host memory, five float32: centroids at the beginning and before, and faiss'
own in its clustering, in its index and on their way out."""
