"""Why a stage does not move: one sentence and one cure for each way that it may not."""

from __future__ import annotations

from typing import Any

import pytest

from clusterfit.launch.causes import Cause, Evidence, count_restarts, find_cause
from clusterfit.launch.jobs import JobState, Phase
from clusterfit.launch.plan import Plan, PlannedStage

STAGE = PlannedStage(
    "extract", "PyTorchJob", "run-extract", 2, 8, 8, "nvidia.com/gpu", ("a", "b"), 0, 0
)
PLAN = Plan("run", "run-step1", "team", (STAGE,), "none", "", "cluster")


def evidence(state: JobState, **changes: Any) -> Evidence:
    fields: dict[str, Any] = {
        "plan": PLAN,
        "stage": STAGE,
        "state": state,
        "pods": [],
        "job_events": [],
        "workload": None,
        "queue_position": 0,
        "waits_for": "pretext",
        "waits_in_vain": False,
    }
    return Evidence(**(fields | changes))


def pod(**status: Any) -> Any:
    return {
        "metadata": {"name": "run-extract-worker-0", "labels": {}},
        "spec": {
            "containers": [
                {
                    "image": "registry.example/clusterfit:1",
                    "resources": {"requests": {"cpu": "64", "nvidia.com/gpu": "8"}},
                }
            ]
        },
        "status": status,
    }


def container(**state: Any) -> Any:
    return pod(containerStatuses=[{"state": state}])


def unschedulable(message: str) -> Any:
    return pod(conditions=[{"type": "PodScheduled", "status": "False", "message": message}])


def event(reason: str, message: str, second: int = 0) -> Any:
    return {
        "reason": reason,
        "message": message,
        "lastTimestamp": f"2026-11-23T10:00:{second:02}Z",
    }


STARTING = JobState(Phase.STARTING)
FAILED = JobState(Phase.FAILED, message="PyTorchJob run-extract failed")
PULL = (
    'Back-off pulling image "registry.example/clusterfit:1": ErrImagePull: failed to pull and '
    'unpack image "registry.example/clusterfit:1": failed to resolve reference '
    '"registry.example/clusterfit:1": failed to do request: Head "https://registry.example/v2/x": '
    "dial tcp: no such host"
)

CASES = {
    "no GPUs free": (
        evidence(
            STARTING,
            pods=[
                unschedulable(
                    "0/5 nodes are available: 1 Insufficient memory, 4 Insufficient cpu, 5 "
                    "Insufficient nvidia.com/gpu. no new claims to deallocate, preemption: 0/5 "
                    "nodes are available: 5 No preemption victims found for incoming pod."
                )
            ],
        ),
        "no node has 8 nvidia.com/gpu free: 0/5 nodes are available: 1 Insufficient memory, "
        "4 Insufficient cpu, 5 Insufficient nvidia.com/gpu",
        "--gpus",
    ),
    "two resources short": (
        evidence(
            STARTING,
            pods=[unschedulable("0/4 nodes: 4 Insufficient cpu, 4 Insufficient memory. none")],
        ),
        "no node has 64 cpu and enough memory free: ",
        "ask for less",
    ),
    "an unbound claim": (
        evidence(STARTING, pods=[unschedulable('persistentvolumeclaim "clusterfit" not found')]),
        "a claim is not ready",
        "kubectl describe pvc",
    ),
    "a taint": (
        evidence(STARTING, pods=[unschedulable("0/1 nodes: 1 node(s) had untolerated taint")]),
        "no node fits",
        "platform.tolerations",
    ),
    "an image that is not there": (
        evidence(
            STARTING, pods=[container(waiting={"reason": "ImagePullBackOff", "message": PULL})]
        ),
        "run-extract-worker-0: the image registry.example/clusterfit:1 cannot be pulled: Head "
        '"https://registry.example/v2/x": dial tcp: no such host',
        "platform.image",
    ),
    "Pod Security": (
        evidence(
            STARTING,
            job_events=[event("FailedCreatePod", 'x violates PodSecurity "restricted": y')],
        ),
        'Pod Security refuses its pods: PodSecurity "restricted"',
        "extraVolumes",
    ),
    "a quota that one of the pods was within": (
        evidence(
            STARTING,
            pods=[unschedulable("0/1 nodes: 1 node(s) had untolerated taint")],
            job_events=[
                event("FailedCreatePod", "forbidden: exceeded quota: q"),
                event("SuccessfulCreatePod", "Created pod: run-extract-worker-0"),
                event("Unschedulable", "Error pod run-extract-worker-0 condition message: ..."),
            ],
        ),
        "exceeded quota: q",
        "ask for less",
    ),
    "a quota": (
        evidence(
            STARTING,
            job_events=[event("FailedCreatePod", "forbidden: exceeded quota: q")],
        ),
        "exceeded quota: q",
        "ask for less",
    ),
    "a quota that has room again": (
        evidence(
            STARTING,
            pods=[container(running={})],
            job_events=[
                event("FailedCreatePod", "forbidden: exceeded quota: q"),
                event("SuccessfulCreatePod", "Created pod: run-extract-worker-1", second=1),
            ],
        ),
        "1 of 2 pods run",
        "",
    ),
    "a crash that starts again": (
        evidence(
            STARTING,
            job_events=[{"reason": "ExitedWithCode", "message": "Pod: t.p exited with code 203"}],
        ),
        "exit code 203 (failed in a way that another attempt may mend) and starts again",
        "clusterfit logs run extract --previous -n team",
    ),
    "pods on their way": (
        evidence(STARTING, pods=[container(running={})]),
        "1 of 2 pods run",
        "",
    ),
    "a permanent failure": (
        evidence(FAILED, pods=[container(terminated={"reason": "Error", "exitCode": 65})]),
        "exit code 65: data or an artifact is invalid",
        "clusterfit logs run extract -n team",
    ),
    "want of memory": (
        evidence(FAILED, pods=[container(terminated={"reason": "OOMKilled", "exitCode": 137})]),
        "killed for want of memory",
        "clusterfit logs",
    ),
    "a program that is not there": (
        evidence(
            FAILED,
            pods=[
                container(terminated={"reason": "StartError", "exitCode": 128, "message": "no x"})
            ],
        ),
        "could not start: no x",
        "clusterfit logs",
    ),
    "a failure whose pods are gone": (
        evidence(FAILED),
        "PyTorchJob run-extract failed",
        "clusterfit logs",
    ),
    "held": (evidence(JobState(Phase.HELD)), "waits for pretext", ""),
    "held for ever": (
        evidence(JobState(Phase.HELD), waits_in_vain=True),
        "will not start: pretext failed",
        "",
    ),
    "suspended by the supervisor": (
        evidence(JobState(Phase.SUSPENDED, message="too long", stopped_by="supervisor")),
        "suspended by the supervisor: too long",
        "clusterfit resume run -n team",
    ),
    "suspended by kubectl": (
        evidence(JobState(Phase.SUSPENDED)),
        "with other means than clusterfit",
        "clusterfit resume run -n team",
    ),
    "a queue that nobody serves": (
        evidence(JobState(Phase.QUEUED)),
        "Kueue has not taken notice",
        "integrations.frameworks",
    ),
    "queued": (
        evidence(
            JobState(Phase.QUEUED),
            queue_position=2,
            workload={
                "status": {
                    "conditions": [
                        {"type": "QuotaReserved", "status": "False", "message": "no quota for gpu"}
                    ]
                }
            },
        ),
        "place 2 in queue : no quota for gpu",
        "",
    ),
    "removed": (evidence(JobState(Phase.MISSING)), "does not exist", "clusterfit logs run extract"),
    "all is well": (evidence(JobState(Phase.RUNNING)), "", ""),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_the_cause_is_named(case: str) -> None:
    found, text, advice = CASES[case]
    cause = find_cause(found)
    if not text:
        assert cause == Cause()
    assert text in cause.text
    assert advice in cause.advice
    assert "\n" not in cause.text + cause.advice


def test_restarts_are_the_pods_that_came_back() -> None:
    created = [{"reason": "SuccessfulCreatePod", "count": 3}, {"reason": "SuccessfulCreatePod"}]
    assert count_restarts(evidence(STARTING, job_events=created)) == 2
    assert count_restarts(evidence(STARTING, job_events=created[1:])) == 0
