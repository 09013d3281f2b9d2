"""`clusterfit render` and `submit --dry-run=client`: offline, the same bytes, clear faults."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from clusterfit.cli import main
from tests.unit.launch.api_server import write_kubeconfig

EXAMPLE = str(Path(__file__).parents[3] / "examples" / "imagenet.yaml")
OWN_IMAGE = ("--set", 'platform.image.repository="registry.example/clusterfit"')


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ending:
        main(arguments)
    return int(ending.value.code or 0)


def test_what_is_rendered_is_what_kubectl_users_find_in_k8s(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run("render", "step1", "--gpus", "8", "-f", EXAMPLE, "-n", "clusterfit") == 0
    golden = Path(__file__).parents[3] / "k8s" / "manifests" / "imagenet-step1-8gpu.yaml"
    assert capsys.readouterr().out == golden.read_text()


def test_one_file_per_object_in_the_order_of_creation(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("render", "step2", "-f", EXAMPLE, "--output-dir", str(tmp_path)) == 0
    files = sorted(tmp_path.iterdir())
    kinds = [yaml.safe_load(path.read_text())["kind"] for path in files]
    assert kinds == ["ServiceAccount", "Role", "RoleBinding", "ConfigMap", "PyTorchJob", "Job"]
    assert "wrote 6 objects" in capsys.readouterr().err


def test_a_dry_run_of_the_client_needs_no_cluster(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KUBECONFIG", "/nonexistent")
    assert run("submit", "pipeline", "--dry-run=client", "-f", EXAMPLE) == 0
    assert "PyTorchJob      imagenet-train" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "namespace"),
    [
        ((), "of-here"),
        (("--context", "there"), "of-there"),
        (("-n", "mine"), "mine"),
        (("--context", "there", "-n", "mine"), "mine"),
        (("--kubeconfig", "/nonexistent"), "default"),
    ],
)
def test_what_is_rendered_is_for_the_namespace_that_it_would_be_submitted_to(
    options: tuple[str, ...],
    namespace: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("here", "there"):  # nobody listens at that address
        servers = {name: "http://127.0.0.1:1"}
        write_kubeconfig(tmp_path / name, servers, namespace=f"of-{name}")
    monkeypatch.setenv("KUBECONFIG", f"{tmp_path / 'here'}:{tmp_path / 'there'}")
    assert run("render", "step1", "-f", EXAMPLE, *options) == 0
    rendered = list(yaml.safe_load_all(capsys.readouterr().out))
    assert {item["metadata"]["namespace"] for item in rendered} == {namespace}
    assert run("render", "step1", "-f", EXAMPLE, *options, "-o", "json") == 0
    assert json.loads(capsys.readouterr().out)["items"] == rendered


@pytest.mark.parametrize(
    ("arguments", "exit_code", "words"),
    [
        (("render", "step1"), 64, "no run file is given"),
        (("render", "step1", "-f", EXAMPLE, "--gpus", "12"), 64, "the nearest are 8 and 16"),
        (("submit", "step1", "-f", EXAMPLE, "--gpus", "0"), 64, "or set device: cpu"),
        (("submit", "step1", "-f", EXAMPLE, *OWN_IMAGE), 69, "there is no kubeconfig"),
        (("status", "x"), 69, "there is no kubeconfig"),
        (("render", "step1", "-f", EXAMPLE, "--context", "x"), 69, "no context x; the contexts"),
        (("logs", "x", "--rank", "1", "--all-ranks"), 64, "exclude each other"),
        (("logs", "x", "-f", "--previous"), 64, "has no effect"),
        (("put", "/nonexistent", "data:x", "-f", EXAMPLE), 66, "no such file or folder"),
        (("get", "elsewhere:x", "out", "-f", EXAMPLE), 64, "want data:PATH or storage:PATH"),
    ],
)
def test_a_mistake_is_one_line(
    arguments: tuple[str, ...],
    exit_code: int,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("KUBECONFIG", "/nonexistent")
    assert run(*arguments) == exit_code
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert words in line


def test_gpus_that_stay_idle_are_remarked_on(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("render", "step1", "-f", EXAMPLE, "--set", 'device="cpu"') == 0
    assert "note: device: cpu, yet GPUs are asked for" in capsys.readouterr().err


def test_an_image_that_nobody_has_is_remarked_on(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("render", "step1", "-f", EXAMPLE) == 0
    assert "note: platform.image.repository: ghcr.io/clusterfit/clusterfit is a placeholder" in (
        capsys.readouterr().err
    )
    assert run("render", "step1", "-f", EXAMPLE, *OWN_IMAGE) == 0
    assert capsys.readouterr().err == ""
