"""The locks and what they promise: hashes, no index addresses, a launcher without torch."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
UV = Path(sys.executable).with_name("uv")
LOCKS = sorted((ROOT / "requirements").glob("*.lock"))


def list_packages(lock: Path) -> set[str]:
    return set(re.findall(r"^([a-z0-9._-]+)==", lock.read_text(), re.MULTILINE))


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.name)
def test_a_lock_pins_every_package_by_hash_and_names_no_address(lock: Path) -> None:
    text = lock.read_text()
    assert "://" not in text
    assert "--index" not in text
    entries = re.split(r"\n(?=[a-z0-9])", text.strip())
    assert len(entries) == len(re.findall(r"^[a-z0-9._-]+==", text, re.MULTILINE))
    for entry in entries:
        assert "--hash=sha256:" in entry, entry.splitlines()[0]


def test_the_launcher_needs_neither_torch_nor_numpy() -> None:
    launcher = list_packages(ROOT / "requirements" / "launcher.lock")
    assert launcher
    assert not launcher & {"torch", "torchvision", "numpy", "faiss-cpu", "safetensors"}


def test_workers_have_one_faiss_each() -> None:
    cpu = list_packages(ROOT / "requirements" / "cpu.lock")
    gpu = list_packages(ROOT / "requirements" / "gpu.lock")
    assert {p for p in cpu if p.startswith("faiss")} == {"faiss-cpu"}
    assert {p for p in gpu if p.startswith("faiss")} == {"faiss-gpu-cuvs"}
    assert cpu - {"faiss-cpu"} <= gpu | {"packaging"}


@pytest.fixture(scope="module")
def launcher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment that has the launcher alone, installed from its wheel."""
    folder = tmp_path_factory.mktemp("launcher")
    python = folder / "venv" / "bin" / "python"
    lock = ROOT / "requirements" / "launcher.lock"
    call(folder, sys.executable, "-m", "venv", "--without-pip", folder / "venv")
    call(folder, UV, "pip", "sync", "--require-hashes", "--python", python, lock)
    build = (UV, "build", "--wheel", "--no-build-isolation", "--python", sys.executable)
    call(folder, *build, "--out-dir", folder, ROOT)
    [wheel] = folder.glob("*.whl")
    call(folder, UV, "pip", "install", "--no-deps", "--python", python, wheel)
    return python.parent


def call(folder: Path, *command: str | Path) -> str:
    """Run a command in a folder that has nothing to do with the checkout; return what it prints."""
    environment = os.environ | {"UV_SYSTEM_CERTS": "1"}
    return subprocess.run(
        command, env=environment, cwd=folder, check=True, stdout=subprocess.PIPE, text=True
    ).stdout


@pytest.mark.campaign
def test_the_launcher_alone_checks_a_run_file(launcher: Path, tmp_path: Path) -> None:
    run_file = ROOT / "examples" / "digits.yaml"
    checked = call(tmp_path, launcher / "clusterfit", "config", "check", "-f", run_file)
    assert checked.startswith("ok: run digits")
    missing = subprocess.run(
        [launcher / "python", "-c", "import torch"], capture_output=True, cwd=tmp_path, check=False
    )
    assert missing.returncode != 0


@pytest.mark.campaign
def test_the_charts_travel_with_the_launcher_and_render_anywhere(
    launcher: Path, tmp_path: Path
) -> None:
    locked = (ROOT / "requirements" / "dev.lock").read_text()
    [helm] = re.findall(r"^helm-python-sdk==.*(?:\n +--hash=.*)*", locked, re.MULTILINE)
    extra = tmp_path / "helm.lock"
    extra.write_text(helm.rstrip("\\") + "\n")
    install = (UV, "pip", "install", "--require-hashes", "--no-deps", "--requirement", extra)
    call(tmp_path, *install, "--python", launcher / "python")
    shutil.copy(ROOT / "examples" / "imagenet.yaml", tmp_path / "run.yaml")
    here = ("--gpus=8", "--file=run.yaml", "--namespace=clusterfit")
    rendered = call(tmp_path, launcher / "clusterfit", "render", "step1", *here)
    assert rendered == (ROOT / "k8s" / "manifests" / "imagenet-step1-8gpu.yaml").read_text()
    tried = call(tmp_path, launcher / "clusterfit", "submit", "step1", "--dry-run=client", *here)
    assert "PyTorchJob      imagenet-extract" in tried
    for name in ("clusterfit", "clusterfit-storage"):
        where = f"from clusterfit.launch import charts; print(charts.find_chart({name!r}))"
        chart = Path(call(tmp_path, launcher / "python", "-c", where).strip())
        assert chart.is_relative_to(launcher.parent)
        theirs, ours = map(read_files, (chart, ROOT / "charts" / name))
        assert theirs == ours


def read_files(folder: Path) -> dict[Path, bytes]:
    found = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc")
    return {path.relative_to(folder): path.read_bytes() for path in found}


def read_dockerfile() -> list[str]:
    """Return the Dockerfile's instructions, each in one line, without comments."""
    lines = (ROOT / "Dockerfile").read_text(encoding="utf-8").splitlines()
    text = "\n".join(line for line in lines if not line.lstrip().startswith("#"))
    return [" ".join(line.split()) for line in re.sub(r"\\\n", " ", text).splitlines() if line]


def test_the_image_is_built_of_what_it_copies_and_nothing_else_is_sent() -> None:
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    everything, *rules = (line for line in lines if not line.startswith("#"))
    assert everything == "*"
    copied = {
        source.replace("${WORKER}", "gpu")
        for line in read_dockerfile()
        if line.startswith("COPY ") and "--from=" not in line
        for source in line.split()[1:-1]
    }
    assert copied
    sent = [rule.removeprefix("!") for rule in rules if rule.startswith("!")]
    assert all(any(fnmatch(source, pattern) for pattern in sent) for source in copied)
    assert all(any(fnmatch(source, pattern) for source in copied) for pattern in sent)


def test_whatever_the_image_installs_is_pinned_by_hash() -> None:
    commands = [
        command.strip()
        for line in read_dockerfile()
        if line.startswith("RUN ")
        for command in line.split("&&")
        if "pip install" in command
    ]
    assert len(commands) == 5
    own = [command for command in commands if command.endswith("/build/wheels/*.whl")]
    assert len(own) == 1
    assert "--no-deps" in own[0]
    for command in commands:
        if command not in own:
            assert re.search(r"--require-hashes --requirement \S+\.lock$", command), command


def test_the_image_starts_no_shell_and_can_be_built_on_any_base() -> None:
    lines = read_dockerfile()
    assert not [line for line in lines if line.startswith(("ENTRYPOINT", "SHELL"))]
    (started,) = (line.removeprefix("CMD ") for line in lines if line.startswith("CMD "))
    assert json.loads(started) == ["clusterfit", "--help"]
    bases = [line.split()[1] for line in lines if line.startswith("FROM ")]
    assert bases == ["${BASE_IMAGE}"] * 2


def test_the_image_looks_for_the_driver_where_gke_puts_it() -> None:
    """Its device plugin mounts a folder and leaves the search path to the image."""
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    assert "ENV LD_LIBRARY_PATH=/usr/local/nvidia/lib64:/usr/local/nvidia/lib " in dockerfile
