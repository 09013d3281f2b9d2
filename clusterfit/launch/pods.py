"""The pods of a stage: which they are, and what Kubernetes says of them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from clusterfit.errors import EXIT_CODE_MEANINGS, KILLED_EXIT_CODE
from clusterfit.launch.api import EVENTS, PODS, Api
from clusterfit.launch.failures import NotPermittedError
from clusterfit.launch.manifests import Manifest
from clusterfit.launch.plan import ROLE_LABEL, RUN_LABEL, STAGE_LABEL, PlannedStage

_INSUFFICIENT: Final = re.compile(r"(\d+) Insufficient ([^\s,]*[^\s,.])")
_TO_THE_SECOND: Final = len("2026-01-31T12:00:00")
_UNPREPARED: Final = ("FailedMount", "FailedAttachVolume", "FailedCreatePodSandBox")
_LOST_SECONDS: Final = 60.0
"""How long a pod may outlive the time that it was given to end."""
_ASIDE: Final = re.compile(r"[.,] (?:preemption: |no new claims )")
"""Where the scheduler goes on to what it tried besides."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a pod's container ended, or the pod before it had one."""

    reason: str
    """Kubernetes' word: `Error`, `OOMKilled`, `StartError`; of the pod: `Evicted`, `OutOfcpu`."""
    exit_code: int | None
    """None: no container has run, as far as the pod tells."""
    message: str
    is_by_node: bool = False
    """Whether the reason is the pod's: its node has refused it, or put an end to it."""

    @property
    def is_retried(self) -> bool:
        """Whether the code is one after which another attempt may end better."""
        return self.exit_code is None or self.exit_code >= 128

    @property
    def lacked_memory(self) -> bool:
        """Whether it was killed as those are who use more memory than their limit."""
        was_killed = self.exit_code == KILLED_EXIT_CODE and not self.is_by_node
        return self.reason == "OOMKilled" or was_killed

    def describe(self) -> str:
        """Return it in plain words."""
        if self.is_by_node or self.exit_code is None:
            return ": ".join(filter(None, (self.reason, self.message)))
        if self.reason == "OOMKilled":
            return "killed for want of memory (OOM)"
        if self.reason in ("StartError", "ContainerCannotRun"):
            return f"could not start: {self.message}"
        meaning = EXIT_CODE_MEANINGS.get(self.exit_code, "a code that clusterfit does not use")
        return f"exit code {self.exit_code}: {meaning}"


def select_pods(api: Api, run: str, stage: PlannedStage) -> list[Manifest]:
    """Return a stage's worker pods by node rank, the oldest of each rank first.

    A Job's pods are all of rank 0: those that have failed stay beside the one that came after.
    """
    labels = f"{RUN_LABEL}={run},{STAGE_LABEL}={stage.stage},{ROLE_LABEL}=worker"

    def age(pod: Manifest) -> tuple[int, str]:
        return read_node_rank(pod), pod["metadata"]["creationTimestamp"]

    return sorted(api.select(PODS, labels=labels), key=age)


def pick_newest(pods: Iterable[Manifest]) -> list[Manifest]:
    """Return the newest pod of each node rank, of pods in the order of `select_pods`."""
    return list({read_node_rank(pod): pod for pod in pods}.values())


def select_events(api: Api, thing: Manifest) -> list[Manifest]:
    """Return the events of an object, oldest first; none where they may not be read.

    Those of an object that had its name before are left out.
    """
    metadata = thing["metadata"]
    fields = f"involvedObject.name={metadata['name']},involvedObject.uid={metadata['uid']}"
    try:
        events = api.select(EVENTS, fields=fields)
    except NotPermittedError:
        return []
    return sorted(events, key=read_event_time)


def read_placements(api: Api) -> list[Manifest]:
    """Return the events of pods being placed on nodes; none where they may not be read.

    As far as events reach, an hour by default. A job's own events would tell less: the API drops
    those that one controller has of one object after the first 25, which 13 pods use up.
    """
    try:
        return api.select(EVENTS, fields="involvedObject.kind=Pod,reason=Scheduled")
    except NotPermittedError:
        return []


def select_placed(placements: list[Manifest], stage: PlannedStage, job: Manifest) -> frozenset[str]:
    """Return the uids of a job's pods that were placed on a node, those that are gone too."""
    began = job["metadata"]["creationTimestamp"][:_TO_THE_SECOND]
    return frozenset(
        event["involvedObject"]["uid"]
        for event in placements
        if _is_named_after(stage, event["involvedObject"]["name"])
        and read_event_time(event)[:_TO_THE_SECOND] >= began  # not of a job that had its name
    )


def _is_named_after(stage: PlannedStage, pod: str) -> bool:
    if stage.pods:
        return pod in stage.pods
    job, _, by_chance = pod.rpartition("-")
    return job == stage.name and bool(by_chance)


def read_event_time(event: Manifest) -> str:
    """Return when an event was last seen, in RFC 3339."""
    series = event.get("series") or {}
    return str(
        series.get("lastObservedTime")
        or event.get("lastTimestamp")
        or event.get("eventTime")
        or event["metadata"]["creationTimestamp"]
    )


def read_node_rank(pod: Manifest) -> int:
    """Return a worker pod's place among its peers; a Job's only pod is 0."""
    return int(pod["metadata"]["labels"].get("training.kubeflow.org/replica-index", "0"))


def read_phase(pod: Manifest) -> str:
    """Return Kubernetes' phase of a pod."""
    return str(pod["status"].get("phase", "Pending"))


def read_container(pod: Manifest) -> dict[str, Any]:
    """Return the status of a pod's one container, or an empty one."""
    statuses: list[dict[str, Any]] = pod["status"].get("containerStatuses") or [{}]
    return statuses[0]


def read_end(pod: Manifest) -> Ended | None:
    """Return how a pod's container ended last, or None where it has not.

    Where the pod has a reason of its own, that is why, and a container's exit code its consequence.
    """
    status = read_container(pod)
    states = (status.get("state") or {}, status.get("lastState") or {})
    ended = next((state["terminated"] for state in states if state.get("terminated")), None)
    exit_code = None if ended is None else ended.get("exitCode", 0)
    if read_phase(pod) == "Failed" and pod["status"].get("reason"):
        message = _join_lines(pod["status"].get("message"))
        return Ended(pod["status"]["reason"], exit_code, message, is_by_node=True)
    if ended is None:
        return None
    return Ended(ended.get("reason", "Error"), exit_code, _join_lines(ended.get("message")))


def _join_lines(message: str | None) -> str:
    return " ".join((message or "").split())


def is_running(pod: Manifest) -> bool:
    """Whether a pod's container runs."""
    return "running" in (read_container(pod).get("state") or {})


def is_lost(pod: Manifest, now: datetime) -> bool:
    """Whether a pod should have ended long ago, and its node does not say that it has.

    Of a node that is off Kubernetes keeps each pod as it was seen last, with its container running,
    until somebody removes the node or the pod.
    """
    end = pod["metadata"].get("deletionTimestamp", "")
    ended = "terminated" in (read_container(pod).get("state") or {})
    if not end or ended or has_ended(pod) or not pod["spec"].get("nodeName"):
        return False
    return (now - datetime.fromisoformat(end)).total_seconds() > _LOST_SECONDS


def explain_lost(pod: Manifest) -> tuple[str, str]:
    """Say of which node a lost pod is, and what to do."""
    name, node = pod["metadata"]["name"], pod["spec"].get("nodeName", "")
    return (
        f"its node {node} does not say that it has ended",
        "wait for the node to come back; once its machine is surely off: kubectl delete node "
        f"{node}, or kubectl delete pod {name} --force -n {pod['metadata']['namespace']}",
    )


def has_ended(pod: Manifest) -> bool:
    """Whether a pod is over, whatever is known of its container."""
    return read_phase(pod) in ("Succeeded", "Failed")


def has_started(pod: Manifest) -> bool:
    """Whether a pod's container runs or has run, so that there is a log of it."""
    end = read_end(pod)
    return is_running(pod) or (end is not None and end.exit_code is not None)


def has_succeeded(pod: Manifest) -> bool:
    """Whether a pod's container has ended well."""
    end = read_end(pod)
    return end is not None and end.exit_code == 0


def read_image(pod: Manifest) -> str:
    """Return the image of a pod's container."""
    return str(pod["spec"]["containers"][0]["image"])


def explain_waiting(pod: Manifest) -> tuple[str, str]:
    """Say why a pod does not run yet, and what to do; two empty texts where nothing is wrong."""
    for condition in pod["status"].get("conditions", ()):
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return _explain_unschedulable(pod, condition.get("message", ""))
    waiting = (read_container(pod).get("state") or {}).get("waiting") or {}
    reason, message = waiting.get("reason", ""), " ".join((waiting.get("message") or "").split())
    image = read_image(pod)
    if reason in ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"):
        # The runtime wraps the reason in the image's name, several times.
        said = message.rpartition("failed to do request: ")[2].rpartition(f'"{image}": ')[2]
        return (
            f"the image {image} cannot be pulled: {said or reason}",
            "check platform.image and platform.image.pullSecrets, then submit with --replace",
        )
    if reason in ("CreateContainerConfigError", "CreateContainerError", "RunContainerError"):
        return f"the container cannot be made: {message or reason}", "correct what it names"
    return "", ""


def explain_not_started(pod: Manifest) -> tuple[str, ...]:
    """Say why a pod's container has not started: also of a pod that its node has refused."""
    end = read_end(pod)
    return (end.describe(),) if end else explain_waiting(pod)


def explain_preparation(api: Api, pods: Iterable[Manifest]) -> str:
    """Say why a node cannot prepare one of these pods: a volume that it cannot mount, most often.

    Nothing where all are prepared, or where something else has come after such a failure.
    """
    waiting = {pod["metadata"]["uid"]: pod for pod in pods if _is_being_prepared(pod)}
    if not waiting:
        return ""
    for reason in _UNPREPARED:
        try:
            events = api.select(EVENTS, fields=f"involvedObject.kind=Pod,reason={reason}")
        except NotPermittedError:
            return ""
        for event in events:
            pod = waiting.get(event["involvedObject"].get("uid", ""))
            newest = select_events(api, pod)[-1:] if pod is not None else []
            if pod is not None and newest and newest[0].get("reason") in _UNPREPARED:
                message = " ".join(str(newest[0].get("message", "")).split())
                return f"{pod['metadata']['name']}: its node cannot prepare it: {message}"
    return ""


def is_pulling(api: Api, pod: Manifest) -> bool:
    """Whether the node of a pod that has not started is at its image, by its newest event."""
    newest = select_events(api, pod)[-1:]
    return bool(newest) and newest[0].get("reason") == "Pulling"


def _is_being_prepared(pod: Manifest) -> bool:
    """Whether a pod has a node, and its container has not started."""
    state = read_container(pod).get("state") or {}
    is_placed = bool(pod["spec"].get("nodeName"))
    return is_placed and not state.keys() & {"running", "terminated"} and not has_ended(pod)


def _explain_unschedulable(pod: Manifest, message: str) -> tuple[str, str]:
    if "persistentvolumeclaim" in message.lower():
        return (
            f"a claim is not ready: {message}",
            f"see `kubectl describe pvc -n {pod['metadata']['namespace']}`: does the claim exist, "
            "and has its class a provisioner?",
        )
    message = _ASIDE.split(message)[0].rstrip(".")
    short = {name: int(nodes) for nodes, name in _INSUFFICIENT.findall(message)}
    # A node of another kind lacks more than what is missing: that is short on the most nodes.
    wanted = sorted(name for name, nodes in short.items() if nodes == max(short.values()))
    if wanted:
        requests = pod["spec"]["containers"][0].get("resources", {}).get("requests", {})
        amounts = [f"{requests.get(name, 'enough')} {name}" for name in wanted]
        return (
            f"no node has {' and '.join(amounts)} free: {message}",
            "wait until others finish, or ask for less (--gpus, platform.cpusPerNode, "
            "platform.memoryGibPerNode)",
        )
    return (
        f"no node fits: {message}",
        "check platform.nodeSelector, platform.tolerations and platform.affinity",
    )
