"""`clusterfit logs` as it is typed: which ranks, how many lines of them, and whose they are."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partialmethod
from pathlib import Path
from typing import Any

import pytest
from rich.progress import Progress

from clusterfit.cli.cluster import open_api
from clusterfit.cli.logs import follow_run, follow_stages
from clusterfit.config.tree import RunFile
from clusterfit.launch.api import JOBS, PODS, PYTORCHJOBS, Api
from clusterfit.launch.failures import NotFoundError, NotPermittedError
from clusterfit.launch.helm import HelmLibrary
from clusterfit.launch.logs import Line, Wanted
from clusterfit.launch.plan import read_release
from clusterfit.launch.render import render_run
from tests.unit.cli.conftest import DIGITS, RunCommand
from tests.unit.launch.object_server import Objects, worker_pod, write_stamp

NOW = datetime.now(UTC)


def say(rank: int, age_seconds: int) -> str:
    """Return a line of a rank, as it was said so long ago."""
    stamp = write_stamp(NOW - timedelta(seconds=age_seconds))
    return f"ts={stamp} level=info stage=extract rank={rank} msg={age_seconds}"


AGES = (9000, 8000, 7000, 20, 10)
ERASED_LINE_ABOVE = "\x1b[1A\x1b[2K"
NCCL = "NCCL INFO nothing that a rank said"


@pytest.fixture
def digits(submitted: Objects) -> Objects:
    """A run of two nodes of two ranks each, which has said five lines a rank, and ended."""
    release = read_release(submitted.find_config_map())
    extract = release.plan.stages[0]
    done = {"status": {"conditions": [{"type": "Succeeded", "status": "True"}]}}
    submitted.put(PYTORCHJOBS, submitted.get(PYTORCHJOBS, extract.name) | done)
    for node, name in enumerate(extract.pods):
        submitted.put(PODS, worker_pod(extract, name, node=node, code=0))
        lines = [say(rank, age) for age in AGES for rank in (2 * node, 2 * node + 1)]
        submitted.logs[name] = [f"{line[3:27]} {line}" for line in lines]
        submitted.logs[name].append(f"{write_stamp(NOW)} {NCCL}")
    return submitted


def test_a_rank_is_shown_with_what_its_pod_says_besides(
    digits: Objects, run_command: RunCommand
) -> None:
    assert digits.logs
    for options, rank in (((), 0), (("--rank", "3"), 3)):
        shown = run_command("logs", "digits", "extract", *options).out.splitlines()
        assert shown == [*(say(rank, age) for age in AGES), NCCL]


def test_a_pod_that_its_node_has_refused_has_no_log(
    digits: Objects, run_command: RunCommand
) -> None:
    refused = {"phase": "Failed", "reason": "OutOfcpu", "message": "Node has no room"}
    digits.get(PODS, "digits-extract-worker-1")["status"] = refused
    answer = run_command("logs", "digits", "extract", "--all-ranks")
    assert answer.code == 0
    shown = [*(say(rank, age) for age in AGES for rank in (0, 1)), f"[node 0] {NCCL}"]
    assert answer.out.splitlines() == shown
    assert answer.err == "digits-extract-worker-1 has not started; OutOfcpu: Node has no room\n"


def test_the_newest_lines_are_counted_rank_by_rank(
    digits: Objects, run_command: RunCommand
) -> None:
    assert digits.logs
    for rank in range(4):
        options = ("--rank", str(rank), "--tail", "3")
        shown = run_command("logs", "digits", "extract", *options).out.splitlines()
        assert shown == [say(rank, 20), say(rank, 10), NCCL]


def test_of_several_pods_each_shows_its_newest_lines_and_says_what_no_rank_did(
    digits: Objects, run_command: RunCommand
) -> None:
    assert digits.logs
    shown = run_command("logs", "digits", "extract", "--all-ranks", "--tail=2").out.splitlines()
    assert shown == [say(1, 10), f"[node 0] {NCCL}", say(3, 10), f"[node 1] {NCCL}"]


def test_the_newest_seconds(digits: Objects, run_command: RunCommand) -> None:
    assert digits.logs
    shown = run_command("logs", "digits", "extract", "--since", "3600").out.splitlines()
    assert shown == [say(0, 20), say(0, 10), NCCL]
    shown = run_command("logs", "digits", "extract", "--since=7500", "--tail=3").out.splitlines()
    assert shown == [say(0, 20), say(0, 10), NCCL]
    shown = run_command("logs", "digits", "extract", "--since=3600", "--all-ranks").out.splitlines()
    assert len(shown) == 2 * (2 * 2 + 1)


def test_copies_are_read_by_the_same_options(
    digits: Objects, run_command: RunCommand, tmp_path: Path
) -> None:
    for path in [path for path in digits.by_path if "/pods/" in path]:
        del digits.by_path[path]
    folder = tmp_path / "claim" / "digits" / "logs" / "extract" / "attempt-1"
    folder.mkdir(parents=True)
    for rank in range(4):
        lines = "".join(f"{say(rank, age)}\n" for age in AGES)
        (folder / f"rank-{rank:05d}.log").write_text(lines)
    digits.storage = tmp_path / "claim"

    def show(*options: str) -> list[str]:
        answer = run_command("logs", "digits", "extract", *options)
        assert "no pods are left; reading the copies on the claim" in answer.err
        return answer.out.splitlines()

    assert show("--rank=1", "--tail=3") == [say(1, age) for age in AGES[-3:]]
    assert show("--rank=1", "--since=3600") == [say(1, 20), say(1, 10)]
    assert show("--rank=1", "--since=3600", "--tail=1") == [say(1, 10)]
    assert show("--all-ranks", "--tail=1") == [say(1, 10), say(3, 10)]
    assert len(show("--all-ranks", "--since=3600")) == 4 * 2
    assert show("--rank=1", "--since=5") == []


def test_a_follow_of_a_rank_that_the_next_stage_lacks_goes_on(
    digits: Objects, capsys: pytest.CaptureFixture[str]
) -> None:
    """Clustering takes one node where the other stages have many."""
    release = read_release(digits.find_config_map())
    extract, cluster = ((release, stage) for stage in release.plan.stages)
    api, _ = open_api("", "", "")
    assert follow_stages(api, [extract, cluster], Wanted((3,))) == 0
    said = capsys.readouterr()
    assert said.err == "cluster: has no rank 3, but 0 to 1\n"
    assert said.out.splitlines() == [*(say(3, age) for age in AGES), NCCL]
    with pytest.raises(NotFoundError, match="rank 3: stage cluster has ranks 0 to 1"):
        follow_stages(api, [cluster], Wanted((3,)))


def test_a_follow_begins_after_a_stage_that_failed_before_others_went_on_without_it(
    digits: Objects, run_command: RunCommand
) -> None:
    """The weights may come from a path."""
    cluster = read_release(digits.find_config_map()).plan.stages[1]
    values = DIGITS | {"stages": ["pretext"]}
    rendered = render_run(HelmLibrary(), RunFile.model_validate_json(json.dumps(values)), "team")
    digits.install(rendered.manifests)
    for resource, name, condition in (
        (PYTORCHJOBS, "digits-pretext", "Failed"),
        (JOBS, "digits-cluster", "Complete"),
    ):
        done = {"status": {"conditions": [{"type": condition, "status": "True"}]}}
        digits.put(resource, digits.get(resource, name) | done)
    digits.put(PODS, worker_pod(cluster, "digits-cluster-a", code=0))
    digits.logs["digits-cluster-a"] = [f"{write_stamp(NOW)} clustered"]
    answer = run_command("logs", "digits", "--follow")
    assert (answer.code, answer.out) == (0, "clustered\n")


def test_a_server_that_is_away_as_a_stage_ends_is_waited_for(
    digits: Objects, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In client mode nothing would release the next stage."""
    monkeypatch.setattr("clusterfit.launch.patience._PATIENCE_SECONDS", 0)
    monkeypatch.setattr("clusterfit.launch.patience._POLL_SECONDS", 0)

    def follow(*_: Any) -> Iterator[Line]:
        digits.trouble.append(503)
        return iter(())

    monkeypatch.setattr("clusterfit.launch.log_follow.follow_stage", follow)
    release = read_release(digits.find_config_map())
    api, _ = open_api("", "", "")
    succeeded = {"conditions": [{"type": "Succeeded", "status": "True"}]}
    digits.get(PYTORCHJOBS, "digits-extract")["status"] = succeeded
    assert follow_stages(api, [(release, release.plan.stages[0])], Wanted(())) == 0
    assert "the cluster answered 503" in capsys.readouterr().err


def test_a_follow_of_what_waits_for_a_stage_that_is_gone_is_one_line(
    submitted: Objects, run_command: RunCommand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clusterfit.launch.log_follow.INSTALL_SECONDS", 0)
    submitted.remove(PYTORCHJOBS, "digits-extract")
    answer = run_command("logs", "digits", "cluster", "--follow")
    assert (answer.code, answer.out) == (3, "")
    assert answer.err == (
        "error: extract: PyTorchJob digits-extract was removed before anybody here saw how it "
        "ended, so nothing follows it; what it wrote is on the claim\n"
    )


def test_a_follow_of_what_waits_for_a_cancelled_stage_is_one_line(
    submitted: Objects, run_command: RunCommand
) -> None:
    assert submitted.by_path
    run_command("cancel", "digits")
    answer = run_command("logs", "digits", "cluster", "--follow")
    assert (answer.code, answer.out) == (1, "")
    assert answer.err == (
        "cluster will not start: extract was stopped, and goes on only after `clusterfit resume "
        "digits -n team`\n"
    )


@pytest.mark.parametrize(
    ("is_terminal", "environment"),
    [
        (True, {}),
        (False, {}),
        (False, {"FORCE_COLOR": "1"}),
        (False, {"TTY_COMPATIBLE": "1", "TTY_INTERACTIVE": "1"}),
        (True, {"TERM": "dumb"}),
    ],
)
@pytest.mark.parametrize("command", ["logs digits extract -f", "submit step1 -f run.yaml --follow"])
def test_on_a_terminal_progress_is_one_bar(
    command: str,
    is_terminal: bool,
    environment: dict[str, str],
    digits: Objects,
    run_command: RunCommand,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"TERM": "xterm", "COLUMNS": "100", **environment}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: is_terminal)
    # At once, and not within a tenth of a second, when it may be over.
    monkeypatch.setattr(Progress, "update", partialmethod(Progress.update, refresh=True))
    (tmp_path / "run.yaml").write_text(json.dumps(DIGITS))
    failed = {"status": {"conditions": [{"type": "Failed", "status": "True"}]}}
    digits.put(PYTORCHJOBS, digits.get(PYTORCHJOBS, "digits-extract") | failed)
    head = f"ts={write_stamp(NOW)} level=info stage=extract rank=0 msg=progress unit=images"
    lines = [f"{head} done={done} total=3 rate=1 eta_seconds={3 - done}" for done in (1, 2)]
    lines.append(f"ts={write_stamp(NOW)} level=error stage=extract rank=0 msg=disk")
    digits.logs["digits-extract-worker-0"] = [f"{line[3:27]} {line}" for line in lines]
    answer = run_command(*command.split())
    assert answer.code == 1
    if not is_terminal or environment:
        assert answer.out.splitlines()[-3:] == lines
        return
    assert "msg=progress" not in answer.out
    assert "error: disk (rank 0)\n" in answer.out
    assert "2/3 images  1/s  0:01 left" in answer.out
    assert ERASED_LINE_ABOVE not in answer.out, "there is more than one bar"
    assert re.search(r"extract .*  exit 1\n", answer.out)


@pytest.mark.parametrize("submitted", [{"sequencing": {"mode": "client"}}], indirect=True)
def test_a_follow_that_may_not_release_the_next_stage_says_so_and_ends(
    digits: Objects, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nobody else would release it."""

    def refuse(*_: Any) -> Any:
        raise NotPermittedError("change jobs.batch digits-cluster: refused (403)")

    monkeypatch.setattr(Api, "patch", refuse)
    monkeypatch.setattr("clusterfit.launch.patience._REFUSED_SECONDS", 0)
    monkeypatch.setattr("clusterfit.launch.log_follow._POLL_SECONDS", 0.01)

    def lose_patience(_method: str, _path: str) -> None:
        if len(digits.requests) > 1000:
            done = {"status": {"conditions": [{"type": "Complete", "status": "True"}]}}
            digits.put(JOBS, digits.get(JOBS, "digits-cluster") | done)

    digits.look_on = lose_patience
    name = read_release(digits.find_config_map()).plan.release
    api, access = open_api("", "", "")
    with pytest.raises(NotPermittedError, match=r"digits-cluster: refused"):
        follow_run(api, access, "digits", name)
    assert len(digits.requests) <= 1000, "it has waited for what nobody will release"
    assert say(0, 10) in capsys.readouterr().out.splitlines()
