"""What a run may be called: it names a directory, objects of Kubernetes, and labels."""

from __future__ import annotations

import re
from typing import Final

RUN_NAME: Final = r"^[a-z]([-a-z0-9]*[a-z0-9])?$"
RUN_NAME_LENGTH: Final = 40
"""With room for what Kubernetes appends: `-evaluate-worker-31`."""
RUN_NAME_WANTED: Final = (
    "1 to 40 lower-case letters, digits and `-`, a letter first and no `-` last"
)


def is_run_name(text: str) -> bool:
    """Whether a run may have this name."""
    return len(text) <= RUN_NAME_LENGTH and re.fullmatch(RUN_NAME, text) is not None
