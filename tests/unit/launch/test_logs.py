"""A follow ends where nothing more will be said, and says once what all pods have in common."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from clusterfit.launch.api import EVENTS, JOBS, PODS, PYTORCHJOBS, Api, LogBrokenError
from clusterfit.launch.control import cancel_run, suspend_run
from clusterfit.launch.failures import ClusterError, NotFoundError, NotPermittedError
from clusterfit.launch.jobs import CANCELLED, HELD_QUEUE, QUEUE_LABEL, SUPERVISOR, suspend_stage
from clusterfit.launch.log_follow import follow_stage
from clusterfit.launch.logs import Line, Wanted, choose_stage, read_previous, read_stage
from clusterfit.launch.plan import Plan, PlannedStage, Release
from clusterfit.launch.sequence import INSTALL_SECONDS

from .object_server import Objects, serve_objects, worker_pod, write_stamp
from .test_sequence import START, job, make_plan, planned, put_workload, run_pods

EXTRACT, CLUSTER, TRAIN = planned("extract"), planned("cluster"), planned("train")
PLAN = make_plan(EXTRACT, CLUSTER, TRAIN)
FILES_POD: Any = {"metadata": {}, "spec": {"containers": [{"volumeMounts": []}], "volumes": []}}
RELEASE = Release(PLAN, "", "", FILES_POD, is_helm=True)


def ended(condition: str) -> Any:
    return {"conditions": [{"type": condition, "status": "True"}]}


def say_at(second: int, text: str, rank: int = 0) -> str:
    """Return what a rank says at a moment."""
    return f"ts=2026-11-23T12:00:{second:02}.000Z level=info stage=cluster rank={rank} msg={text}"


def log_of(*lines: str) -> list[str]:
    """Return lines of ranks as the kubelet keeps them."""
    return [f"{line[3:27]} {line}" for line in lines]


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Api, Objects]]:
    """Train is held while extract runs; where it is waited for too long, it has succeeded."""
    monkeypatch.setattr("clusterfit.launch.log_follow._POLL_SECONDS", 0.01)
    with serve_objects() as (api, objects):
        objects.put(PYTORCHJOBS, job(EXTRACT, suspend=False))
        objects.put(JOBS, job(CLUSTER, suspend=True))
        objects.put(PYTORCHJOBS, job(TRAIN, suspend=True))

        def lose_patience(_method: str, _path: str) -> None:
            if len(objects.requests) > 1000:
                objects.put(PYTORCHJOBS, {**job(TRAIN, suspend=True), "status": ended("Succeeded")})

        objects.look_on = lose_patience
        yield api, objects


def let_extract_fail(_api: Api, objects: Objects) -> None:
    objects.put(PYTORCHJOBS, {**job(EXTRACT, suspend=False), "status": ended("Failed")})


def cancel(api: Api, _objects: Objects) -> None:
    cancel_run(api, [RELEASE], "ann")


def let_the_supervisor_stop_extract(api: Api, _objects: Objects) -> None:
    suspend_stage(api, PLAN, EXTRACT, SUPERVISOR, "it took too long")


FAILED = "train will not start: extract failed"
STOPPED = (
    "train will not start: extract was stopped, and goes on only after `clusterfit resume run "
    "-n team`"
)


@pytest.mark.parametrize("read", [follow_stage, read_stage])
@pytest.mark.parametrize(
    ("come_to", "wanted"),
    [
        (let_extract_fail, FAILED),
        (cancel, STOPPED),
        (let_the_supervisor_stop_extract, STOPPED),
    ],
)
def test_a_stage_whose_predecessor_came_to_nothing_will_not_start(
    held: tuple[Api, Objects], come_to: Any, wanted: str, read: Any
) -> None:
    said: list[str] = []
    come_to(*held)
    assert list(read(held[0], RELEASE, TRAIN, Wanted(()), said.append)) == []
    assert said == [wanted]


@pytest.mark.parametrize(
    ("refusal", "others", "why"),
    [
        ("exceeded quota: gpus", [], "exceeded quota: gpus; wait until others finish"),
        ('violates PodSecurity "restricted"', [], "Pod Security refuses its pods: PodSecurity"),
        ("", [], "0 of 2 pods run"),
        ("", [1], "1 of 2 pods run"),
    ],
)
@pytest.mark.parametrize("counted", [0, 2])
def test_a_stage_that_waits_for_its_pods_says_why_and_not_what_it_said_before(
    held: tuple[Api, Objects], refusal: str, others: list[int], why: str, counted: int
) -> None:
    """Copies are of an attempt before, also while the operator still counts its pods."""
    api, objects = held
    run_pods(objects, EXTRACT, counted)
    if refusal:
        involved = {"kind": "PyTorchJob", "name": EXTRACT.name, "uid": f"uid-of-{EXTRACT.name}"}
        event = {"reason": "FailedCreatePod", "message": f"pods are forbidden: {refusal}"}
        metadata = {"name": "refused", "creationTimestamp": START.isoformat()}
        objects.put(EVENTS, {**event, "involvedObject": involved, "metadata": metadata})
    for node in others:
        objects.put(PODS, worker_pod(EXTRACT, EXTRACT.pods[node], node=node))
    said: list[str] = []
    assert list(read_stage(api, RELEASE, EXTRACT, Wanted((0,)), said.append)) == []
    assert len(said) == 1
    assert said[0].startswith(f"extract waits for a pod: {why}")


@pytest.mark.parametrize("is_suspended", [False, True])
def test_pods_that_all_wait_are_spoken_of_once(
    held: tuple[Api, Objects], is_suspended: bool
) -> None:
    """For a stage that runs, or was suspended for a while: it may go on."""
    api, objects = held
    said: list[str] = []
    if is_suspended:
        suspend_run(api, [RELEASE], "ann")

    def say(remark: str) -> None:
        said.append(remark)
        if remark.startswith("waiting"):  # both pods of it wait; then the stage before fails
            let_extract_fail(api, objects)

    assert list(follow_stage(api, RELEASE, TRAIN, Wanted(()), say)) == []
    assert said == ["waiting for a pod of train", FAILED]


def put_stage(api: Api, objects: Objects, plan: Plan, stage: PlannedStage, where: str) -> None:
    """Put a stage's job so that it stands at a phase; `given up`: Kueue has, of a queued one."""
    queue = {"queued": "gpu", "given up": "gpu", "held": HELD_QUEUE}.get(where, "")
    labels = {QUEUE_LABEL: queue} if queue else {}
    objects.put(stage.resource, job(stage, suspend=bool(queue), labels=labels))
    if where == "given up":
        put_workload(objects, stage.name, active=False)
    elif where in ("suspended", "cancelled"):
        why = CANCELLED if where == "cancelled" else "clusterfit suspend"
        suspend_stage(api, plan, stage, "ann", why)
    elif where in ("succeeded", "failed"):
        kinds = {"failed": "Failed", "succeeded": "Succeeded"}
        objects.get(stage.resource, stage.name)["status"] = ended(kinds[where])


@pytest.mark.parametrize(
    ("pretext", "others", "chosen"),
    [
        ("failed", ("starting", "held", "held"), "extract"),  # its weights are another file's
        ("failed", ("succeeded", "queued", "held"), "cluster"),
        ("failed", ("succeeded", "suspended", "held"), "cluster"),
        ("cancelled", ("starting", "held", "held"), "extract"),
        ("given up", ("starting", "held", "held"), "extract"),
        ("failed", ("succeeded", "failed", "held"), "cluster"),
        ("failed", ("cancelled", "held", "held"), "extract"),
        ("failed", ("missing", "missing", "missing"), "pretext"),
        ("starting", ("failed", "held", "held"), "pretext"),
        ("succeeded", ("succeeded", "held", "held"), "extract"),
        ("succeeded", ("succeeded", "succeeded", "succeeded"), "train"),
        ("held", ("held", "held", "held"), "pretext"),
    ],
)
def test_who_names_no_stage_reads_the_one_at_work_or_else_the_last_that_began(
    pretext: str, others: tuple[str, ...], chosen: str
) -> None:
    first = make_plan(planned("pretext"), gang="kueue" if pretext == "given up" else "none")
    releases = [Release(first, "", "", FILES_POD, is_helm=True), RELEASE]
    pairs = [(release, stage) for release in releases for stage in release.plan.stages]
    with serve_objects() as (api, objects):
        for (release, stage), where in zip(pairs, (pretext, *others), strict=True):
            if where != "missing":
                put_stage(api, objects, release.plan, stage, where)
        release, stage = choose_stage(api, releases)
    assert (release, stage) in pairs
    assert stage.stage == chosen


def test_hundreds_of_pods_are_looked_at_by_one(
    held: tuple[Api, Objects], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clusterfit.launch.log_follow._POLL_SECONDS", 0.2)
    api, objects = held
    stage = planned("extract", nodes=100, pods=tuple(f"run-extract-worker-{i}" for i in range(100)))
    release = Release(make_plan(stage), "", "", FILES_POD, is_helm=True)

    def count(wanted: str) -> int:
        return sum(path.endswith(wanted) for _, path in objects.requests)

    def look_on(_method: str, _path: str) -> None:
        if count("/pods") == 5:
            objects.put(PYTORCHJOBS, {**job(EXTRACT, suspend=False), "status": ended("Failed")})

    objects.look_on = look_on
    assert list(follow_stage(api, release, stage, Wanted(()), lambda _: None)) == []
    assert count("/pods") < 20
    assert count("/run-extract") < 20


def test_what_kueue_has_given_up_is_not_followed_any_longer(held: tuple[Api, Objects]) -> None:
    api, objects = held
    objects.put(PYTORCHJOBS, job(EXTRACT, suspend=True, labels={QUEUE_LABEL: "gpu"}))
    put_workload(objects, EXTRACT.name, active=False)
    plan = make_plan(EXTRACT, CLUSTER, TRAIN, gang="kueue")
    release = Release(plan, "", "", FILES_POD, is_helm=True)
    said: list[str] = []
    for stage in (EXTRACT, TRAIN):
        assert list(follow_stage(api, release, stage, Wanted(()), said.append)) == []
    assert said[-1].startswith("train will not start: extract was stopped")
    assert len(objects.requests) < 100


def test_why_there_is_no_pod_is_said_where_that_lasts(
    held: tuple[Api, Objects], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clusterfit.launch.log_follow._PATIENCE_SECONDS", 0)
    api, objects = held
    said: list[str] = []

    def say(remark: str) -> None:
        said.append(remark)
        if "waits for extract" in remark:
            let_extract_fail(api, objects)

    assert list(follow_stage(api, RELEASE, TRAIN, Wanted(()), say)) == []
    (waiting, failed) = said
    assert failed == FAILED
    why = (
        "waits for extract; the supervisor, which would start it, does not run: its Job was removed"
    )
    assert waiting.startswith(f"waiting for a pod of train: {why}; see `kubectl describe job ")


def test_a_stage_whose_predecessor_was_removed_is_not_waited_for(
    held: tuple[Api, Objects], monkeypatch: pytest.MonkeyPatch
) -> None:
    """But for as long as it may take to be made: here each look is a second later."""
    seconds = itertools.count()
    monkeypatch.setattr(Api, "now", lambda _self: START + timedelta(seconds=next(seconds)))
    api, objects = held
    objects.remove(PYTORCHJOBS, EXTRACT.name)
    said: list[str] = []
    with pytest.raises(NotFoundError, match="extract: PyTorchJob run-extract was removed"):
        list(follow_stage(api, RELEASE, TRAIN, Wanted(()), said.append))
    assert next(seconds) > INSTALL_SECONDS
    assert said == ["waiting for a pod of train"]


@pytest.mark.parametrize("is_there", [True, False])
def test_a_rank_that_said_nothing_is_told_from_one_that_left_no_copy(
    is_there: bool, tmp_path: Path
) -> None:
    folder = tmp_path / "run" / "logs" / "extract" / "attempt-1"
    folder.mkdir(parents=True)
    if is_there:
        (folder / "rank-00001.log").touch()
    said: list[str] = []
    with serve_objects() as (api, objects):
        objects.storage = tmp_path
        objects.put(PYTORCHJOBS, {**job(TWO_PODS, suspend=False), "status": ended("Succeeded")})
        lines = read_stage(api, OF_TWO_PODS, TWO_PODS, Wanted((1,)), said.append)
        if is_there:
            assert list(lines) == []
            assert said[-1] == "rank 1 said nothing"
        else:
            with pytest.raises(NotFoundError, match="nothing of stage extract is kept"):
                list(lines)


def write_copies(storage: Path, attempt: int, texts: dict[int, str]) -> None:
    """Write what each rank has said of an attempt of extract."""
    folder = storage / "run" / "logs" / "extract" / f"attempt-{attempt}"
    folder.mkdir(parents=True)
    for rank, text in texts.items():
        (folder / f"rank-{rank:05d}.log").write_text(f"{say_at(attempt, text, rank)}\n")


def put_extract(objects: Objects, condition: str) -> None:
    """Put the stage of two pods, at work where there is no condition."""
    status = ended(condition) if condition else {}
    objects.put(PYTORCHJOBS, {**job(TWO_PODS, suspend=False), "status": status})


ENTRY = "ts=2026-11-23T12:00:09.000Z level=info stage=extract msg=attempt"


@pytest.mark.parametrize(
    ("condition", "logs", "previous"),
    [
        ("", None, "crashed"),  # its pods come again: the newest copies are those of the crash
        ("", [ENTRY], "crashed"),
        ("", [ENTRY, say_at(10, "again")], "crashed"),
        ("Succeeded", [ENTRY, say_at(10, "again")], "crashed"),
        ("Failed", [ENTRY], "crashed"),
    ],
)
def test_the_attempt_before_is_the_one_before_the_present_one(
    condition: str, logs: list[str] | None, previous: str, tmp_path: Path
) -> None:
    write_copies(tmp_path, 1, {0: "long ago"})
    write_copies(tmp_path, 2, {0: "crashed"})
    has_begun = logs is not None and len(logs) > 1
    if has_begun:
        write_copies(tmp_path, 3, {0: "again"})
    said: list[str] = []
    with serve_objects() as (api, objects):
        objects.storage = tmp_path
        put_extract(objects, condition)
        if logs is not None:
            name = TWO_PODS.pods[0]
            objects.put(PODS, worker_pod(TWO_PODS, name, code=0 if condition else None))
            objects.logs[name] = log_of(*logs)
        lines = list(read_previous(api, OF_TWO_PODS, TWO_PODS, Wanted(), said.append))
    assert [line.text for line in lines] == [say_at(2, previous)]
    assert said == ["reading an earlier attempt from the copies on the claim"]


def test_where_there_was_no_attempt_before_that_is_said(tmp_path: Path) -> None:
    write_copies(tmp_path, 1, {0: "first"})
    with serve_objects() as (api, objects):
        objects.storage = tmp_path
        objects.put(PYTORCHJOBS, {**job(TWO_PODS, suspend=False), "status": ended("Succeeded")})
        with pytest.raises(NotFoundError, match="no earlier attempt of stage extract is kept"):
            list(read_previous(api, OF_TWO_PODS, TWO_PODS, Wanted(), print))


@pytest.mark.parametrize(("condition", "kept", "wanted"), [
    ("Failed", True, "the pod of node 1 is gone; reading its copies on the claim"),
    ("Failed", False, "of node 1 nothing is kept on the claim"),
    ("", True, "extract waits for the pod of node 1"),
])  # fmt: skip
def test_ranks_whose_pod_is_gone_are_read_or_named(
    condition: str, kept: bool, wanted: str, tmp_path: Path
) -> None:
    """A worker that fails for good stays, and the pods of its peers go."""
    write_copies(tmp_path, 1, {0: "zero", 1: "one"} | ({2: "two", 3: "three"} if kept else {}))
    said: list[str] = []
    with serve_objects() as (api, objects):
        objects.storage = tmp_path
        put_extract(objects, condition)
        name = TWO_PODS.pods[0]
        objects.put(PODS, worker_pod(TWO_PODS, name, code=65 if condition else None))
        objects.logs[name] = log_of(say_at(1, "zero", 0), say_at(1, "one", 1))

        def read(ranks: tuple[int, ...]) -> list[str]:
            lines = read_stage(api, OF_TWO_PODS, TWO_PODS, Wanted(ranks), said.append)
            return [line.text.rpartition("=")[2] for line in lines]

        is_read = condition and kept
        assert read(()) == ["zero", "one", *(["two", "three"] if is_read else [])]
        assert said[-1] == wanted
        said.clear()
        assert read((1,)) == ["one"]
        assert said == []


@pytest.mark.parametrize(("first", "second"), [("a", "b"), ("b", "a")])
def test_of_a_job_that_was_tried_again_the_newest_pod_is_read(first: str, second: str) -> None:
    """A Job's pods are all of rank 0, have random names, and those that failed stay."""
    with serve_objects() as (api, objects):
        objects.put(JOBS, {**job(CLUSTER, suspend=False), "status": ended("Complete")})
        objects.put(PODS, worker_pod(CLUSTER, f"run-cluster-{first}", second=1, code=203))
        objects.put(PODS, worker_pod(CLUSTER, f"run-cluster-{second}", second=11, code=0))
        objects.logs = {
            f"run-cluster-{first}": log_of(say_at(2, "lost")),
            f"run-cluster-{second}": log_of(say_at(12, "found")),
        }
        read = [line.text for line in read_stage(api, RELEASE, CLUSTER, Wanted(), print)]
    assert read == [say_at(12, "found")]


@pytest.mark.parametrize(("first", "second"), [("a", "b"), ("b", "a")])
def test_a_follow_goes_on_in_the_pod_that_a_job_makes_after_one_that_failed(
    first: str, second: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clusterfit.launch.log_follow._POLL_SECONDS", 0.01)
    old, new = f"run-cluster-{first}", f"run-cluster-{second}"
    unread = say_at(3, "unread")
    copies = tmp_path / "run" / "logs" / "cluster"
    for attempt, lines in enumerate(([say_at(2, "one"), unread], [say_at(12, "two")]), start=1):
        path = copies / f"attempt-{attempt}" / "rank-00000.log"
        path.parent.mkdir(parents=True)
        path.write_text("".join(f"{line}\n" for line in lines))
    said: list[str] = []
    with serve_objects() as (api, objects):
        objects.storage = tmp_path

        def go_on(_method: str, path: str) -> None:
            if path.endswith(f"/{old}/log"):  # while its log is read, the next one is made
                objects.put(PODS, worker_pod(CLUSTER, old, second=1, code=203))
                objects.put(PODS, worker_pod(CLUSTER, new, second=11))
            elif path.endswith(f"/{new}/log"):
                objects.put(PODS, worker_pod(CLUSTER, new, second=11, code=0))
                objects.put(JOBS, {**job(CLUSTER, suspend=False), "status": ended("Complete")})

        objects.put(JOBS, job(CLUSTER, suspend=False))
        objects.put(PODS, worker_pod(CLUSTER, old, second=1))
        objects.logs = {old: log_of(say_at(2, "one")), new: log_of(say_at(12, "two"))}
        objects.look_on = go_on
        shown = [line.text for line in follow_stage(api, RELEASE, CLUSTER, Wanted(), said.append)]
        assert shown == [say_at(2, "one"), unread, say_at(12, "two")]
    assert said == [f"{new} was started in place of one before; its log goes on"]


def counted(rank: int, number: int) -> str:
    return say_at(number, str(number), rank)


TWO_PODS = planned("extract", processes_per_node=2)
OF_TWO_PODS = Release(make_plan(TWO_PODS), "", "", FILES_POD, is_helm=True)
NEWEST = {
    (1,): [counted(1, number) for number in (6, 7, 8)],
    (1, 2): [counted(rank, number) for rank in (1, 2) for number in (6, 7, 8)],
    (): [
        *(counted(1, 7), counted(0, 8), counted(1, 8)),
        *(counted(3, 7), counted(2, 8), counted(3, 8)),
    ],
}
"""What is shown of some ranks, of all where none is named, with `--tail 3`."""


def put_two_pods(objects: Objects, condition: str) -> None:
    """Put two pods of two ranks each, where each rank has said nine lines in turn."""
    objects.put(PYTORCHJOBS, {**job(TWO_PODS, suspend=False), "status": ended(condition)})
    for node, name in enumerate(TWO_PODS.pods):
        code = 0 if condition == "Succeeded" else None
        objects.put(PODS, worker_pod(TWO_PODS, name, node=node, code=code))
        ranks = (2 * node, 2 * node + 1)
        objects.logs[name] = log_of(*(counted(rank, each) for each in range(9) for rank in ranks))


@pytest.mark.parametrize("ranks", NEWEST)
def test_the_newest_lines_are_those_of_the_ranks_that_are_asked_for(ranks: tuple[int, ...]) -> None:
    with serve_objects() as (api, objects):
        put_two_pods(objects, "Succeeded")
        lines = read_stage(api, OF_TWO_PODS, TWO_PODS, Wanted(ranks, tail=3), print)
        assert [line.text for line in lines] == NEWEST[ranks]


@pytest.mark.parametrize("ranks", NEWEST)
def test_a_follow_begins_with_the_newest_lines(
    ranks: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clusterfit.launch.log_follow._POLL_SECONDS", 0.01)
    late = counted(1, 9)
    with serve_objects() as (api, objects):
        put_two_pods(objects, "Running")
        reads: list[str] = []

        def go_on(_method: str, path: str) -> None:
            if path.endswith("/log"):
                reads.append(path)
                if reads.count(path) == 2 and "worker-0" in path:  # after those that were there
                    objects.logs[TWO_PODS.pods[0]] += log_of(late)
                done = {**job(TWO_PODS, suspend=False), "status": ended("Succeeded")}
                objects.put(PYTORCHJOBS, done)

        objects.look_on = go_on
        lines = follow_stage(api, OF_TWO_PODS, TWO_PODS, Wanted(ranks, tail=3), print)
        shown = sorted((line.node, line.text) for line in lines)
    wanted = [(int(" rank=2 " in text or " rank=3 " in text), text) for text in NEWEST[ranks]]
    assert shown == sorted([*wanted, (0, late)])


@pytest.mark.parametrize("tail", [0, 3])
@pytest.mark.parametrize("node", [0, 1])
def test_of_a_node_that_does_not_answer_only_its_own_pods_lines_are_missing(
    node: int, tail: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clusterfit.launch.patience._PATIENCE_SECONDS", 0)
    said: list[str] = []
    shown: list[Line] = []
    with serve_objects() as (api, objects):
        put_two_pods(objects, "Running")
        objects.unreadable = {TWO_PODS.pods[node]: 502}
        wanted = Wanted((), tail=tail)
        with pytest.raises(
            ClusterError, match=f"read the log of {TWO_PODS.pods[node]}: .*no route"
        ):
            shown.extend(read_stage(api, OF_TWO_PODS, TWO_PODS, wanted, said.append))
        assert {line.node for line in shown} == {1 - node}
        assert len(shown) == (tail or 18)
        assert said == []


@pytest.mark.parametrize(("status", "times"), [(502, 2), (403, 1)])
def test_where_no_log_can_be_read_it_is_said_of_each_pod_unless_it_is_the_same(
    status: int, times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clusterfit.launch.patience._PATIENCE_SECONDS", 0)
    said: list[str] = []
    with serve_objects() as (api, objects):
        put_two_pods(objects, "Running")
        objects.unreadable = dict.fromkeys(TWO_PODS.pods, status)
        with pytest.raises(ClusterError) as error:
            list(read_stage(api, OF_TWO_PODS, TWO_PODS, Wanted(()), said.append))
    told = [*said, str(error.value)]
    assert len(told) == times
    for pod, text in zip(TWO_PODS.pods, told, strict=False):
        assert f"read the log of {pod}" in text


@pytest.mark.parametrize("end", ["Failed", "Succeeded"])
def test_a_log_that_breaks_off_after_the_stage_is_over_is_read_to_its_end(
    end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a cancelled stage still says what it saves while the connection is cut."""
    monkeypatch.setattr("clusterfit.launch.log_follow._POLL_SECONDS", 0.01)
    stream = Api.stream_log
    cut: list[str] = []

    def break_off(api: Api, pod: str, query: Mapping[str, str]) -> Iterator[bytes]:
        pieces = b"".join(stream(api, pod, query)).splitlines(keepends=True)
        if cut.count(pod) < 3:  # also of what is read once the end was seen
            cut.append(pod)
            yield from pieces[: 6 if cut.count(pod) == 1 else -2]
            raise LogBrokenError("the log broke off")
        yield from pieces

    monkeypatch.setattr(Api, "stream_log", break_off)
    with serve_objects() as (api, objects):
        put_two_pods(objects, "Running")

        def end_it(_method: str, path: str) -> None:
            if path.endswith("/pods"):  # the follow has begun, and the next look sees the end
                objects.put(PYTORCHJOBS, {**job(TWO_PODS, suspend=False), "status": ended(end)})

        objects.look_on = end_it
        shown = [line.text for line in follow_stage(api, OF_TWO_PODS, TWO_PODS, Wanted(()), print)]
    assert sorted(cut) == sorted(3 * TWO_PODS.pods)
    assert sorted(shown) == sorted(counted(rank, each) for rank in range(4) for each in range(9))


def test_a_follow_does_not_wait_for_ever_for_a_node_that_does_not_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("clusterfit.launch.patience._PATIENCE_SECONDS", 0)
    monkeypatch.setattr("clusterfit.launch.log_follow._POLL_SECONDS", 0.01)
    monkeypatch.setattr("clusterfit.launch.log_follow._UNREAD_SECONDS", 0.05)
    said: list[str] = []
    with serve_objects() as (api, objects):
        put_two_pods(objects, "Running")
        objects.unreadable = {TWO_PODS.pods[1]: 502}

        def fail(_method: str, path: str) -> None:
            if path.endswith(f"/{TWO_PODS.pods[1]}/log"):
                objects.put(
                    PYTORCHJOBS, {**job(TWO_PODS, suspend=False), "status": ended("Failed")}
                )

        objects.look_on = fail
        lines = list(follow_stage(api, OF_TWO_PODS, TWO_PODS, Wanted(()), said.append))
    assert {line.node for line in lines} == {0}
    assert len(lines) == 18
    assert said[-1].startswith("the log of node 1 of extract is not read to its end, and the stage")
    assert "no route to the node" in said[-1]


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that is away for a moment is as one that is away for long."""
    monkeypatch.setattr("clusterfit.launch.patience._PATIENCE_SECONDS", 0)
    monkeypatch.setattr("clusterfit.launch.patience._POLL_SECONDS", 0)


@pytest.mark.usefixtures("impatient")
def test_a_follow_that_begins_while_the_server_is_away_waits_for_it() -> None:
    """And for as long as it refuses all once it has come back."""
    said: list[str] = []
    with serve_objects() as (api, objects):
        put_two_pods(objects, "Succeeded")
        objects.trouble.extend([503, 503, 403, 403])
        lines = follow_stage(api, OF_TWO_PODS, TWO_PODS, Wanted(()), said.append)
        assert len(list(lines)) == 36
        away, refused = said
        assert "the cluster answered 503" in away
        assert "refused (403)" in refused
        objects.trouble.append(403)
        with pytest.raises(NotPermittedError):
            list(follow_stage(api, OF_TWO_PODS, TWO_PODS, Wanted(()), said.append))


def test_a_follow_of_the_newest_seconds_leaves_out_what_is_older(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("clusterfit.launch.log_follow._POLL_SECONDS", 0.01)
    with serve_objects() as (api, objects):
        put_two_pods(objects, "Running")
        name = TWO_PODS.pods[0]
        reads: list[str] = []

        def go_on(_method: str, path: str) -> None:
            if not path.endswith("/log"):
                return
            reads.append(path)
            if len(reads) == 2:  # the first time there is nothing yet, and the connection ends
                objects.logs[name].append(f"{write_stamp(datetime.now(UTC))} now")
                done = {**job(TWO_PODS, suspend=False), "status": ended("Succeeded")}
                objects.put(PYTORCHJOBS, done)

        objects.look_on = go_on
        lines = follow_stage(api, OF_TWO_PODS, TWO_PODS, Wanted((0,), since_seconds=60), print)
        assert [line.text for line in lines] == ["now"]


def test_copies_of_which_the_node_has_lost_a_part_are_no_copies(tmp_path: Path) -> None:
    """The kubelet shows the newest file of a pod's log, and begins another one at 10 MiB."""
    path = tmp_path / "run" / "logs" / "extract" / "attempt-1" / "rank-00000.log"
    path.parent.mkdir(parents=True)
    noise = random.Random(0).randbytes(9999).hex()
    path.write_text(f"{counted(0, 1)} {noise}\n{counted(0, 2)}\n")
    with serve_objects() as (api, objects):
        objects.storage = tmp_path
        objects.put(PYTORCHJOBS, {**job(TWO_PODS, suspend=False), "status": ended("Succeeded")})

        def rotate(_method: str, _path: str) -> None:
            for name, lines in objects.logs.items():
                objects.logs[name] = lines[-1:]

        objects.look_on = rotate
        with pytest.raises(ClusterError) as failure:
            list(read_stage(api, OF_TWO_PODS, TWO_PODS, Wanted(), print))
    assert "its node has not kept all that it printed" in str(failure.value)
    assert "`clusterfit get storage:run/logs DIR --run run" in str(failure.value)


@pytest.mark.parametrize("ranks", NEWEST)
def test_copies_are_cut_as_logs_of_pods_are(ranks: tuple[int, ...], tmp_path: Path) -> None:
    folder = tmp_path / "run" / "logs" / "extract" / "attempt-1"
    folder.mkdir(parents=True)
    for rank in range(4):
        lines = [counted(rank, number) for number in range(9)]
        (folder / f"rank-{rank:05d}.log").write_text("".join(f"{line}\n" for line in lines))
    said: list[str] = []
    with serve_objects() as (api, objects):
        objects.storage = tmp_path
        objects.put(PYTORCHJOBS, {**job(TWO_PODS, suspend=False), "status": ended("Succeeded")})

        def read(wanted: Wanted) -> list[str]:
            lines = read_stage(api, OF_TWO_PODS, TWO_PODS, wanted, said.append)
            return sorted(line.text for line in lines)

        assert read(Wanted(ranks, tail=3)) == sorted(NEWEST[ranks])
        assert read(Wanted(ranks, since_seconds=60)) == []
        assert said[-1].endswith("said anything in the newest 60 s" if not ranks else
                                 "said nothing in the newest 60 s")  # fmt: skip
        assert len(read(Wanted(ranks, since_seconds=10**8))) == 9 * (len(ranks) or 4)
