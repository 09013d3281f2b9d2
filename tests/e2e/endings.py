"""How a stage ends that does not succeed: in the cluster, and as everybody who asks is told."""

from __future__ import annotations

from tests.cluster.manifests import Object, phase
from tests.e2e.digits import RUN
from tests.e2e.product import Product

BOUND_SECONDS = 420
"""Three attempts, each with a start of torch on a busy machine."""


def exit_code(pod: Object) -> int:
    """The code that a pod has ended with."""
    code: int = pod["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"]
    return code


def check_failed(product: Product, stage: str, code: int, cause: str) -> None:
    """See that a stage failed for good, holds nothing, and that everybody who asks is told so."""
    product.wait_for_failure(stage, BOUND_SECONDS)
    # Peers end long before they would be killed, and hold nothing after that.
    pods = product.wait_for_pods(
        stage, lambda pods: {phase(pod) for pod in pods} == {"Failed"}, timeout_seconds=60
    )
    assert code in map(exit_code, pods)
    status, stages = product.status()
    assert status == 1
    assert stages[stage]["phase"] == "failed"
    assert f"exit code {code}" in stages[stage]["cause"]
    said = product.succeed("logs", RUN, stage, "--all-ranks")
    assert cause in said.stdout
    product.type("wait", RUN).expect(1)
    # The failure is the stage's: a supervisor that failed as well would be a second alarm.
    (supervisor,) = product.wait_for_pods(
        "", lambda pods: {phase(pod) for pod in pods} <= {"Succeeded", "Failed"}, role="supervisor"
    )
    assert phase(supervisor) == "Succeeded"
    assert f'outcome="{stage} failed"' in product.log(supervisor["metadata"]["name"])


def was_stopped(job: Object) -> bool:
    """Whether somebody has suspended a job; one whose turn has not come is suspended as well."""
    is_suspended = bool(job["spec"].get("runPolicy", job["spec"]).get("suspend"))
    return is_suspended and "clusterfit.dev/stopped" in job["metadata"].get("annotations", {})


def check_suspended(product: Product, stage: str, cause: str) -> None:
    """See that the supervisor stopped a stage, gave back its pods and says why."""
    product.wait_for_job(stage, was_stopped, BOUND_SECONDS)
    product.wait_for_pods(stage, lambda pods: not pods)
    status, stages = product.status()
    assert (status, stages[stage]["phase"]) == (0, "suspended")
    assert stages[stage]["cause"].startswith("suspended by the supervisor: ")
    assert cause in stages[stage]["cause"]
    assert stages[stage]["advice"].startswith(f"clusterfit resume {RUN} ")
    waited = product.type("wait", RUN).expect(1)
    assert cause in waited.stderr
    assert f"{stage}: goes on only after `clusterfit resume {RUN} -n " in waited.stderr
