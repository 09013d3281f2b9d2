"""What a cluster must have before anything of a release is created in it."""

from __future__ import annotations

import contextlib
import re
from typing import Final

from clusterfit.launch.access import Access
from clusterfit.launch.api import (
    ACCOUNTS,
    CLAIMS,
    LOCAL_QUEUES,
    NEWER_LOCAL_QUEUES,
    PYTORCHJOBS,
    ROLES,
    Api,
    Resource,
    check_namespace,
    is_allowed,
)
from clusterfit.launch.charts import STORAGE_CHART, find_chart
from clusterfit.launch.failures import (
    AlreadyExistsError,
    ClusterError,
    NotFoundError,
    NotPermittedError,
    RefusedError,
)
from clusterfit.launch.helm import format_command
from clusterfit.launch.manifests import Manifest
from clusterfit.launch.render import Rendered

_UNKNOWN_FIELD: Final = re.compile(r'unknown field "([^"]+)"')


def check_cluster(api: Api, access: Access, rendered: Rendered) -> None:
    """See what the cluster must have before anything is created.

    Raises:
        ClusterError: It lacks a claim, a queue or a right, or its operator is too old; one line
            for each. Without the operator, or the right to make its jobs, it is that alone.
    """
    faults = []
    platform = rendered.run.platform
    check_namespace(api)  # whoever may not read namespaces learns it from the objects
    by_kind = {manifest["kind"]: manifest for manifest in rendered.manifests}
    if "PyTorchJob" in by_kind:
        faults += _find_operator_faults(api, by_kind["PyTorchJob"])
    claims = {platform.data.claim: "data", platform.storage.claim: "storage"}
    for claim, use in sorted(claims.items()):
        try:
            if claim and api.find(CLAIMS, claim) is None:
                chart = str(find_chart(STORAGE_CHART))
                make = format_command(access, "install", use, chart, "--set", f"claim={claim}")
                faults.append(
                    f"claim {claim}: not found in namespace {api.namespace}; make it (`{make}`), "
                    f"or set platform.{use}.claim"
                )
        except NotPermittedError:
            pass
    account = platform.sequencing.service_account
    if platform.sequencing.mode == "cluster" and account:
        with contextlib.suppress(NotPermittedError):
            if api.find(ACCOUNTS, account) is None:
                faults.append(
                    f"platform.sequencing.serviceAccount: no service account {account} in "
                    f"namespace {api.namespace}; an administrator makes it, with the rights to get "
                    "and patch jobs and pytorchjobs and to get pods"
                )
    if "Role" in by_kind and not is_allowed(api, "create", ROLES):
        faults.append(
            f"no permission to create roles in namespace {api.namespace}; set "
            "platform.sequencing.serviceAccount to an account that an administrator made, or "
            "platform.sequencing.mode: client with `submit --follow`"
        )
    faults += _find_queue_faults(api, rendered)
    if faults:
        raise ClusterError(*faults)


def _find_operator_faults(api: Api, manifest: Manifest) -> list[str]:
    """Try a job on the server, which names the fields that its PyTorchJob does not have.

    Helm would leave them out without a word: without `suspend` all stages would start at once.
    """
    try:
        api.create(PYTORCHJOBS, manifest, dry_run=True)
    except AlreadyExistsError:
        return []  # the fields were looked at before the name
    except RefusedError as error:
        # Anything else may be different once what is in the way was removed.
        fields = _UNKNOWN_FIELD.findall(str(error))
        if fields:
            return [
                f"the cluster's PyTorchJob has no {', '.join(fields)}: its operator is too old; an "
                "administrator must install the Kubeflow training operator, v1.8 or v1.9"
            ]
    return []


def _find_queue_faults(api: Api, rendered: Rendered) -> list[str]:
    queue = rendered.run.platform.queue
    names = _list_queues(api, LOCAL_QUEUES)
    if queue.gang == "kueue":
        if names is None:
            return [
                "platform.queue: the cluster serves no LocalQueue of kueue.x-k8s.io/v1beta1 that "
                "you may list; is Kueue installed? (0.20 and later do not serve that version)"
            ]
        if queue.name in names:
            return []
        there = f"there are {', '.join(sorted(names))}" if names else "there are none"
        return [
            f"platform.queue.name: no LocalQueue {queue.name} in namespace {api.namespace}; {there}"
        ]
    # It takes what carries no label of its own, whichever scheduler places the pods.
    if "default" in (names or ()):
        return [
            f"namespace {api.namespace} has a LocalQueue `default`, in which Kueue may put every "
            "stage at once; set platform.queue: {gang: kueue, name: default}, or use another "
            "namespace"
        ]
    if names is None and "default" in (_list_queues(api, NEWER_LOCAL_QUEUES) or ()):
        return [
            f"namespace {api.namespace} has a LocalQueue `default` of a Kueue that is too new for "
            "clusterfit (0.20 or later), which would start every stage at once; use another "
            "namespace"
        ]
    return []


def _list_queues(api: Api, resource: Resource) -> set[str] | None:
    """Return the names of the namespace's queues; None where they are not served, or not to us."""
    try:
        return {item["metadata"]["name"] for item in api.select(resource)}
    except (NotFoundError, NotPermittedError):
        return None
