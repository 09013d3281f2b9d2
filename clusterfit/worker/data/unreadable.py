"""Images that cannot be read: which they are, and how many are too many."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from clusterfit.config.sections.inputs import Data
from clusterfit.errors import InvalidDataError
from clusterfit.worker.log import Log

EXCLUDED_NAME: Final = "excluded.txt"
"""Of the file that names those of a finished stage."""

Unreadable = Mapping[int, str]
"""Sample index -> why."""


def check_unreadable(
    data: Data, partition: str, paths: Sequence[str], unreadable: Unreadable, at_least: str = ""
) -> None:
    """Refuse more unreadable images than the run file allows.

    Args:
        data: with the fraction that it allows.
        partition: whose images.
        paths: of all its images, in the data set's order.
        unreadable: those that are known by now.
        at_least: what stands before their number where more may follow: `at least `.

    Raises:
        InvalidDataError: there are more; it names one.
    """
    limit = data.max_unreadable_fraction
    if len(unreadable) > limit * len(paths):
        index, why = min(unreadable.items())
        raise InvalidDataError(
            f"data.{partition}: {at_least}{len(unreadable)} of {len(paths)} images cannot be read, "
            f"more than data.maxUnreadableFraction ({limit:g}); one is {paths[index]}: {why}"
        )


def tell_unreadable(log: Log, partition: str, paths: Sequence[str], unreadable: Unreadable) -> None:
    """Warn that images are left out, where there are any."""
    if unreadable:
        index, why = min(unreadable.items())
        log.warning(
            "unreadable images are left out",
            partition=partition,
            num_excluded=len(unreadable),
            num_samples=len(paths),
            one=paths[index],
            why=why,
        )


def format_unreadable(paths: Sequence[str], unreadable: Unreadable) -> str:
    """Return a line for each: its path, a tab, and why."""
    return "".join(f"{paths[index]}\t{why}\n" for index, why in sorted(unreadable.items()))
