"""`clusterfit status`, sampled through whole runs, never contradicts the cluster.

Each answer is held against kubectl's reading of the same objects, taken just before and just after
it: what was true at both moments must be what it says.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from clusterfit.artifacts.layout import RunDirectory
from clusterfit.logline import parse_line
from tests.cluster.commands import wait_for
from tests.cluster.manifests import Object, has_condition
from tests.e2e.artifacts import check_same_training
from tests.e2e.digits import RUN
from tests.e2e.holds import THIRD_EPOCH, held, let_go
from tests.e2e.product import STAGE_SECONDS, Product, how_it_ended
from tests.e2e.typed import Typed

STAGES = {"extract": 2, "cluster": 1, "train": 2}


@dataclass(frozen=True, slots=True)
class Reading:
    """What kubectl shows of a stage."""

    exists: bool
    ended: str
    """`succeeded`, `failed` or nothing."""
    suspended: bool
    stopped: bool
    """Whether somebody has left word of why it was stopped."""
    running: int
    """Pods whose container runs."""
    main: str
    """The uid of node 0's newest pod."""
    uids: tuple[str, ...]
    """Of all pods: one that was made anew between two readings may run as the one before did."""
    done: int
    """Pods whose container has ended well; the operator sees that a little later."""
    told: tuple[tuple[int, int], ...] = field(compare=False)
    """What the progress lines of that pod say is done, and of how much; it goes on all the time."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One answer of status, between two readings."""

    before: dict[str, Reading]
    code: int
    phase: str
    """Of the run."""
    said: dict[str, dict[str, Any]]
    """Of each stage."""
    after: dict[str, Reading]


def read_cluster(product: Product) -> dict[str, Reading]:
    """Read all stages with one call of kubectl."""
    selector = f"--selector=clusterfit.dev/run={RUN}"
    items = product.namespace.kubectl.get("pytorchjobs,jobs,pods", selector)["items"]
    readings = {}
    for stage in STAGES:
        own = [i for i in items if i["metadata"]["labels"].get("clusterfit.dev/stage") == stage]
        jobs = [item for item in own if item["kind"] != "Pod"]
        job: Object = jobs[0] if jobs else {"metadata": {}, "spec": {}}
        policy = job["spec"].get("runPolicy", job["spec"])
        pods = [item for item in own if item["kind"] == "Pod"]
        firsts = [pod for pod in pods if read_node(pod) == 0]
        main = max(firsts, key=lambda pod: pod["metadata"]["creationTimestamp"], default=None)
        readings[stage] = Reading(
            exists=bool(jobs),
            ended=read_verdict(job),
            suspended=policy.get("suspend", False),
            stopped="clusterfit.dev/stopped" in job["metadata"].get("annotations", {}),
            running=sum(runs(pod) for pod in pods),
            main=main["metadata"]["uid"] if main else "",
            uids=tuple(sorted(pod["metadata"]["uid"] for pod in pods)),
            done=sum(is_done(pod) for pod in pods),
            told=read_told(product.log(main["metadata"]["name"])) if main else (),
        )
    return readings


def read_verdict(job: Object) -> str:
    """Tell how a job has ended; also where Kubernetes has decided it and not yet said it is over.

    Of a Job it does that for up to some tenths of a second, and never takes it back.
    """
    if has_condition(job, "SuccessCriteriaMet"):
        return "succeeded"
    return "failed" if has_condition(job, "FailureTarget") else how_it_ended(job)


def runs(pod: Object) -> bool:
    """Whether the pod's container runs."""
    return any("running" in state for state in read_states(pod))


def is_done(pod: Object) -> bool:
    """Whether the pod's container has ended well."""
    return any(state.get("terminated", {}).get("exitCode") == 0 for state in read_states(pod))


def read_node(pod: Object) -> int:
    return int(pod["metadata"]["labels"].get("training.kubeflow.org/replica-index", 0))


def read_told(log: str) -> tuple[tuple[int, int], ...]:
    """Return what the progress lines of a log say is done, and of how much."""
    lines = (fields for fields in map(parse_line, log.splitlines()) if fields)
    return tuple(
        (int(fields["done"]), int(fields["total"]))
        for fields in lines
        if fields.get("msg") == "progress"
    )


def read_states(pod: Object) -> list[dict[str, Any]]:
    return [item["state"] for item in pod["status"].get("containerStatuses", [])]


def find_contradictions(sample: Sample) -> Iterator[str]:
    """Yield what an answer says against what was true before and after it."""
    for stage, wanted in STAGES.items():
        before, after, said = sample.before[stage], sample.after[stage], sample.said[stage]
        phase = said["phase"]
        where = f"{stage}: said {said}, cluster {before} then {after}"
        if before.ended and phase != before.ended:
            yield f"{where}: it had ended"
        if phase in ("succeeded", "failed") and phase != after.ended:
            yield f"{where}: it has not ended"
        if before == after and before.exists and not before.ended:
            if before.suspended:
                due = "suspended" if before.stopped else "held"
            else:
                due = "running" if before.running + before.done == wanted else "starting"
            if phase != due:
                yield f"{where}: want {due}"
            if phase in ("running", "starting") and said["pods"]["running"] != before.running:
                yield f"{where}: counts other pods"
        if said["pods"]["wanted"] != wanted:
            yield f"{where}: wants other pods"
        # The log of a pod that came after would not begin with what was read before.
        if before.main == after.main and after.told[: len(before.told)] == before.told:
            newest = after.told[max(0, len(before.told) - 1) :]
            progress = said.get("progress")
            if progress and (progress["done"], progress["total"]) not in newest:
                yield f"{where}: that is not how far it is"
            if before == after and phase == "running" and before.told and not progress:
                yield f"{where}: does not say how far it is"
        yield from (f"{where}: {fault}" for fault in find_false_causes(said, before, after))
    held = [stage for stage in STAGES if sample.said[stage]["phase"] == "held"]
    not_done = [stage for stage in STAGES if sample.said[stage]["phase"] != "succeeded"]
    for stage in held:
        wanted_cause = "its turn has come" if stage == not_done[0] else not_done[0]
        if wanted_cause not in sample.said[stage]["cause"]:
            yield f"{stage}: said {sample.said[stage]}, want {wanted_cause!r} as its cause"
    phases = [sample.said[stage]["phase"] for stage in STAGES]
    deciding = [phase for phase in phases if phase != "succeeded"] or ["succeeded"]
    wanted_phase = "failed" if "failed" in phases else deciding[0]
    if sample.phase != wanted_phase:
        yield f"the run is said to be {sample.phase}, its stages {phases}"
    ends, later_ends = (
        {reading.ended for reading in readings.values()}
        for readings in (sample.before, sample.after)
    )
    if "failed" in ends and sample.code != 1:
        yield f"exit code {sample.code} of a failed run"
    if "failed" not in later_ends and sample.code != 0:
        yield f"exit code {sample.code} of a run that has not failed"


def find_false_causes(said: dict[str, Any], before: Reading, after: Reading) -> Iterator[str]:
    """Yield what the cause of one stage says against its phase and its pods."""
    phase, cause = said["phase"], said.get("cause", "")
    if bool(cause) is (phase in ("running", "succeeded")):
        yield "a cause is given where something is the matter, and only there"
    if phase == "suspended" and not cause.startswith("suspended by "):
        yield "want who suspended it"
    if phase == "starting" and before == after:
        count = re.fullmatch(r"(\d+) of \d+ pods run", cause)
        if count and int(count[1]) != before.running:
            yield "the cause counts other pods"


@contextmanager
def sampling(product: Product) -> Iterator[list[Sample]]:
    """Ask for the status again and again, until the block ends."""
    samples: list[Sample] = []
    over = threading.Event()
    faults: list[BaseException] = []

    def ask() -> None:
        try:
            while not over.is_set():
                before = read_cluster(product)
                said = product.whole_status()
                samples.append(Sample(before, *said, read_cluster(product)))
        except BaseException as error:  # noqa: BLE001 - raised again below, in the test's own thread
            faults.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield samples
    finally:
        over.set()
        thread.join()
    if faults:
        raise faults[0]


def test_status_never_contradicts_the_cluster(product: Product, reference: RunDirectory) -> None:
    product.put_results(reference, "pretext")
    with watching_pods(product) as watch:
        staying = held(product, {**THIRD_EPOCH, "resumed": r"msg=resumed "})
        staying.submit("pipeline", {"stages": list(STAGES)})
        with sampling(product) as samples:
            product.wait_for_line("train", "msg=held at=third")
            product.delete_pod(f"{RUN}-train-worker-1", by_force=True)
            product.wait_for_line("train", "msg=held at=resumed")
            product.succeed("suspend", RUN)
            product.wait_for_pods("train", lambda pods: not pods)
            wait_for_sample(samples, "train", "suspended")
            let_go(product, "third", "resumed")
            product.succeed("resume", RUN)
            product.wait_for_success("train")
            wait_for_sample(samples, "train", "succeeded")
        made = read_made(watch)
    assert [fault for sample in samples for fault in find_contradictions(sample)] == []
    phases = {stage: distinct(samples, stage) for stage in STAGES}
    # Not every moment is met by a sample, but these last for seconds.
    assert phases["extract"][-1] == "succeeded"
    assert phases["cluster"][0] == phases["train"][0] == "held"
    assert phases["train"][-1] == "succeeded"
    assert {"running", "suspended"} <= set(phases["train"])
    for stage, wanted in STAGES.items():
        restarts = [sample.said[stage]["restarts"] for sample in samples]
        assert restarts == sorted(restarts), stage
        assert restarts[-1] == len(made[stage]) - wanted, (stage, made[stage])
    assert len(made["train"]) > STAGES["train"] + 1
    assert any("progress" in sample.said["train"] for sample in samples)
    check_same_training(product.fetch(), reference, "train")


@contextmanager
def watching_pods(product: Product) -> Iterator[Typed]:
    """Let kubectl print each pod of the run as it comes, also those that go between two samples."""
    what = '--output=jsonpath={.metadata.name} {.metadata.uid}{"\\n"}'
    selector = f"--selector=clusterfit.dev/run={RUN},app.kubernetes.io/component=worker"
    command = product.namespace.kubectl.command("get", "pods", "--watch", selector, what)
    with Typed(command, product.folder, {}) as typed:
        yield typed


def read_made(watch: Typed) -> dict[str, set[str]]:
    """Return the uids of all pods that were made of each stage."""
    made: dict[str, set[str]] = {stage: set() for stage in STAGES}
    for line in watch.lines:
        name, uid = line.split()
        made[name.removeprefix(f"{RUN}-").partition("-")[0]].add(uid)
    return made


def test_status_of_a_run_that_fails(product: Product, reference: RunDirectory) -> None:
    product.put_results(reference, "pretext")
    product.submit("pipeline", {"stages": list(STAGES), "cluster.numClusters": 1000})
    with sampling(product) as samples:
        product.wait_for_failure("extract")  # which counts the images before it reads them
        wait_for_sample(samples, "extract", "failed")
    assert [fault for sample in samples for fault in find_contradictions(sample)] == []
    last = samples[-1]
    assert last.code == 1
    assert "exit code 65" in last.said["extract"]["cause"]
    for stage in ("cluster", "train"):
        assert last.said[stage]["cause"] == "will not start: extract failed"


@pytest.mark.parametrize("stage", ["extract", "cluster"])
def test_status_names_memory_where_it_runs_out(
    product: Product, reference: RunDirectory, stage: str
) -> None:
    """What the last pod says is only that three attempts have led nowhere."""
    product.put_results(reference, "pretext", *(["extract"] if stage == "cluster" else []))
    one_small_node = {
        "platform.nodesWithoutGpus": 1,
        "platform.memoryGibPerNode": 0.2,  # less than it takes to import torch
        "platform.shmGibPerNode": 0.05,
    }
    product.submit(stage, one_small_node)
    said = product.wait_for_cause(stage, "want of memory", timeout_seconds=STAGE_SECONDS)
    # A Job lets some time pass before it tries again.
    assert stage == "extract" or said["phase"] == "starting"
    product.wait_for_failure(stage)
    code, stages = product.status()
    assert code == 1
    progress, _, before = stages[stage]["cause"].partition("; a pod before it: ")
    assert progress.endswith("exit code 70: three attempts made no progress")
    assert "want of memory" in before
    assert "raise platform.memoryGibPerNode" in stages[stage]["advice"]


def wait_for_sample(samples: list[Sample], stage: str, phase: str) -> None:
    """Wait until status has been seen to say something."""
    wait_for(
        f"status says that {stage} is {phase}",
        lambda: samples[-1].said[stage]["phase"] if samples else "",
        lambda found: found == phase,
    )


def distinct(samples: list[Sample], stage: str) -> list[str]:
    """Return the phases of a stage in their order, each once in a row."""
    phases: list[str] = []
    for sample in samples:
        phase = sample.said[stage]["phase"]
        if not phases or phases[-1] != phase:
            phases.append(phase)
    return phases
