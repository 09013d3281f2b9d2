"""The pod through which the claims are reached goes with the command that has started it."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest

from clusterfit.launch.files_pod import run_files_pod

from .object_server import serve_objects
from .test_submit import render


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_no_signal_leaves_it_behind(tmp_path: Path, number: signal.Signals) -> None:
    """Else it would sit there for a day, on the node of whoever has closed a terminal."""
    before = signal.getsignal(number)
    template = json.loads(render().config_map["data"]["files-pod.json"])
    with serve_objects() as (api, objects):
        objects.storage = tmp_path

        def be_ended() -> None:
            with run_files_pod(api, template, "digits", ["python", "-c", "0"], print):
                assert [path for path in objects.by_path if "/pods/" in path]
                os.kill(os.getpid(), number)
                time.sleep(60)  # which is interrupted

        with pytest.raises((SystemExit, KeyboardInterrupt)) as ending:
            be_ended()
        assert not objects.by_path
    assert ending.type is KeyboardInterrupt or ending.value.args == (128 + number,)
    assert signal.getsignal(number) is before
