"""Where node 0 answers, which is not always where its name leads.

A pod that was made anew has another address, while name servers go on telling the old one for as
long as they keep answers. A connection to an address where nobody is left is given up by the kernel
after two minutes, and torch's store waits ever longer between its own attempts.
"""

from __future__ import annotations

import socket
import time
from typing import Final

from clusterfit.errors import RetryableError

_CONNECT_SECONDS: Final = 3.0
_PAUSE_SECONDS: Final = 0.2


def find_address(
    host: str, port: int, seconds: float, connect_seconds: float = _CONNECT_SECONDS
) -> str:
    """Return the numeric address at which a host accepts connections, once it does.

    Its name is resolved anew for each attempt.

    Args:
        host: Name or address.
        port: Where it will listen.
        seconds: How long to wait for it.
        connect_seconds: How long one attempt may take.

    Raises:
        RetryableError: It did not in that time.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            with socket.create_connection((host, port), connect_seconds) as connection:
                address: str = connection.getpeername()[0]
                return address
        except OSError as error:
            if time.monotonic() > deadline:
                raise RetryableError(f"node 0 was not there: {host}:{port}: {error}") from error
        time.sleep(_PAUSE_SECONDS)
