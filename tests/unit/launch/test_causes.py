"""Why a stage does not move: one sentence and one cure for each way that it may not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from clusterfit.launch.causes import Cause, find_cause
from clusterfit.launch.evidence import Evidence
from clusterfit.launch.jobs import JobState, Phase
from clusterfit.launch.plan import Plan, PlannedStage
from clusterfit.launch.supervision import Supervision

STAGE = PlannedStage(
    "extract", "PyTorchJob", "run-extract", 2, 8, 8, "nvidia.com/gpu", ("a", "b"), 0, 0
)
JOB = PlannedStage("cluster", "Job", "run-cluster", 1, 8, 8, "nvidia.com/gpu", (), 0, 0)
PLAN = Plan("run", "run-step1", "team", (STAGE, JOB), "none", "", "cluster")


def evidence(state: JobState, **changes: Any) -> Evidence:
    fields: dict[str, Any] = {
        "plan": PLAN,
        "stage": STAGE,
        "state": state,
        "waits_for": "pretext",
        "waits_in_vain": False,
        "options": " -n team",
        "supervision": Supervision(),
    }
    return Evidence(**(fields | changes))


def of_job(state: JobState, **changes: Any) -> Evidence:
    """Evidence of a stage whose pods have random names and stay when they have failed."""
    return evidence(state, stage=JOB, **changes)


def pod(node: int = 0, **status: Any) -> Any:
    return {
        "metadata": {
            "name": f"run-extract-worker-{node}",
            "namespace": "team",
            "labels": {"training.kubeflow.org/replica-index": str(node)},
        },
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


def ended(code: int, reason: str = "Error", node: int = 0) -> Any:
    terminated = {"reason": reason, "exitCode": code}
    return pod(node, phase="Failed", containerStatuses=[{"state": {"terminated": terminated}}])


def ended_by_node(reason: str, message: str, *containers: Any) -> Any:
    """A pod that has a reason of its own, and its container's status where one had been made."""
    return pod(phase="Failed", reason=reason, message=message, containerStatuses=[*containers])


def killed(code: int = 137) -> Any:
    return {"state": {"terminated": {"reason": "Error", "exitCode": code}}}


def exited(code: int) -> Any:
    """The event of a pod that the training operator has removed by now."""
    return {"reason": "ExitedWithCode", "message": f"Pod: t.p exited with code {code}"}


def unschedulable(message: str) -> Any:
    return pod(conditions=[{"type": "PodScheduled", "status": "False", "message": message}])


def event(reason: str, message: str, second: int = 0) -> Any:
    return {
        "reason": reason,
        "message": message,
        "lastTimestamp": f"2026-11-23T10:00:{second:02}Z",
    }


NO_DEVICE = "Allocate failed due to no healthy devices present; cannot allocate nvidia.com/gpu"
DISK_FULL = "Pod ephemeral local storage usage exceeds the total limit of containers 1Gi. "
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
        "kubectl describe pvc -n team",
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
            job_events=[exited(203)],
        ),
        "a pod has ended and starts again: exit code 203: failed in a way that another attempt may",
        "clusterfit logs run extract --all-ranks --previous -n team",
    ),
    "a crash for want of memory": (
        evidence(STARTING, job_events=[exited(203), exited(137)]),
        "a pod has ended and starts again: exit code 137: killed (SIGKILL), often for want of",
        "raise platform.memoryGibPerNode",
    ),
    "a Job's crash, which waits to start again": (
        of_job(STARTING, pods=[ended(203)]),
        "a pod has ended and starts again: exit code 203: failed in a way that another attempt may",
        "clusterfit logs run cluster --all-ranks -n team",
    ),
    "a Job's crash that starts again": (
        of_job(STARTING, pods=[ended(203), container(waiting={"reason": "ContainerCreating"})]),
        "a pod has ended and starts again: exit code 203: ",
        "clusterfit logs run cluster --all-ranks --previous -n team",
    ),
    "a crash of the only rank": (
        evidence(STARTING, stage=replace(JOB, processes_per_node=1), pods=[ended(203)]),
        "a pod has ended and starts again: exit code 203: ",
        "clusterfit logs run cluster -n team",
    ),
    "a permanent failure of the only rank": (
        evidence(FAILED, stage=replace(JOB, processes_per_node=1), pods=[ended(65)]),
        "exit code 65: data or an artifact is invalid",
        "clusterfit logs run cluster -n team",
    ),
    "of a Job's crashes the newest": (
        of_job(STARTING, pods=[ended(203), ended(137, "OOMKilled")]),
        "a pod has ended and starts again: killed for want of memory (OOM)",
        "raise platform.memoryGibPerNode",
    ),
    "a pod that its node has refused": (
        evidence(STARTING, pods=[ended_by_node("UnexpectedAdmissionError", NO_DEVICE)]),
        f"a pod has ended and starts again: UnexpectedAdmissionError: {NO_DEVICE}",
        "ask an administrator to look at the node",
    ),
    "a pod that its node has evicted": (
        of_job(STARTING, pods=[ended_by_node("Evicted", DISK_FULL, killed())]),
        f"a pod has ended and starts again: Evicted: {DISK_FULL.strip()}",
        "correct what it names, or ask an administrator to look at the node; clusterfit logs run",
    ),
    "an evicted pod that was the last": (
        of_job(FAILED, pods=[ended_by_node("Evicted", DISK_FULL, killed())]),
        f"run-extract-worker-0: Evicted: {DISK_FULL.strip()}",
        "correct what it names",
    ),
    "a refused pod that was the last": (
        of_job(FAILED, pods=[ended_by_node("UnexpectedAdmissionError", NO_DEVICE)]),
        f"run-extract-worker-0: UnexpectedAdmissionError: {NO_DEVICE}",
        "correct what it names",
    ),
    "no progress after evictions": (
        of_job(FAILED, pods=[*[ended_by_node("Evicted", DISK_FULL, killed())] * 3, ended(70)]),
        "exit code 70: three attempts made no progress; a pod before it: Evicted: Pod ephemeral",
        "correct what it names, or ask an administrator to look at the node; clusterfit logs run",
    ),
    "a quota that a Job has met after a crash": (
        of_job(
            STARTING,
            pods=[ended(203)],
            job_events=[
                event("SuccessfulCreate", "Created pod: run-cluster-x"),
                event("FailedCreate", "forbidden: exceeded quota: q", second=10),
            ],
        ),
        "exceeded quota: q",
        "ask for less",
    ),
    "Pod Security that a Job has met after a crash": (
        of_job(
            STARTING,
            pods=[ended(203)],
            job_events=[event("FailedCreate", 'x violates PodSecurity "restricted": y')],
        ),
        'Pod Security refuses its pods: PodSecurity "restricted"',
        "extraVolumes",
    ),
    "pods on their way": (
        evidence(STARTING, pods=[container(running={})]),
        "1 of 2 pods run",
        "",
    ),
    "a permanent failure": (
        evidence(FAILED, pods=[container(terminated={"reason": "Error", "exitCode": 65})]),
        "exit code 65: data or an artifact is invalid",
        "clusterfit logs run extract --all-ranks -n team",
    ),
    "a permanent failure beside peers that were stopped": (
        evidence(FAILED, pods=[ended(143), ended(65, node=1)]),
        "run-extract-worker-1: exit code 65: data or an artifact is invalid",
        "clusterfit logs run extract --all-ranks -n team",
    ),
    "a Job's permanent failure after one that was tried again": (
        of_job(FAILED, pods=[ended(66), ended(65)]),
        ": exit code 65: data or an artifact is invalid",
        "clusterfit logs run cluster --all-ranks -n team",
    ),
    "no progress": (
        evidence(FAILED, pods=[ended(70)], job_events=[exited(203)] * 3),
        "run-extract-worker-0: exit code 70: three attempts made no progress",
        "clusterfit logs run extract --all-ranks -n team",
    ),
    "no progress for want of memory": (
        evidence(FAILED, pods=[ended(70)], job_events=[exited(137)] * 3 + [exited(70)]),
        "exit code 70: three attempts made no progress; a pod before it: exit code 137: killed "
        "(SIGKILL), often for want of memory",
        "raise platform.memoryGibPerNode and submit with --replace; clusterfit logs run extract",
    ),
    "a Job's lack of progress for want of memory": (
        of_job(FAILED, pods=[*[ended(203, "OOMKilled")] * 3, ended(70)]),
        "exit code 70: three attempts made no progress; a pod before it: killed for want of "
        "memory (OOM)",
        "raise platform.memoryGibPerNode and submit with --replace; clusterfit logs run cluster",
    ),
    "a volume that cannot be mounted": (
        evidence(STARTING, unprepared="run-extract-worker-0: its node cannot prepare it: no x"),
        "run-extract-worker-0: its node cannot prepare it: no x",
        "platform.extraVolumes",
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
    "a stage that the supervisor has ended in a queue": (
        evidence(
            JobState(Phase.FAILED, message="6 pods in a row died", stopped_by="supervisor"),
            job_events=[exited(128)],
        ),
        "stopped by the supervisor: 6 pods in a row died",
        "submit with --replace; clusterfit logs run extract",
    ),
    "a failure whose pods are gone": (
        evidence(FAILED),
        "PyTorchJob run-extract failed",
        "clusterfit logs",
    ),
    "held": (evidence(JobState(Phase.HELD)), "waits for pretext", ""),
    "held, and the supervisor queued": (
        evidence(JobState(Phase.HELD), supervision=Supervision(queue="default")),
        "waits for pretext; the supervisor, which would start it, waits in queue default itself",
        "sequencing.mode: client",
    ),
    "held until the supervisor looks again": (
        evidence(JobState(Phase.HELD), waits_for=""),
        "its turn has come",
        "",
    ),
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
    "queued again after it was suspended there": (
        evidence(
            JobState(Phase.QUEUED),
            queue_position=1,
            workload={
                "status": {
                    "conditions": [
                        {"type": "QuotaReserved", "status": "False", "message": "no quota for gpu"},
                        {
                            "type": "Evicted",
                            "status": "True",
                            "message": "The workload is deactivated",
                        },
                    ]
                }
            },
        ),
        "place 1 in queue : no quota for gpu",
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


@pytest.mark.parametrize("status", [[], [killed()]], ids=["refused", "killed"])
def test_what_its_node_has_done_to_a_pod_is_no_want_of_memory(status: list[Any]) -> None:
    for phase in (STARTING, FAILED):
        found = of_job(phase, pods=[ended_by_node("Evicted", DISK_FULL, *status)])
        cause = find_cause(found)
        assert "memory" not in cause.text + cause.advice
        assert ("clusterfit logs" in cause.advice) is bool(status), "without a container no log"


@pytest.mark.parametrize("reason", ["DeadlineExceeded", "NodeShutdown", "Preempting", "Terminated"])
def test_a_pods_own_reason_is_shown_as_it_is(reason: str) -> None:
    cause = find_cause(of_job(STARTING, pods=[ended_by_node(reason, "Why.", killed(143))]))
    assert cause.text == f"a pod has ended and starts again: {reason}: Why."


def test_a_reason_of_a_pod_that_has_not_failed_is_no_end() -> None:
    lost = pod(phase="Running", reason="NodeLost", containerStatuses=[{"state": {"running": {}}}])
    assert find_cause(evidence(STARTING, pods=[lost])).text == "1 of 2 pods run"
