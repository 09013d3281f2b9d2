"""`put` and `get` as they are typed: whose claims they mean, and where."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from clusterfit.config.tree import RunFile
from clusterfit.launch import files
from clusterfit.launch.api import PODS
from clusterfit.launch.helm import HelmLibrary
from clusterfit.launch.manifests import Manifest
from clusterfit.launch.plan import RUN_LABEL
from clusterfit.launch.render import render_run
from tests.unit.cli.conftest import DIGITS, RunCommand
from tests.unit.launch.api_server import write_kubeconfig
from tests.unit.launch.here_command import HereCommand
from tests.unit.launch.object_server import Objects

OWN = {"storage": {"claim": "ours", "subPath": "us"}}


@pytest.fixture
def pods(submitted: Objects, claims: Path, monkeypatch: pytest.MonkeyPatch) -> list[Manifest]:
    """The pod of each command that is run in one, in their order."""
    pods: list[Manifest] = []
    assert claims.is_dir()

    class Command(HereCommand):
        def __init__(self, api: object, pod: str, command: list[str]) -> None:
            pods.append(submitted.get(PODS, pod))
            super().__init__(api, pod, command)

    monkeypatch.setattr(files, "RemoteCommand", Command)
    return pods


def list_claims(pods: list[Manifest]) -> set[str]:
    """Return the names of the claims that pods mount."""
    return {
        volume["persistentVolumeClaim"]["claimName"]
        for pod in pods
        for volume in pod["spec"]["volumes"]
        if "persistentVolumeClaim" in volume
    }


@pytest.mark.parametrize("submitted", [OWN], indirect=True)
def test_a_submitted_run_is_reached_by_its_own_claims(
    submitted: Objects,
    claims: Path,
    pods: list[Manifest],
    run_command: RunCommand,
    tmp_path: Path,
) -> None:
    values = DIGITS | {"name": "other", "platform": {"gpus": 0, "storage": {"claim": "theirs"}}}
    other = RunFile.model_validate_json(json.dumps(values))
    submitted.install(render_run(HelmLibrary(), other, "team").manifests)
    (tmp_path / "weights").write_text("7")
    assert run_command("put", "weights", "storage:digits/", "--run", "digits").code == 0
    assert (claims / "storage/us/digits/weights").read_text() == "7"
    assert {pod["metadata"]["labels"][RUN_LABEL] for pod in pods} == {"digits"}
    assert list_claims(pods) == {"ours"}
    assert run_command("get", "storage:digits", "out", "--run", "digits").code == 0
    assert (tmp_path / "out/weights").read_text() == "7"
    assert list_claims(pods) == {"ours"}

    pods.clear()
    assert run_command("put", "weights", "storage:", "--run", "other").code == 0
    assert (claims / "storage/weights").read_text() == "7"
    assert run_command("get", "storage:weights", "out", "--run", "other").code == 0
    assert list_claims(pods) == {"theirs"}


@pytest.mark.parametrize("whose", ["--run=digits", "--file=run.yaml"])
def test_a_namespace_that_is_named_is_the_one_meant(
    whose: str,
    submitted: Objects,
    claims: Path,
    run_command: RunCommand,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    here = {"here": submitted.address}
    path = write_kubeconfig(tmp_path / "elsewhere", here, namespace="elsewhere")
    monkeypatch.setenv("KUBECONFIG", str(path))
    (tmp_path / "run.yaml").write_text(json.dumps(DIGITS))
    assert run_command("put", "run.yaml", "storage:", whose, "-n", "team").code == 0
    assert run_command("get", "storage:run.yaml", "out", whose, "-n", "team").code == 0
    assert (tmp_path / "out/run.yaml").read_bytes() == (claims / "storage/run.yaml").read_bytes()
    assert [path for _, path in submitted.requests if "/elsewhere/" in path] == []


@pytest.mark.parametrize("options", [(), ("-f", "run.yaml", "--run", "digits")])
@pytest.mark.parametrize("command", [("put", ".", "storage:"), ("get", "storage:", "out")])
def test_whose_claims_is_said_once(
    command: tuple[str, ...],
    options: tuple[str, ...],
    submitted: Objects,
    run_command: RunCommand,
) -> None:
    answer = run_command(*command, *options)
    assert (answer.code, answer.out) == (64, "")
    assert answer.err.startswith("error: whose claims? give a run file (-f FILE) or a submitted")
    assert submitted.requests == []
