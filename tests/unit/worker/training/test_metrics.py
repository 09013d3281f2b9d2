"""metrics.jsonl holds each epoch once, in full; the log tells it in few digits."""

from __future__ import annotations

import json

import pytest

from clusterfit.logline import parse_line
from clusterfit.worker.context import Context
from clusterfit.worker.training.metrics import Metrics

FIRST = {"epoch": 1, "step": 4, "loss": 2.123456789, "accuracy": 0.1, "learning_rate": 0.1}
SECOND = {"epoch": 2, "step": 8, "loss": 1.0 / 3, "held_out_accuracy": 0.25}


def test_each_epoch_is_written_in_full_and_told_in_few_digits(
    context: Context, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = context.run.stage("train")
    metrics = Metrics(context, folder)
    metrics.add(FIRST)
    told = parse_line(capsys.readouterr().out)
    assert told is not None
    assert (told["msg"], told["epoch"], told["loss"]) == ("epoch", "1", "2.123")
    metrics.add(SECOND)
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == [FIRST, SECOND]
    assert metrics.describe_final() == {"loss": 0.3333, "held_out_accuracy": 0.25}


def test_an_epoch_that_is_repeated_after_a_kill_stands_there_once(context: Context) -> None:
    folder = context.run.stage("train")
    killed = Metrics(context, folder)
    killed.add(FIRST)
    killed.add(SECOND)  # after its last checkpoint
    resumed = Metrics(context, folder)
    resumed.lines = [FIRST]
    resumed.add(SECOND)
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == [FIRST, SECOND]
