"""The command line: parse, call, print. Imports stay light, so that `--help` answers at once."""

from clusterfit.cli.app import main

__all__ = ["main"]
