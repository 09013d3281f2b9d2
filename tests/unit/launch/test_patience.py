"""When a request is sent again, and after which errors those who wait go on.

By a clock that only the test moves.
"""

from __future__ import annotations

import pytest

from clusterfit.launch.failures import (
    ClusterError,
    DeniedError,
    NoLoginError,
    NotPermittedError,
)
from clusterfit.launch.patience import Forbearance, Patience
from tests.unit.conftest import Clock

AWAY, REFUSED, ANSWER = ClusterError("no cluster"), NotPermittedError("refused (403)"), None
DENIED = DeniedError('admission webhook "x" denied the request')


@pytest.mark.parametrize(
    ("heard", "goes_on"),
    [
        pytest.param([(0, REFUSED)], False, id="refused from the first"),
        pytest.param([(0, AWAY), (9, REFUSED)], True, id="it comes back"),
        pytest.param([(0, AWAY), (90, REFUSED), (121, REFUSED)], False, id="back, for good"),
        pytest.param([(0, ANSWER), (90, REFUSED), (119, REFUSED)], True, id="for a moment"),
        pytest.param([(0, ANSWER), (90, REFUSED), (121, REFUSED)], False, id="from then on"),
        pytest.param([(0, ANSWER), (90, DENIED), (121, DENIED)], False, id="by admission"),
        pytest.param(
            [(0, ANSWER), (1, REFUSED), (20, ANSWER), (40, REFUSED)], True, id="at times"
        ),
        pytest.param(
            [(0, ANSWER), (1, REFUSED), (20, AWAY), (90, REFUSED)], True, id="away again"
        ),
    ],
)  # fmt: skip
def test_what_was_allowed_may_be_refused_for_half_a_minute(
    heard: list[tuple[float, ClusterError | None]], goes_on: bool, clock: Clock
) -> None:
    forbearance = Forbearance()
    borne = []
    for clock.now, error in heard:
        if error is None:
            forbearance.allow()
        else:
            borne.append(forbearance.bears(error))
    assert borne == [True] * (len(borne) - 1) + [goes_on]


@pytest.mark.parametrize(
    ("status", "error"), [(401, None), (401, REFUSED), (403, NoLoginError("refused (403)"))]
)
def test_who_is_refused_logs_in_again_once(status: int, error: ClusterError | None) -> None:
    logins: list[int] = []
    patience = Patience(lambda: logins.append(1))
    assert patience.covers(status, error)
    assert patience.pause == 0
    assert not patience.covers(status, error)
    assert logins == [1]


def test_who_may_not_do_something_does_not_log_in_again() -> None:
    patience = Patience(lambda: pytest.fail("it has logged in"))
    assert not patience.covers(403, REFUSED)
