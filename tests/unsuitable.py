"""What becomes of tests that this computer cannot run."""

from __future__ import annotations

import os
from typing import NoReturn

import pytest


def give_up(reason: object) -> NoReturn:
    """Skip the test; in CI, where nobody reads what was skipped, fail it."""
    if os.environ.get("CI"):
        pytest.fail(str(reason), pytrace=False)
    pytest.skip(str(reason))
