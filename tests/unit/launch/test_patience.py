"""After which errors those who wait go on, by a clock that only the test moves."""

from __future__ import annotations

import pytest

from clusterfit.launch.failures import ClusterError, DeniedError, NotPermittedError
from clusterfit.launch.patience import Forbearance
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
