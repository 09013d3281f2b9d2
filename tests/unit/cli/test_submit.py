"""`clusterfit submit` as it is typed: what is installed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from clusterfit.launch.access import Access
from clusterfit.launch.api import CLAIMS, NAMESPACES
from clusterfit.launch.helm import Values
from clusterfit.launch.manifests import Manifest, read_manifests
from tests.unit.cli.conftest import DIGITS, RunCommand
from tests.unit.launch.api_server import write_kubeconfig
from tests.unit.launch.object_server import serve_objects
from tests.unit.launch.test_submit import Helm, named


class ForgetfulHelm(Helm):
    """Keeps what each install was to create, and no release, so that another may follow."""

    def __init__(self) -> None:
        super().__init__()
        self.installed: list[list[Manifest]] = []

    def install(self, chart: Path, release: str, access: Access, values: Values) -> None:
        super().install(chart, release, access, values)
        self.releases.clear()
        made = self.render(chart, release, access.namespace, values)
        self.installed.append(read_manifests(made))


@pytest.fixture
def helm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ForgetfulHelm]:
    """What installs into an empty namespace that this user's kubeconfig leads to."""
    helm = ForgetfulHelm()
    monkeypatch.setattr("clusterfit.launch.helm.find_helm", lambda: helm)
    with serve_objects() as (_, objects):
        objects.put(NAMESPACES, named("team"))
        objects.put(CLAIMS, named("clusterfit"))
        path = write_kubeconfig(tmp_path / "config", {"here": objects.address}, namespace="team")
        monkeypatch.setenv("KUBECONFIG", str(path))
        yield helm


def find_tokens(manifests: list[Manifest]) -> list[str]:
    """Return the token with which each stage's worker is told to overwrite."""
    pods = [
        manifest["spec"]["pytorchReplicaSpecs"]["Worker"]["template"]
        if manifest["kind"] == "PyTorchJob"
        else manifest["spec"]["template"]
        for manifest in manifests
        if manifest["kind"] in ("PyTorchJob", "Job")
    ]
    commands = [pod["spec"]["containers"][0]["command"] for pod in pods]
    return [
        command[command.index("--overwrite") + 1]
        for command in commands
        if "--overwrite" in command
    ]


def test_only_a_submission_that_is_no_dry_run_installs(
    helm: ForgetfulHelm, run_command: RunCommand, tmp_path: Path
) -> None:
    (tmp_path / "run.yaml").write_text(json.dumps(DIGITS))
    submit = ("submit", "step1", "-f", "run.yaml")
    for where in ("client", "server"):
        answer = run_command(*submit, f"--dry-run={where}")
        assert answer.code == 0, answer
        assert helm.installed == [], where
    assert run_command(*submit).out.startswith("submitted")
    assert len(helm.installed) == 1


def test_each_submission_that_overwrites_does_so_once(
    helm: ForgetfulHelm, run_command: RunCommand, tmp_path: Path
) -> None:
    """A token that came again would be taken for the same submission's, started again."""
    (tmp_path / "run.yaml").write_text(json.dumps(DIGITS))
    submit = ("submit", "step1", "-f", "run.yaml")
    for options in ((), ("--overwrite",), ("--overwrite",)):
        answer = run_command(*submit, *options)
        assert answer.code == 0, answer
    without, first, second = map(find_tokens, helm.installed)
    assert without == []
    assert [len(first), len(second)] == [2, 2], "both stages are done again"
    assert len({*first}) == len({*second}) == 1
    assert first != second
