"""Towards a cluster or this machine: starts workers and reads their lines, imports none of them."""
