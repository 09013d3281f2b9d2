"""Every way a command or a stage can end, each with its exit code.

::

    ClusterfitError
    ├── ConfigError         64  the run file, an option or a combination of them is wrong
    ├── InvalidDataError    65  data or an artifact is there but cannot be used
    ├── MissingInputError   66  data or an artifact is not there
    ├── NoProgressError     70  three attempts in a row moved nothing forward
    ├── WriteError          73  the run directory cannot be written
    ├── RetryableError     203  worth another attempt: a lost peer, a GPU that is not there
    │   └── KilledError    137  a process of ours was killed, often for want of memory
    └── TerminatedError    143  SIGTERM was obeyed; the next attempt continues

The codes below 128 follow BSD's sysexits and are permanent: the training operator and a Job's
podFailurePolicy give up on them. Everything from 128 up is tried again, so an unknown failure must
never be reported with a smaller code.
"""

from __future__ import annotations

from typing import Final

PERMANENT_EXIT_CODES: Final = frozenset({64, 65, 66, 70, 73})
"""Codes after which another attempt would end the same way."""

RETRYABLE_EXIT_CODE: Final = 203
"""128 + EX_TEMPFAIL (75): the code of every failure that nothing says is permanent."""

TERMINATED_EXIT_CODE: Final = 143
"""128 + SIGTERM."""

KILLED_EXIT_CODE: Final = 137
"""128 + SIGKILL: what the kernel sends where memory has run out."""

EXIT_CODE_MEANINGS: Final[dict[int, str]] = {
    0: "done",
    64: "the run file or an option is wrong",
    65: "data or an artifact is invalid",
    66: "an input is missing",
    70: "three attempts made no progress",
    73: "the run directory cannot be written",
    137: "killed (SIGKILL), often for want of memory",
    143: "stopped (SIGTERM); the next attempt continues",
    203: "failed in a way that another attempt may mend",
}
"""One line a code, for status, logs and documentation."""


class ClusterfitError(Exception):
    """A failure that one line explains: what was wrong, what is wanted, how to fix it."""

    exit_code: int = RETRYABLE_EXIT_CODE

    def __init__(self, *faults: str) -> None:
        """Keep one line a fault; several faults of one file are reported together."""
        super().__init__("\n".join(faults))
        self.faults = faults


class ConfigError(ClusterfitError):
    """The run file, an option, or a combination of settings is wrong."""

    exit_code = 64


class InvalidDataError(ClusterfitError):
    """Data or an artifact is there, but it is damaged, mismatched or unusable."""

    exit_code = 65


class MissingInputError(ClusterfitError):
    """Data, weights or an earlier stage's artifact is not there."""

    exit_code = 66


class NoProgressError(ClusterfitError):
    """Three attempts in a row ended without moving the stage forward."""

    exit_code = 70


class WriteError(ClusterfitError):
    """The run directory cannot be written: disk full, no permission, another live writer."""

    exit_code = 73


class RetryableError(ClusterfitError):
    """Another attempt may mend it: a lost peer, a GPU that was asked for and is not there."""


class KilledError(RetryableError):
    """The kernel, or somebody, has killed a process of ours."""

    exit_code = KILLED_EXIT_CODE


class TerminatedError(ClusterfitError):
    """SIGTERM was obeyed at a step boundary, after a checkpoint."""

    exit_code = TERMINATED_EXIT_CODE


def combine_exit_codes(exit_codes: list[int]) -> int:
    """Return the one code that a gang of processes ends with.

    A permanent code in any of them wins, because the others die of its consequences with codes of
    their own; then SIGTERM, then 203 for anything else. Negative codes are signals, as
    `subprocess` reports them.
    """
    permanent = [code for code in exit_codes if code in PERMANENT_EXIT_CODES]
    if permanent:
        return min(permanent)
    if not any(exit_codes):
        return 0
    failed = {code for code in exit_codes if code}
    if failed <= {TERMINATED_EXIT_CODE, -15}:
        return TERMINATED_EXIT_CODE
    return RETRYABLE_EXIT_CODE
