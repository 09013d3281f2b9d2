"""How many SVMs are fitted at once."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from clusterfit.worker.context import Context
from clusterfit.worker.distenv import DistEnv
from clusterfit.worker.probes import multi_label, svm


@pytest.mark.parametrize(
    ("num_bytes", "num_threads"),
    [
        (10**12, 6),
        # 50 rows of 3 in float64, train and val, and two fits of 24 bytes a number.
        (2 * 150 * 8 + 2 * 150 * 24, 2),
        (2 * 150 * 8 + 2 * 150 * 24 - 1, 1),
        (0, 1),
    ],
)
def test_as_many_are_fitted_at_once_as_memory_has_room_for(
    context: Context,
    env: DistEnv,
    monkeypatch: pytest.MonkeyPatch,
    num_bytes: int,
    num_threads: int,
) -> None:
    asked: list[int] = []

    def judge(*given: Any) -> list[svm.ClassResult]:
        *_, threads, _check = given
        asked.append(threads)
        return [svm.ClassResult(1.0, 1.0, True)]

    monkeypatch.setattr(svm, "judge_classes", judge)
    monkeypatch.setattr(multi_label, "find_available_bytes", lambda _: (num_bytes, "a test"))
    monkeypatch.setattr(DistEnv, "threads_per_rank", property(lambda _: 6))
    rows, labels = np.zeros((50, 3), np.float32), np.ones((50, 1), np.int64)
    alone = replace(context, env=env)
    multi_label.judge_layer(alone, "res5avg", (rows, rows), (labels, labels), "key")
    assert asked == [num_threads]
