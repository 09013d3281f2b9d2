"""What README.md and docs/ show is true: files load, commands exist, links lead somewhere."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file

from clusterfit.artifacts.layout import RunDirectory
from clusterfit.cli import main
from clusterfit.config.loading import load_run_file
from clusterfit.config.starter import Starter
from clusterfit.launch.helm import HelmLibrary
from clusterfit.launch.manifests import write_manifests
from clusterfit.launch.render import render_run
from clusterfit.launch.submission import load_submission
from clusterfit.worker.networks.backbone import build_model

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def find_commands(page: Path) -> list[str]:
    """Return the indented command lines of a page, without their comments."""
    lines = re.findall(r"^ {4}((?:clusterfit|make) .*)$", page.read_text(), re.MULTILINE)
    return [line.partition(" #")[0].strip() for line in lines]


def find_files(page: Path) -> list[str]:
    """Return the YAML files that a page shows."""
    return re.findall(r"```yaml\n(.*?)```", page.read_text(), re.DOTALL)


def type_without_a_cluster(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """See that a command gets as far as it can where no cluster is."""
    with pytest.raises(SystemExit) as ending:
        main(words)
    said = capsys.readouterr().err
    assert ending.value.code == 69, (words, said)
    assert "no cluster" in said


def test_the_readme_run_files_load(tmp_path: Path) -> None:
    whole, over = (tmp_path / "run.yaml", tmp_path / "over.yaml")
    for path, text in zip((whole, over), find_files(ROOT / "README.md"), strict=True):
        path.write_text(text)
    flowers = load_run_file([whole]).run_file
    another = load_run_file([whole, over]).run_file
    assert (flowers.name, flowers.stages[0]) == ("flowers", "pretext")
    assert another.inputs.features == flowers.name
    assert another.stages == ("cluster", "train")


def test_the_readme_shows_how_to_load_what_comes_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (ROOT / "README.md").read_text()
    [snippet] = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    shown = yaml.safe_load(find_files(ROOT / "README.md")[0])
    model, num_clusters = shown["train"]["model"], shown["cluster"]["numClusters"]
    built = build_model(model, num_clusters, seed=0, crop_pixels=224, path="train.model")
    run = RunDirectory(tmp_path / "runs", shown["name"])
    run.stage("train").mkdir(parents=True)
    save_file(built.state_dict(), run.backbone("train"))
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(snippet, names)
    for key, value in built.state_dict().items():
        assert torch.equal(names["model"].state_dict()[key], value)


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.yaml")), ids=lambda p: p.name)
def test_every_example_loads(path: Path) -> None:
    base = [ROOT / "examples" / "digits.yaml"] if path.name.startswith("digits-") else []
    load_run_file([*base, path])


def test_the_digits_need_no_other_run() -> None:
    run = load_run_file([ROOT / "examples" / "digits.yaml"]).run_file
    assert [backbone.run for backbone in run.evaluate.backbones] == ["", "", ""]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_to_a_file(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if not target.startswith("https://"):
            assert (page.parent / target).exists(), target


def test_every_make_target_that_a_page_names_exists() -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in PAGES:
        named = set(re.findall(r"`make ([a-z0-9-]+)`", page.read_text()))
        named |= {c.split()[1] for c in find_commands(page) if c.startswith("make ")}
        assert named <= targets, (page.name, named - targets)


def test_what_is_run_before_a_change_lands_is_what_the_pages_say() -> None:
    lines = (ROOT / ".ci" / "run").read_text().splitlines()
    typed = [line for line in lines if line.startswith(("make ", "export "))]
    assert typed[0].startswith("export CI=true"), "what cannot run here is then a failure"
    assert typed[1:] == ["make check", "make test-all", "make demo", "make e2e-core"]
    assert "set -euo pipefail" in lines
    said = (ROOT / "docs" / "developing.md").read_text()
    assert "`.ci/run` calls `make check`, `make test-all`, `make demo` and `make e2e-core`." in said
    core = {
        path.stem
        for path in (ROOT / "tests" / "e2e").glob("test_*.py")
        if "\npytestmark = pytest.mark.core\n" in path.read_text()
    }
    assert core == {"test_doors", "test_crash"}, "the ways into a cluster; a crash, and its log"


IN_PARALLEL = "v/bin/pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder"
TARGETS = {
    "test": f'{IN_PARALLEL} -m "not campaign"',
    "test-all": IN_PARALLEL,
    "campaigns": f"CLUSTERFIT_CAMPAIGN_SEED=new {IN_PARALLEL} -m campaign",
    "e2e": "v/bin/pytest tests/e2e",
    "e2e-core": "v/bin/pytest tests/e2e -m core",
    "cluster-up": "v/bin/python -m tests.cluster up",
    "cluster-down": "v/bin/python -m tests.cluster down",
}


@pytest.mark.parametrize("target", TARGETS)
def test_a_target_does_what_the_pages_say(target: str) -> None:
    make = ["make", "--dry-run", "--no-print-directory", "VENV=v", target]
    typed = subprocess.run(make, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert typed.splitlines()[-1].strip() == TARGETS[target]


def test_the_readme_first_commands_work_as_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    commands = [c for c in find_commands(ROOT / "README.md") if c.startswith("clusterfit ")]
    assert len(commands) == 11
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "nowhere"))
    (tmp_path / "flowers" / "train").mkdir(parents=True)  # what its reader has
    init, check, run, another, render, plan, *on_a_cluster = (
        shlex.split(line)[1:] for line in commands
    )
    for arguments in (init, check, plan, render):
        with pytest.raises(SystemExit) as ending:
            main(arguments)
        assert ending.value.code in {None, 0}, capsys.readouterr().err
    assert "kind: PyTorchJob" in capsys.readouterr().out
    assert run == ["run", "pipeline", "-f", init[-1]], "the file that init writes is what is run"
    assert another[:4] == run
    assert load_run_file([Path(init[-1])]).run_file.name == "flowers", "as the others call the run"
    capsys.readouterr()
    for arguments in on_a_cluster:
        type_without_a_cluster(arguments, capsys)


def test_the_first_run_on_a_cluster_is_typed_as_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = ROOT / "docs" / "kubernetes.md"
    [cluster] = find_files(page)
    (tmp_path / "demo/digits").mkdir(parents=True)  # what `make demo` has written
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    (tmp_path / "cluster.yaml").write_text(cluster.replace("REGISTRY", "registry.example"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "nowhere"))
    first = page.read_text().partition("## The first run")[2].partition("## Commands")[0]
    commands = [shlex.split(line)[1:] for line in find_commands(page) if line in first]
    assert len(commands) == 6
    for words in commands:
        type_without_a_cluster(words, capsys)


def test_manifests_are_brought_into_another_namespace_as_shown(tmp_path: Path) -> None:
    """What comes out is what would be rendered for it, the supervisor's plan included."""
    folder = tmp_path / "k8s"
    shutil.copytree(ROOT / "k8s", folder)
    page = (ROOT / "k8s" / "README.md").read_text()
    for command in re.findall(r"^ {4}(sed .*namespace.*)$", page, re.MULTILINE):
        subprocess.run(["sh", "-c", command.replace("NS", "team")], cwd=tmp_path, check=True)
    run = load_submission("pipeline", [ROOT / "examples" / "digits.yaml"])
    manifests = render_run(HelmLibrary(), run, "team").manifests
    rendered = folder / "manifests" / "digits-pipeline.yaml"
    assert rendered.read_text() == write_manifests(manifests)
    made = [
        item
        for path in sorted((folder / "prerequisites").glob("*.yaml"))
        for item in yaml.safe_load_all(path.read_text())
    ]
    names = [item["metadata"]["name"] for item in made if item["kind"] == "Namespace"]
    names += [item["metadata"].get("namespace", "team") for item in made]
    names += [each["namespace"] for item in made for each in item.get("subjects", ())]
    assert set(names) == {"team"}
    assert {"Role", "RoleBinding", "LocalQueue"} <= {item["kind"] for item in made}


def find_header_commands(path: Path) -> list[str]:
    """Return the commands in the comment that a file begins with."""
    header = path.read_text().partition("\nformatVersion")[0]
    text = re.sub(r"\\\n# +", "", header)  # a line that goes on
    lines = re.findall(r"^# +(clusterfit .*)$", text, re.MULTILINE)
    return [re.split(r" {2,}", line)[0] for line in lines]


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.yaml")), ids=lambda p: p.name)
def test_commands_in_the_header_of_an_example_work_as_typed(
    path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "nowhere"))
    demo = subprocess.run(["make", "-n", "demo"], capture_output=True, text=True, check=True).stdout
    commands = find_header_commands(path)
    assert commands or path.name == "digits.yaml", "which README.md and docs/kubernetes.md show"
    for command in commands:
        if command.startswith("clusterfit run "):
            assert f"/{command} --nproc-per-node 2\n" in demo
        else:
            type_without_a_cluster(shlex.split(command)[1:], capsys)


@pytest.mark.parametrize("model", ["resnet18", "resnet8_small"])
def test_a_small_beginning_may_be_set_as_the_readme_says(model: str, tmp_path: Path) -> None:
    advice = (ROOT / "README.md").read_text().partition("Without one set")[2].partition("\n\n")[0]
    assert f"`{model}`" in advice
    values = Starter(name="flowers", train="train", val="val", model=model).values()
    values["device"] = "cpu"
    for stage in ("pretext", "train"):
        values[stage]["epochs"] = 5
    settings = re.findall(r"`(\w+): (\w+)`\sin\s((?:`\w+`(?:,|\sand)?\s?)+)", advice)
    assert [key for key, _, _ in settings] == [
        "schedule",
        "cropPixels",
        "resizePixels",
        "precision",
    ]
    for key, value, stages in settings:
        for stage in re.findall(r"`(\w+)`", stages):
            values[stage][key] = yaml.safe_load(value)
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(values))
    run = load_run_file([path]).run_file
    assert (run.train.epochs, run.evaluate.crop_pixels) == (5, 32)


def test_helpers_that_the_testing_page_shows_exist() -> None:
    page = (ROOT / "docs" / "testing.md").read_text().partition("### Writing a test")[2]
    shown = "".join(re.findall(r"^ {4}.*\n", page, re.MULTILINE))
    tests = [path.read_text() for path in (ROOT / "tests").rglob("*.py")]
    called = set(re.findall(r"\b(\w+)\(", shown)) - set(re.findall(r"def (\w+)", shown))
    assert len(called) > 5
    for name in called:
        assert any(f"def {name}(" in text for text in tests), name
