"""Telling storage that fails from what no other attempt would mend."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Final

from clusterfit.errors import RetryableError

_PERMANENT: Final = frozenset(
    {
        errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.EACCES, errno.EPERM,
        errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ,
        errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS,
        errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP,
    }
)  # fmt: skip
"""What a path itself is to blame for, no room for what is written, and what the storage never does;
everything else (a stale handle, a lost server, an input or output error, no memory, no descriptors)
passes."""


def is_outage(error: OSError) -> bool:
    """Tell whether the storage failed, so that the same may succeed at another time."""
    return error.errno is not None and error.errno not in _PERMANENT


def check_storage(path: Path, error: OSError) -> None:
    """Raise RetryableError where the storage failed: what it holds may be good, and is kept."""
    if is_outage(error):
        raise RetryableError(f"{path}: {error.strerror}; the storage is not available") from error
