"""`clusterfit status`, sampled through whole runs, never contradicts the cluster.

Each answer is held against kubectl's reading of the same objects, taken just before and just after
it: what was true at both moments must be what it says.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from clusterfit.artifacts.layout import RunDirectory
from tests.cluster.commands import wait_for
from tests.cluster.manifests import Object
from tests.e2e.artifacts import check_same_weights
from tests.e2e.digits import RUN
from tests.e2e.product import Product, how_it_ended

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
    done: int
    """Pods whose container has ended well; the operator sees a stage end a little later."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One answer of status, between two readings."""

    before: dict[str, Reading]
    said: dict[str, dict[str, Any]]
    code: int
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
        readings[stage] = Reading(
            exists=bool(jobs),
            ended=how_it_ended(job),
            suspended=policy.get("suspend", False),
            stopped="clusterfit.dev/stopped" in job["metadata"].get("annotations", {}),
            running=sum(runs(pod) for pod in pods),
            done=sum(is_done(pod) for pod in pods),
        )
    return readings


def runs(pod: Object) -> bool:
    """Whether the pod's container runs."""
    return any("running" in state for state in read_states(pod))


def is_done(pod: Object) -> bool:
    """Whether the pod's container has ended with exit code 0."""
    return any(state.get("terminated", {}).get("exitCode") == 0 for state in read_states(pod))


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
            allowed = {"suspended" if before.stopped else "held"} if before.suspended else (
                {"running", "starting"} if before.running + before.done == wanted else {"starting"}
            )  # fmt: skip
            # The operator counts a pod a moment before or after its container's state is seen.
            if before.running < wanted and said["pods"]["running"] == wanted:
                allowed |= {"running"}
            if phase not in allowed:
                yield f"{where}: want {allowed}"
            if phase in ("running", "starting") and said["pods"]["running"] != before.running:
                yield f"{where}: counts other pods"
        if said["pods"]["wanted"] != wanted:
            yield f"{where}: wants other pods"
    failed = any(reading.ended == "failed" for reading in sample.before.values())
    if failed and sample.code != 1:
        yield f"exit code {sample.code} of a failed run"


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
                code, said = product.status()
                samples.append(Sample(before, said, code, read_cluster(product)))
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
    product.submit("pipeline", {"stages": list(STAGES)})
    with sampling(product) as samples:
        product.wait_for_line("train", "msg=epoch epoch=3 ")
        product.delete_pod(f"{RUN}-train-worker-1", by_force=True)
        product.wait_for_line("train", "msg=resumed")
        product.succeed("suspend", RUN)
        product.wait_for_pods("train", lambda pods: not pods)
        wait_for_sample(samples, "train", "suspended")
        product.succeed("resume", RUN)
        product.wait_for_success("train")
        wait_for_sample(samples, "train", "succeeded")
    assert [fault for sample in samples for fault in find_contradictions(sample)] == []
    phases = {stage: distinct(samples, stage) for stage in STAGES}
    # Not every moment is met by a sample, but these last for seconds.
    assert phases["extract"][-1] == "succeeded"
    assert phases["cluster"][0] == phases["train"][0] == "held"
    assert phases["train"][-1] == "succeeded"
    assert {"running", "suspended"} <= set(phases["train"])
    assert max(sample.said["train"]["restarts"] for sample in samples) >= 1
    assert any("progress" in sample.said["train"] for sample in samples)
    check_same_weights(product.fetch(), reference, "train")


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
