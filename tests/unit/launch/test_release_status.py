"""What Helm itself says of a release, read from an API server that has none, or one."""

from __future__ import annotations

import base64
import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from clusterfit.launch.access import Access
from clusterfit.launch.helm import HelmError, HelmLibrary, find_helm

from .api_server import Answer, serve, status_body, write_kubeconfig

VERSION = {"major": "1", "minor": "31", "gitVersion": "v1.31.0"}


def answer(body: Any, status: int = 200) -> Answer:
    return Answer(status, body, {"Content-Type": "application/json"})


def list_secrets(*items: Any) -> Answer:
    return answer({"apiVersion": "v1", "kind": "SecretList", "metadata": {}, "items": items})


def record(name: str, status: str) -> Any:
    """Return the secret in which Helm keeps a release."""
    release = {
        "name": name,
        "namespace": "team",
        "version": 1,
        "info": {"status": status},
        "chart": {"metadata": {"apiVersion": "v2", "name": "chart", "version": "1.0.0"}},
    }
    packed = base64.b64encode(gzip.compress(json.dumps(release).encode()))
    labels = {"owner": "helm", "name": name, "status": status, "version": "1"}
    return {
        "metadata": {"name": f"sh.helm.release.v1.{name}.v1", "labels": labels},
        "type": "helm.sh/release.v1",
        "data": {"release": base64.b64encode(packed).decode()},
    }


def find_status(folder: Path, secrets: Answer) -> str:
    with serve(folder, answer(VERSION), secrets) as server:
        access = Access("team", "", str(server.kubeconfig))
        return find_helm().find_status("digits-step1", access)


@pytest.mark.parametrize("status", ["deployed", "failed", "pending-install"])
def test_a_release_is_found_with_its_status(tmp_path: Path, status: str) -> None:
    assert find_status(tmp_path, list_secrets(record("digits-step1", status))) == status


def test_no_release_has_no_status(tmp_path: Path) -> None:
    assert find_status(tmp_path, list_secrets()) == ""


def test_who_may_not_look_is_told_so(tmp_path: Path) -> None:
    said = 'secrets is forbidden: User "ann" cannot list resource "secrets" in API group ""'
    with pytest.raises(HelmError, match='User "ann" cannot list resource "secrets"'):
        find_status(tmp_path, answer(status_body(said, "Forbidden"), 403))


@pytest.mark.parametrize("access", [{"context": "there"}, {"current": "there"}])
def test_it_is_read_in_the_context_that_is_meant(tmp_path: Path, access: dict[str, str]) -> None:
    """The bundled Helm would take the kubeconfig's current one, where nobody answers."""
    release = list_secrets(record("digits-step1", "deployed"))
    with serve(tmp_path, answer(VERSION), release) as server:
        config = yaml.safe_load(server.kubeconfig.read_text())
        (cluster,) = (item["cluster"]["server"] for item in config["clusters"])
        servers = {"here": "http://127.0.0.1:9", "there": cluster}
        path = write_kubeconfig(tmp_path / "both", servers, namespace="team")
        meant = Access("team", kubeconfig=str(path), **access)
        assert HelmLibrary().find_status("digits-step1", meant) == "deployed"
