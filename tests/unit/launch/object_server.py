"""An API server that keeps objects, and answers reads, lists, merge patches and dry runs."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import urllib3

from clusterfit.launch.api import Api, Resource
from clusterfit.launch.connection import Connection
from clusterfit.launch.manifests import Manifest


class Objects:
    """What the server holds, by path; tests put in and look."""

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace
        self.by_path: dict[str, Manifest] = {}
        self.kinds = {"pods", "jobs", "pytorchjobs", "events", "workloads", "configmaps"}
        self.may_create_roles = True
        self.judge: Callable[[Manifest], tuple[int, str] | None] = lambda _: None
        """What a dry run of an object is answered with: a status and a message; None: accepted."""

    def put(self, resource: Resource, manifest: Manifest) -> None:
        """Create or replace an object."""
        self.by_path[self._path(resource, manifest["metadata"]["name"])] = manifest

    def get(self, resource: Resource, name: str) -> Manifest:
        """Return an object as it is now."""
        return self.by_path[self._path(resource, name)]

    def remove(self, resource: Resource, name: str) -> None:
        """Delete an object."""
        del self.by_path[self._path(resource, name)]

    def _path(self, resource: Resource, name: str) -> str:
        return f"{resource.path(self.namespace)}/{name}"


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
    wanted = (part.split("=", 1) for part in selector.split(",") if part)
    return all(labels.get(key) == value for key, value in wanted)


@contextmanager
def serve_objects(namespace: str = "team") -> Iterator[tuple[Api, Objects]]:
    """Run a server on 127.0.0.1 and connect to it."""
    objects = Objects(namespace)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self, status: int, body: Any) -> None:
            text = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def do_GET(self) -> None:
            path, _, query = self.path.partition("?")
            if path in objects.by_path:
                self.answer(200, objects.by_path[path])
                return
            if path.rpartition("/")[2] in objects.kinds:
                parameters = urllib3.util.parse_url(f"http://x/?{query}").query or ""
                pairs = dict(part.split("=", 1) for part in parameters.split("&") if part)
                selector = pairs.get("labelSelector", "").replace("%2F", "/").replace("%3D", "=")
                selector = selector.replace("%2C", ",")
                items = [
                    item
                    for place, item in objects.by_path.items()
                    if place.startswith(f"{path}/") and has_labels(item, selector)
                ]
                self.answer(200, {"items": items})
                return
            self.answer(404, {"message": f"{path} not found", "reason": "NotFound"})

        def do_POST(self) -> None:
            manifest = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            path, _, query = self.path.partition("?")
            if path.startswith("/apis/authorization.k8s.io/"):
                self.answer(201, {"status": {"allowed": objects.may_create_roles}})
                return
            assert query == "fieldValidation=Strict&dryRun=All", "nothing is created"
            if path.rpartition("/")[2] not in objects.kinds:
                self.answer(404, "404 page not found")
            elif f"{path}/{manifest['metadata']['name']}" in objects.by_path:
                self.answer(409, {"message": "already exists", "reason": "AlreadyExists"})
            elif verdict := objects.judge(manifest):
                self.answer(verdict[0], {"message": verdict[1]})
            else:
                self.answer(201, manifest)

        def do_PATCH(self) -> None:
            path = self.path.partition("?")[0]
            change = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if path not in objects.by_path:
                self.answer(404, {"message": f"{path} not found", "reason": "NotFound"})
                return
            objects.by_path[path] = merge(objects.by_path[path], change)
            self.answer(200, objects.by_path[path])

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    address = f"http://127.0.0.1:{server.server_address[1]}"
    connection = Connection(address, urllib3.PoolManager(), dict)
    try:
        yield Api(lambda: connection, namespace), objects
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
