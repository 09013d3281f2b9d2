"""Extract and evaluate, struck in the midst of their work, keep what they have done by then."""

from __future__ import annotations

import re
import signal
from pathlib import Path
from typing import Any

import pytest

from clusterfit.artifacts.files import compute_sha256

from .door import Bench, list_files

pytestmark = pytest.mark.campaign

NUM_RANKS = 2
CHANGES: dict[str, dict[str, Any]] = {
    "extract": {"extract.weights": {"from": "random"}},
    "evaluate": {
        "evaluate.backbones": [
            {"label": label, "from": "random", "model": "resnet8_small"} for label in ("one", "two")
        ]
    },
}
# A rank that has written its first file of a kind stays there, until it is told to stop.
STAY = """
import os, signal, time
from pathlib import Path
from clusterfit.artifacts import files, part


def is_asked_to_stop():
    handler = signal.getsignal(signal.SIGTERM)
    return getattr(getattr(handler, "__self__", None), "is_set", False)


def staying(write):
    def write_and_stay(path, *arguments):
        written = write(path, *arguments)
        if "RANK" in os.environ and any(word in str(path) for word in ("/part-", "/judged/")):
            Path(os.environ["HELD"], os.environ["RANK"]).touch()
            while not is_asked_to_stop():
                time.sleep(0.05)
        return written

    return write_and_stay


part.write_part, files.write_json = staying(part.write_part), staying(files.write_json)
"""


@pytest.mark.parametrize("stage", CHANGES)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_what_is_done_is_not_done_again(
    bench: Bench, tmp_path: Path, stage: str, number: signal.Signals
) -> None:
    calm, struck = (
        bench.changed({"name": name, "stages": [stage], **CHANGES[stage]})
        for name in ("calm", "struck")
    )
    calm.succeed(stage, NUM_RANKS)
    (tmp_path / "sitecustomize.py").write_text(STAY, encoding="utf-8")
    (tmp_path / "held").mkdir()
    hook = {"PYTHONPATH": str(tmp_path), "HELD": str(tmp_path / "held")}
    process = struck.start(stage, NUM_RANKS, **hook)
    num_held = NUM_RANKS if stage == "extract" else 1  # rank 0 alone keeps what was judged
    held = tmp_path / "held"
    assert process.wait_until(lambda: len(list(held.iterdir())) == num_held), process.text
    if number == signal.SIGKILL:
        process.kill()
    else:
        process.send(number)
    assert process.wait().code == 128 + number, process.text

    done = list_files(struck.run.stage(stage))
    assert len(done) == num_held, done
    again = struck.succeed(stage, NUM_RANKS)
    if stage == "extract":
        now = list_files(struck.run.stage(stage))
        assert {name: now[name] for name in done} == done, "written a second time"
    else:
        assert re.findall(r'msg="already judged" label=(\S+)', again.text) == ["one"]
        assert re.findall(r"msg=result label=(\S+)", again.text) == ["one", "two"]
    for path in calm.run.stage(stage).rglob("*"):
        if path.suffix in (".safetensors", ".json") and path.name != "manifest.json":
            ours = struck.run.stage(stage) / path.relative_to(calm.run.stage(stage))
            assert compute_sha256(ours) == compute_sha256(path), path.name
    assert struck.artifacts("verify").code == 0
