"""Whether a release's supervisor does its work: nobody else starts a held stage."""

from __future__ import annotations

from dataclasses import dataclass

from clusterfit.launch.api import JOBS, PODS, Api
from clusterfit.launch.jobs import QUEUE_LABEL, has_condition
from clusterfit.launch.manifests import Manifest
from clusterfit.launch.plan import RELEASE_LABEL, ROLE_LABEL, RUN_LABEL, Plan
from clusterfit.launch.pods import explain_waiting, select_events


@dataclass(frozen=True, slots=True)
class Supervision:
    """What keeps the supervisor from its work; nothing where it runs, or where there is none."""

    queue: str = ""
    """The queue that Kueue has put it in, which nobody asked for."""
    trouble: str = ""
    """Why it does not run."""


def read_supervision(api: Api, plan: Plan) -> Supervision:
    """Look at the supervisor of a release."""
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
    return Supervision(trouble=_explain_pods(api, plan, job))


def _explain_pods(api: Api, plan: Plan, job: Manifest) -> str:
    labels = f"{RUN_LABEL}={plan.run},{RELEASE_LABEL}={plan.release},{ROLE_LABEL}=supervisor"
    pods = api.select(PODS, labels=labels)
    if pods:
        newest = max(pods, key=lambda pod: str(pod["metadata"]["creationTimestamp"]))
        return explain_waiting(newest)[0]
    refused = [
        str(event.get("message", "refused"))
        for event in select_events(api, job)
        if event.get("reason") == "FailedCreate"
    ]
    return refused[-1] if refused else ""
