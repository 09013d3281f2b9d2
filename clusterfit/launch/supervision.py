"""Whether a release's supervisor does its work: nobody else starts a held stage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from clusterfit.launch.api import JOBS, PODS, Api
from clusterfit.launch.jobs import QUEUE_LABEL, has_condition
from clusterfit.launch.manifests import Manifest
from clusterfit.launch.plan import RELEASE_LABEL, ROLE_LABEL, RUN_LABEL, Plan
from clusterfit.launch.pods import explain_waiting, is_running, read_end, select_events
from clusterfit.logline import parse_line

_TAIL_LINES: Final = 20
"""Enough to hold a line of ours, whatever a library says besides."""


@dataclass(frozen=True, slots=True)
class Supervision:
    """What keeps the supervisor from its work; nothing where it works, or where there is none."""

    queue: str = ""
    """The queue that Kueue has put it in, which nobody asked for."""
    trouble: str = ""
    """Why it does not run."""
    retries: str = ""
    """Why what it tries again and again does not succeed."""


def read_supervision(api: Api, plan: Plan, *, is_overdue: bool = False) -> Supervision:
    """Look at the supervisor of a release.

    Args:
        api: The namespace.
        plan: Of the release.
        is_overdue: Whether it should have released a stage by now: then also one that runs is
            asked, by its log, what keeps it.
    """
    if plan.sequencing != "cluster":
        return Supervision()
    job = api.find(JOBS, plan.supervisor)
    if job is None:
        return Supervision(trouble="its Job was removed")
    if job["spec"].get("suspend", False):
        # Without a queue's label it was cancelled with its stages, which say so themselves.
        return Supervision(queue=str(job["metadata"].get("labels", {}).get(QUEUE_LABEL, "")))
    if has_condition(job, "Failed"):
        return Supervision(trouble="its Job has failed")
    newest = _find_newest_pod(api, plan)
    if newest is None:
        return Supervision(trouble=_find_refusal(api, job))
    end = read_end(newest)
    if end and end.exit_code != 0:
        return Supervision(trouble=f"its pod has ended: {end.describe()}")
    trouble = explain_waiting(newest)[0]
    if trouble or not is_overdue or not is_running(newest):
        return Supervision(trouble=trouble)
    return Supervision(retries=_find_retries(api, newest))


def _find_newest_pod(api: Api, plan: Plan) -> Manifest | None:
    labels = f"{RUN_LABEL}={plan.run},{RELEASE_LABEL}={plan.release},{ROLE_LABEL}=supervisor"
    pods = api.select(PODS, labels=labels)
    return max(pods, key=lambda pod: str(pod["metadata"]["creationTimestamp"]), default=None)


def _find_refusal(api: Api, job: Manifest) -> str:
    refused = [
        str(event.get("message", "refused"))
        for event in select_events(api, job)
        if event.get("reason") == "FailedCreate"
    ]
    return refused[-1] if refused else ""


def _find_retries(api: Api, pod: Manifest) -> str:
    """Return what it says that it tries again, where that is its last word; it says that once."""
    for line in reversed(api.read_log(pod["metadata"]["name"], _TAIL_LINES)):
        fields = parse_line(line) or {}
        # What it sees of the stages it says meanwhile, too.
        if fields.get("msg", "phase") != "phase":
            return fields.get("why", "") if fields["msg"] == "retrying" else ""
    return ""
