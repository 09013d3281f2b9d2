"""The API server's verbs on plain dicts, with patience for a server that is briefly away."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any, Final
from urllib.parse import urlencode

import urllib3

from clusterfit.launch.connection import Connection
from clusterfit.launch.failures import (
    ClusterError,
    NotFoundError,
    NotPermittedError,
    explain_answer,
)
from clusterfit.launch.manifests import Manifest
from clusterfit.launch.patience import Patience

_TIMEOUT: Final = urllib3.Timeout(connect=5, read=30)
_SKEW: Final = timedelta(seconds=5)
_FOLLOWED: Final = urllib3.Timeout(connect=5, read=None)
_MERGE_PATCH: Final = "application/merge-patch+json"


@dataclass(frozen=True, slots=True)
class Resource:
    """One kind of object, as paths and manifests name it."""

    api_version: str
    plural: str
    kind: str
    is_namespaced: bool = True

    def path(self, namespace: str) -> str:
        """Return where the objects of a namespace are."""
        root = "/api" if "/" not in self.api_version else "/apis"
        place = f"/namespaces/{namespace}" if self.is_namespaced else ""
        return f"{root}/{self.api_version}{place}/{self.plural}"

    def __str__(self) -> str:
        """Return its name for messages: `pytorchjobs.kubeflow.org`."""
        group = self.api_version.rpartition("/")[0]
        return f"{self.plural}.{group}" if group else self.plural


PODS: Final = Resource("v1", "pods", "Pod")
CONFIG_MAPS: Final = Resource("v1", "configmaps", "ConfigMap")
EVENTS: Final = Resource("v1", "events", "Event")
CLAIMS: Final = Resource("v1", "persistentvolumeclaims", "PersistentVolumeClaim")
ACCOUNTS: Final = Resource("v1", "serviceaccounts", "ServiceAccount")
RESOURCE_QUOTAS: Final = Resource("v1", "resourcequotas", "ResourceQuota")
NAMESPACES: Final = Resource("v1", "namespaces", "Namespace", is_namespaced=False)
JOBS: Final = Resource("batch/v1", "jobs", "Job")
PYTORCHJOBS: Final = Resource("kubeflow.org/v1", "pytorchjobs", "PyTorchJob")
ROLES: Final = Resource("rbac.authorization.k8s.io/v1", "roles", "Role")
ROLE_BINDINGS: Final = Resource("rbac.authorization.k8s.io/v1", "rolebindings", "RoleBinding")
NETWORK_POLICIES: Final = Resource("networking.k8s.io/v1", "networkpolicies", "NetworkPolicy")
WORKLOADS: Final = Resource("kueue.x-k8s.io/v1beta1", "workloads", "Workload")
LOCAL_QUEUES: Final = Resource("kueue.x-k8s.io/v1beta1", "localqueues", "LocalQueue")
NEWER_LOCAL_QUEUES: Final = Resource("kueue.x-k8s.io/v1beta2", "localqueues", "LocalQueue")
"""Those of Kueue 0.20 and later, which does not serve v1beta1 any more."""
ACCESS_REVIEWS: Final = Resource(
    "authorization.k8s.io/v1", "selfsubjectaccessreviews", "SelfSubjectAccessReview", False
)

RELEASE_RESOURCES: Final = (
    ACCOUNTS, ROLES, ROLE_BINDINGS, NETWORK_POLICIES, CONFIG_MAPS, JOBS, PYTORCHJOBS
)  # fmt: skip
"""Every kind that the chart renders."""


def find_resource(manifest: Manifest) -> Resource:
    """Return the resource of one of the chart's objects."""
    return next(item for item in RELEASE_RESOURCES if item.kind == manifest["kind"])


class LogBrokenError(ClusterError):
    """A log's connection broke; reading can go on where it was."""


class Api:
    """One namespace of one cluster."""

    def __init__(
        self, connect: Callable[[], Connection], namespace: str, options: str = ""
    ) -> None:
        """Connect now, and again whenever the server no longer takes the credentials."""
        self.namespace = namespace
        self.options = options or f" -n {namespace}"
        """What leads another command of ours to the same place, for advice that can be copied."""
        self._connect = connect
        self._skew = timedelta(0)
        self.connection = connect()

    def now(self) -> datetime:
        """Return the present moment by the server's clock, as far as it has told: ours may be off.

        What one command writes down is compared by another one, elsewhere.
        """
        return datetime.now(UTC) + self._skew

    def log_in_again(self) -> None:
        """Read anew how to speak to the server."""
        self.connection = self._connect()

    def get(self, resource: Resource, name: str) -> Manifest:
        """Return one object.

        Raises:
            NotFoundError: It does not exist.
        """
        return self._send("GET", resource, name)

    def find(self, resource: Resource, name: str) -> Manifest | None:
        """Return one object, or None where it does not exist."""
        try:
            return self.get(resource, name)
        except NotFoundError:
            return None

    def select(self, resource: Resource, labels: str = "", fields: str = "") -> list[Manifest]:
        """Return the objects that carry the labels.

        Raises:
            ClusterError: The cluster does not know this kind of object, among others.
        """
        query = {"labelSelector": labels, "fieldSelector": fields}
        found = self._send("GET", resource, query={key: val for key, val in query.items() if val})
        items: list[Manifest] = found["items"]
        return items

    def create(self, resource: Resource, manifest: Manifest, dry_run: bool = False) -> Manifest:
        """Create an object; fields that the server does not know are refused."""
        query = {"fieldValidation": "Strict"} | ({"dryRun": "All"} if dry_run else {})
        return self._send("POST", resource, query=query, body=manifest)

    def patch(self, resource: Resource, name: str, change: Mapping[str, Any]) -> Manifest:
        """Merge a change into an object."""
        return self._send("PATCH", resource, name, body=change)

    def delete(self, resource: Resource, name: str, grace_seconds: int | None = None) -> bool:
        """Delete an object and what belongs to it; say whether there was one."""
        options: dict[str, Any] = {"propagationPolicy": "Background"}
        if grace_seconds is not None:
            options["gracePeriodSeconds"] = grace_seconds
        try:
            self._send("DELETE", resource, name, body=options)
        except NotFoundError:
            return False
        return True

    def stream_log(self, pod: str, query: Mapping[str, str]) -> Iterator[bytes]:
        """Yield a pod's log in pieces as they come.

        Raises:
            ClusterError: The server does not give the log.
            LogBrokenError: The connection broke before the log had ended.
        """
        path = f"{PODS.path(self.namespace)}/{pod}/log"
        # A log that is followed may be silent for hours; one that is there comes at once.
        timeout = _FOLLOWED if query.get("follow") == "true" else _TIMEOUT
        response = self._request("GET", path, query, None, f"read the log of {pod}", timeout)
        try:
            # read1 gives what has come; stream would wait for more of a line that is there.
            while piece := response.read1(1 << 16):
                yield piece
        except urllib3.exceptions.HTTPError as error:
            raise LogBrokenError(f"the log of {pod} broke off ({_describe(error)})") from None
        finally:
            response.close()

    def read_log(self, pod: str, tail: int) -> list[str]:
        """Return the newest lines of a pod's log; none where it has not started."""
        query = {"tailLines": str(tail)}
        try:
            text = b"".join(self.stream_log(pod, query))
        except ClusterError:
            return []
        return text.decode(errors="replace").splitlines()

    def _send(
        self,
        method: str,
        resource: Resource,
        name: str = "",
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
    ) -> Manifest:
        path = resource.path(self.namespace) + (f"/{name}" if name else "")
        verb = {"GET": "get" if name else "list", "POST": "create"}.get(method, method.lower())
        subject = name or str(((body or {}).get("metadata") or {}).get("name", ""))
        place = f" in namespace {self.namespace}" if resource.is_namespaced else ""
        what = " ".join(filter(None, (verb, str(resource), subject))) + place
        response = self._request(method, path, query or {}, body, what)
        try:
            answer: Manifest = json.loads(response.data)
        except ValueError:
            raise self._explain_stranger(what, response) from None
        return answer

    def _request(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        body: Mapping[str, Any] | None,
        what: str,
        stream: urllib3.Timeout | None = None,
    ) -> Any:
        """Send a request until it is answered or patience ends.

        A POST whose answer was lost is not sent again: it may have been carried out. With `stream`,
        the time that may pass without any of it, the answer comes in pieces.
        """
        patience = Patience(self.log_in_again)
        while True:
            try:
                response = self._send_once(method, path, query, body, stream)
            except urllib3.exceptions.HTTPError as lost:
                was_sent = not isinstance(lost, urllib3.exceptions.NewConnectionError)
                if patience.is_over or (method == "POST" and was_sent):
                    raise ClusterError(
                        f"{what}: no answer from {self.connection.server} ({_describe(lost)}); "
                        "is the cluster up, and is --context the right one?"
                    ) from None
            else:
                self._note_clock(response.headers.get("Date", ""))
                if response.status < 300:
                    return response
                if response.status < 400:
                    raise self._explain_stranger(what, response)
                error = explain_answer(response.status, response.data, what)
                # After 500 and the like a POST may have been carried out.
                may_repeat = method != "POST" or response.status in (401, 403, 429, 503)
                if not may_repeat or not patience.covers(response.status, error):
                    raise error
                patience.pause = max(patience.pause, _read_pause(response.headers))
            patience.wait()

    def _explain_stranger(self, what: str, response: Any) -> ClusterError:
        return ClusterError(
            f"{what}: {self.connection.server} does not answer as Kubernetes does (status "
            f"{response.status}, {response.headers.get('Content-Type', 'of no type')}); is it the "
            "API server, or does something before it want a login?"
        )

    def _note_clock(self, date: str) -> None:
        with contextlib.suppress(ValueError, TypeError):
            skew = parsedate_to_datetime(date) - datetime.now(UTC)
            # Whole seconds, and the way here: a difference of a few says nothing.
            self._skew = skew if abs(skew) > _SKEW else timedelta(0)

    def _send_once(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        body: Mapping[str, Any] | None,
        stream: urllib3.Timeout | None,
    ) -> Any:
        url = f"{self.connection.server}{path}" + (f"?{urlencode(query)}" if query else "")
        content_type = _MERGE_PATCH if method == "PATCH" else "application/json"
        headers = {"accept": "application/json, */*", "content-type": content_type}
        return self.connection.pool.request(
            method,
            url,
            headers=headers | self.connection.read_headers(),
            body=None if body is None else json.dumps(body).encode(),
            timeout=stream or _TIMEOUT,
            retries=False,
            preload_content=stream is None,
        )


def _read_pause(headers: Mapping[str, str]) -> float:
    """Return the seconds that the server asks for; others name a date, and they do not count."""
    try:
        return float(headers.get("Retry-After") or 0)
    except ValueError:
        return 0.0


def check_namespace(api: Api) -> None:
    """Raise NotFoundError where the namespace does not exist, as far as that may be read."""
    with contextlib.suppress(NotPermittedError):
        if api.find(NAMESPACES, api.namespace) is None:
            raise NotFoundError(
                f"namespace {api.namespace}: not found; create it, or name another with -n"
            )


def is_allowed(api: Api, verb: str, resource: Resource) -> bool:
    """Ask the server whether these credentials may do something in this namespace."""
    group = resource.api_version.rpartition("/")[0]
    attributes = {
        "namespace": api.namespace, "verb": verb, "group": group, "resource": resource.plural
    }  # fmt: skip
    review = {
        "apiVersion": ACCESS_REVIEWS.api_version,
        "kind": ACCESS_REVIEWS.kind,
        "spec": {"resourceAttributes": attributes},
    }
    try:
        return bool(api.create(ACCESS_REVIEWS, review)["status"]["allowed"])
    except NotPermittedError:
        return True  # the review itself is not allowed: let the real request find out


def _describe(error: Exception) -> str:
    reason = getattr(error, "reason", None) or error
    where = ""
    if isinstance(reason, urllib3.exceptions.ProxyError):
        where, reason = "the proxy: ", reason.original_error
    return where + (str(reason).rpartition(": ")[2] or type(error).__name__)
