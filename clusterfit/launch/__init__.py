"""Towards a cluster: render the chart, submit it, follow what becomes of it. Torch-free."""
