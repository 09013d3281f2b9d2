"""Running a command as a user does, in a folder of its own."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from clusterfit.cli import main
from clusterfit.config.tree import RunFile
from clusterfit.launch.helm import HelmLibrary
from clusterfit.launch.render import render_run
from tests.unit.launch.api_server import write_kubeconfig
from tests.unit.launch.here_command import work_here
from tests.unit.launch.object_server import Objects, serve_objects


@dataclass(frozen=True)
class Ending:
    """How a command ended and what it printed."""

    code: int
    out: str
    err: str


RunCommand = Callable[..., Ending]


@pytest.fixture
def run_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> RunCommand:
    """Return a function that runs `clusterfit ARGUMENTS...` in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> Ending:
        with pytest.raises(SystemExit) as ending:
            main(arguments)
        said = capsys.readouterr()
        code = ending.value.code
        assert code is None or isinstance(code, int)
        return Ending(code or 0, said.out, said.err)

    return run


DIGITS: dict[str, Any] = {
    "formatVersion": 1,
    "name": "digits",
    "stages": ["extract", "cluster"],
    "device": "cpu",
    "platform": {"gpus": 0, "nodesWithoutGpus": 2, "processesPerNode": 2},
}


@pytest.fixture
def submitted(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Objects]:
    """A cluster that this user's kubeconfig leads to, where step 1 of the digits is submitted.

    A test may give the fixture settings of `platform`.
    """
    digits = DIGITS | {"platform": DIGITS["platform"] | getattr(request, "param", {})}
    rendered = render_run(HelmLibrary(), RunFile.model_validate_json(json.dumps(digits)), "team")
    with serve_objects() as (_, objects):
        objects.install(rendered.manifests)
        contexts = {"here": objects.address}
        kubeconfig = write_kubeconfig(tmp_path / "kubeconfig", contexts, namespace="team")
        monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
        yield objects


@pytest.fixture
def claims(submitted: Objects, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with that cluster's two claims, on which `put` and `get` work."""
    submitted.pods_last = True
    return work_here(tmp_path / "claims", monkeypatch)
