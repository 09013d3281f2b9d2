"""What a stage program is given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from clusterfit.artifacts.layout import RunDirectory
from clusterfit.artifacts.owner import Writer
from clusterfit.config.tree import Algorithm
from clusterfit.worker.arguments import Assignment
from clusterfit.worker.distenv import DistEnv
from clusterfit.worker.log import Log


@dataclass(frozen=True, slots=True)
class Context:
    """One rank's assignment, its place in the gang, its voice and its right to write."""

    assignment: Assignment
    env: DistEnv
    log: Log
    writer: Writer

    @property
    def config(self) -> Algorithm:
        """The run's algorithm."""
        return self.assignment.config

    @property
    def run(self) -> RunDirectory:
        """The run directory."""
        return self.assignment.run

    @property
    def guard(self) -> Callable[[], None]:
        """What a write asks before it renames."""
        return self.writer.check
