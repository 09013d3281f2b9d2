"""An API server that keeps objects: reads, lists, merge patches, deletes and dry runs.

Logs are what a test says; a pod that mounts the claim is run here, to its end, where a test has
given a folder for the claim.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import urllib3

from clusterfit.launch.api import PODS, Api, Resource, find_resource
from clusterfit.launch.connection import Connection
from clusterfit.launch.manifests import Manifest
from clusterfit.launch.plan import ROLE_LABEL, RUN_LABEL, STAGE_LABEL, PlannedStage

from .api_server import RESET, QuietHandler, listen, reset_connection, status_body

CREATED = "2026-11-23T12:00:00Z"


class Objects:
    """What the server holds, by path; tests put in and look."""

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace
        self.address = ""
        self.by_path: dict[str, Manifest] = {}
        self.kinds = {
            "pods", "jobs", "pytorchjobs", "events", "workloads", "configmaps", "roles",
            "rolebindings", "serviceaccounts", "networkpolicies", "secrets", "resourcequotas",
        }  # fmt: skip
        self.may_create_roles = True
        self.judge: Callable[[Manifest], tuple[int, str] | None] = lambda _: None
        """What a dry run of an object is answered with: a status and a message; None: accepted."""
        self.logs: dict[str, list[str]] = {}
        """By pod: lines with the kubelet's time stamp."""
        self.unreadable: dict[str, int] = {}
        """By pod: a status that is answered instead of its log."""
        self.storage: Path | None = None
        """What pods that read the claim find at /storage."""
        self.pods_last = False
        """Whether pods that are created run until they are deleted, as those of `put` do."""
        self.trouble: deque[int] = deque()
        """Statuses that are answered first, whatever is asked; RESET breaks the connection."""
        self.requests: list[tuple[str, str]] = []
        """Method and path of each, in their order."""
        self.look_on: Callable[[str, str], None] = lambda _method, _path: None
        """Is told of each request before it is answered, and may change what there is."""

    def put(self, resource: Resource, manifest: Manifest) -> None:
        """Create or replace an object."""
        self.by_path[self._path(resource, manifest["metadata"]["name"])] = manifest

    def install(self, manifests: list[Manifest], created: str = CREATED) -> None:
        """Create what a chart renders, as `kubectl create` does."""
        for manifest in manifests:
            metadata = {"uid": f"uid-{len(self.by_path)}", "creationTimestamp": created}
            made = {**manifest, "metadata": {**manifest["metadata"], **metadata}}
            self.put(find_resource(manifest), made)

    def get(self, resource: Resource, name: str) -> Manifest:
        """Return an object as it is now."""
        return self.by_path[self._path(resource, name)]

    def remove(self, resource: Resource, name: str) -> None:
        """Delete an object."""
        del self.by_path[self._path(resource, name)]

    def find_config_map(self) -> Manifest:
        """Return the one ConfigMap that there is: a release's."""
        (found,) = (item for path, item in self.by_path.items() if "/configmaps/" in path)
        return found

    def answer(
        self, method: str, path: str, query: Mapping[str, str], body: Any
    ) -> tuple[int, Any]:
        """Return the status and what is answered: JSON, or the bytes of a log."""
        if path == "/version":
            return 200, {"major": "1", "minor": "34", "gitVersion": "v1.34.0"}
        if method == "POST":
            return self._create(path, query, body)
        *_, kind, name = path.split("/")
        if method == "GET" and name == "log" and kind in self.unreadable:
            return self.unreadable[kind], status_body(f"dial tcp: no route to the node of {kind}")
        if method == "GET" and name == "log":
            return 200, self._read_log(kind, query)
        if method == "GET" and path not in self.by_path and name in self.kinds:
            return 200, {"items": self._select(path, query)}
        if path not in self.by_path:
            return 404, status_body(f"{path} not found", "NotFound")
        if method == "DELETE":
            return 200, self.by_path.pop(path)
        if method == "PATCH":
            seen = body.get("metadata", {}).get("resourceVersion")
            if seen not in (None, self.by_path[path]["metadata"].get("resourceVersion")):
                return 409, status_body("the object has been modified", "Conflict")
            self.by_path[path] = merge(self.by_path[path], body)
        return 200, self.by_path[path]

    def _select(self, path: str, query: Mapping[str, str]) -> list[Manifest]:
        return [
            item
            for place, item in sorted(self.by_path.items())  # by name, as etcd keeps them
            if place.startswith(f"{path}/")
            and has_labels(item, query.get("labelSelector", ""))
            and has_fields(item, query.get("fieldSelector", ""))
        ]

    def _create(self, path: str, query: Mapping[str, str], body: Any) -> tuple[int, Any]:
        if path.startswith("/apis/authorization.k8s.io/"):
            return 201, {"status": {"allowed": self.may_create_roles}}
        assert query["fieldValidation"] == "Strict"
        if path.rpartition("/")[2] not in self.kinds:
            return 404, b"404 page not found"
        if f"{path}/{body['metadata']['name']}" in self.by_path:
            return 409, status_body("already exists", "AlreadyExists")
        if query.get("dryRun") == "All":
            verdict = self.judge(body)
            return (verdict[0], status_body(verdict[1])) if verdict else (201, body)
        assert path == PODS.path(self.namespace), "nothing else is created"
        if self.pods_last:
            self.put(PODS, {**body, "status": {"containerStatuses": [{"state": {"running": {}}}]}})
            return 201, body
        assert self.storage is not None, "no claim is there"
        self.put(PODS, {**body, "status": self._run(body, self.storage)})
        return 201, body

    def _run(self, pod: Manifest, storage: Path) -> Any:
        """Run a pod's command as if the claim were mounted; return the pod's status."""
        _, *words = pod["spec"]["containers"][0]["command"]
        words = [word.replace("/storage/", f"{storage}/", 1) for word in words]
        done = subprocess.run(
            [sys.executable, *words], capture_output=True, text=True, check=False, cwd=storage
        )
        stamp = write_stamp(datetime.now(UTC))
        said = (done.stdout + done.stderr).splitlines()
        self.logs[pod["metadata"]["name"]] = [f"{stamp} {line}" for line in said]
        ended = {"exitCode": done.returncode, "reason": "Completed"}
        return {"phase": "Succeeded", "containerStatuses": [{"state": {"terminated": ended}}]}

    def _read_log(self, pod: str, query: Mapping[str, str]) -> bytes:
        since = query.get("sinceTime", "")
        if "sinceSeconds" in query:
            moment = datetime.now(UTC) - timedelta(seconds=int(query["sinceSeconds"]))
            since = write_stamp(moment)
        # The server knows whole seconds only.
        lines = [line for line in self.logs.get(pod, ()) if line[:19] >= since[:19]]
        lines = lines[-int(query.get("tailLines", "0")) :]
        if query.get("timestamps") != "true":
            lines = [line.partition(" ")[2] for line in lines]
        return "".join(f"{line}\n" for line in lines).encode()

    def _path(self, resource: Resource, name: str) -> str:
        return f"{resource.path(self.namespace)}/{name}"


def worker_pod(
    stage: PlannedStage, name: str, *, node: int = 0, second: int = 0, code: int | None = None
) -> Manifest:
    """Return a pod of a stage that was created in a second, and has ended where a code is given."""
    run = stage.name.removesuffix(f"-{stage.stage}")
    labels = {RUN_LABEL: run, STAGE_LABEL: stage.stage, ROLE_LABEL: "worker"}
    if stage.kind == "PyTorchJob":
        labels["training.kubeflow.org/replica-index"] = str(node)
    metadata = {
        "name": name,
        "uid": f"uid-of-{name}",
        "creationTimestamp": f"2026-11-23T12:00:{second:02}Z",
        "labels": labels,
    }
    state: Any = {"running": {}} if code is None else {"terminated": {"exitCode": code}}
    spec = {"containers": [{"image": "registry.example/clusterfit:1"}]}
    status = {"containerStatuses": [{"state": state}]}
    return {"metadata": metadata, "spec": spec, "status": status}


def write_stamp(moment: datetime) -> str:
    """Write a moment as the kubelet and the workers do."""
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def merge(target: Any, change: Any) -> Any:
    """Apply a JSON merge patch (RFC 7386)."""
    if not isinstance(change, dict):
        return change
    merged = dict(target) if isinstance(target, dict) else {}
    for key, value in change.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = merge(merged.get(key), value)
    return merged


def has_labels(manifest: Manifest, selector: str) -> bool:
    labels = manifest["metadata"].get("labels", {})
    for part in filter(None, selector.split(",")):
        key, equals, value = part.partition("=")
        is_same = labels.get(key.removesuffix("!")) == value if equals else key in labels
        if is_same is key.endswith("!"):
            return False
    return True


def has_fields(manifest: Manifest, selector: str) -> bool:
    def read(dotted: str) -> Any:
        found: Any = manifest
        for key in dotted.split("."):
            found = found[key]
        return found

    wanted = (part.split("=", 1) for part in selector.split(",") if part)
    return all(read(dotted) == value for dotted, value in wanted)


@contextmanager
def serve_objects(namespace: str = "team") -> Iterator[tuple[Api, Objects]]:
    """Run a server on 127.0.0.1 and connect to it."""
    objects = Objects(namespace)

    class Handler(QuietHandler):
        def handle_any(self) -> None:
            url = urlsplit(self.path)
            content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            objects.requests.append((self.command, url.path))
            objects.look_on(self.command, url.path)
            status, body = (
                (objects.trouble.popleft(), status_body("in trouble"))
                if objects.trouble
                else objects.answer(
                    self.command, url.path, dict(parse_qsl(url.query)), json.loads(content or "0")
                )
            )
            if status == RESET:
                reset_connection(self)
                return
            text = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            kind = "text/plain" if isinstance(body, bytes) else "application/json"
            self.send_header("Content-Type", kind)
            self.end_headers()
            self.wfile.write(text)

        do_GET = do_POST = do_PATCH = do_DELETE = handle_any  # noqa: N815 - http.server's names

    with listen(Handler) as address:
        objects.address = address
        connection = Connection(address, urllib3.PoolManager(), dict)
        yield Api(lambda: connection, namespace), objects
