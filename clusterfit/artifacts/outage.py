"""Telling a file that is at fault from storage that is."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Final

from clusterfit.errors import RetryableError

_OF_ONE_PATH: Final = frozenset(
    {
        errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EPERM, errno.ELOOP,
        errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ,
    }
)  # fmt: skip
"""What a path itself is to blame for; everything else (a stale handle, a lost server, an input or
output error, no memory, no descriptors) would be said of any path."""


def is_outage(error: OSError) -> bool:
    """Tell whether the storage failed, so that the same file may be read at another time."""
    return error.errno is not None and error.errno not in _OF_ONE_PATH


def check_storage(path: Path, error: OSError) -> None:
    """Raise RetryableError where the storage failed: what it holds may be good, and is kept."""
    if is_outage(error):
        raise RetryableError(f"{path}: {error.strerror}; the storage is not available") from error
