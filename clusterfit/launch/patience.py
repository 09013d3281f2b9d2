"""When a request to the API server is sent again, and until when."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, TypeVar

from clusterfit.launch.failures import (
    ClusterError,
    DeniedError,
    NoLoginError,
    NotFoundError,
    NotPermittedError,
)

T = TypeVar("T")

_PATIENCE_SECONDS: Final = 20.0
"""How long a single request is tried again. Those who wait for minutes try whole rounds again."""
_REFUSED_SECONDS: Final = 30.0
"""How long those who wait bear being refused what was allowed."""
_POLL_SECONDS: Final = 1.0
_BUSY: Final = frozenset({429, 500, 502, 503, 504})


def persist(question: Callable[[], T], say: Callable[[str], None]) -> T:
    """Return the answer to a question of whoever waits for minutes, as the server may be away.

    Args:
        question: One or more requests that change nothing.
        say: Is told each new reason to ask again.

    Raises:
        NotFoundError: What is asked for is not there.
        NotPermittedError: It is refused, and that not by a server that has just come back.
        DeniedError: A releaser was refused by admission what it does meanwhile.
    """
    forbearance = Forbearance()
    said = ""
    while True:
        try:
            return question()
        except NotFoundError:
            raise
        except ClusterError as error:
            if not forbearance.bears(error):
                raise
            why = str(error)
        if why != said:
            say(why)
        said = why
        time.sleep(_POLL_SECONDS)


class Forbearance:
    """Whether those who wait go on after an error.

    A server that is away comes back; one that has just come back refuses for a moment what it
    allows, as its roles and tokens are not read yet. Who is refused from the first is not waited
    for.
    """

    def __init__(self, *, was_allowed: bool = False) -> None:
        """Begin before the first answer, or after one."""
        self._was_allowed = was_allowed
        self._refused_since: float | None = None

    def allow(self) -> None:
        """Take note of an answer."""
        self._was_allowed, self._refused_since = True, None

    def bears(self, error: Exception) -> bool:
        """Take note of an error, and return whether to go on after it."""
        if not isinstance(error, (DeniedError, NotPermittedError)):
            self.allow()  # it is away, and whatever it says next is of one that has come back
            return True
        now = time.monotonic()
        if self._refused_since is None:
            self._refused_since = now
        return self._was_allowed and now - self._refused_since <= _REFUSED_SECONDS


class Patience:
    """How long one request is tried again, and after which answers."""

    def __init__(self, log_in_again: Callable[[], None]) -> None:
        """Begin to wait; logging in again is tried once."""
        self.pause = 0.2
        """Seconds until the next attempt."""
        self._log_in_again = log_in_again
        self._deadline = time.monotonic() + _PATIENCE_SECONDS
        self._has_logged_in = False

    @property
    def is_over(self) -> bool:
        """Whether it has lasted long enough."""
        return time.monotonic() > self._deadline

    def covers(self, status: int, error: ClusterError | None = None) -> bool:
        """Whether the request may be sent again after this answer, which did not carry it out.

        Args:
            status: The HTTP status.
            error: What the answer means, which tells a 403 for want of credentials from others.
        """
        needs_login = status == 401 or isinstance(error, NoLoginError)
        if needs_login and not self._has_logged_in:
            # Certificates and tokens of a kubeconfig are renewed behind our back.
            self._log_in_again()
            self._has_logged_in, self.pause = True, 0.0
            return True
        return status in _BUSY and not self.is_over

    def wait(self) -> None:
        """Let some time pass, each time more."""
        time.sleep(min(self.pause, max(0.0, self._deadline - time.monotonic())))
        self.pause = min(max(0.2, self.pause * 2), 5.0)
