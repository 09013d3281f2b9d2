"""A process whose parent was killed must not go on working behind everybody's back."""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import Final

_POLL_SECONDS: Final = 0.5


def die_with_parent() -> None:
    """Kill this process, without ceremony, soon after its parent has died.

    torchrun's ranks outlive a torchrun that is killed with SIGKILL; so would the entry a killed
    `clusterfit run`. What they might still write is lost like any crash's, and the next attempt
    continues from what is on disk.
    """
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_POLL_SECONDS)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name="parent watch", daemon=True).start()
