"""How fast, how good and how large k-means is, beside its peers, by one harness.

`python -m benchmarks list` says what there is; `make bench` measures it and writes
docs/benchmarks.md. Nothing here is part of the installed package.
"""
