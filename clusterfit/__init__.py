"""ClusterFit (arXiv:1912.03330) on Kubernetes, and on a laptop, from one run file."""

__version__ = "0.1.0"
