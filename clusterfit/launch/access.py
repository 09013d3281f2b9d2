"""Which cluster and namespace a command means."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Access:
    """What `-n`, `--context` and `--kubeconfig` said; empty: the kubeconfig decides."""

    namespace: str = ""
    context: str = ""
    kubeconfig: str = ""

    def as_options(self) -> str:
        """Return the options that lead another command of ours to the same place."""
        given = (
            ("-n", self.namespace), ("--context", self.context), ("--kubeconfig", self.kubeconfig)
        )  # fmt: skip
        return "".join(f" {option} {value}" for option, value in given if value)
