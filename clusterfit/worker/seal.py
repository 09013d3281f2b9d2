"""Files that end with the sha256 of what comes before it, so that every wrong bit is seen.

The formats inside check less: safetensors has no checksum, and of a zip archive, which torch.save
writes, the headers have none.
"""

from __future__ import annotations

import hashlib
from typing import Final

_SEAL_BYTES: Final = hashlib.sha256().digest_size


def compute_seal(content: bytes | memoryview) -> bytes:
    """Return the bytes to write behind `content`."""
    return hashlib.sha256(content).digest()


def unseal(sealed: bytes) -> bytes | None:
    """Return the content of a sealed file, None where it is not what was written."""
    content, seal = sealed[:-_SEAL_BYTES], sealed[-_SEAL_BYTES:]
    return content if compute_seal(content) == seal else None
