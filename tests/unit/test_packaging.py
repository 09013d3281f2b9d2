"""The locks and what they promise: hashes, no index addresses, a launcher without torch."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
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
    where = "from clusterfit.launch import charts; print(charts.find_chart(charts.STORAGE_CHART))"
    chart = Path(call(tmp_path, launcher / "python", "-c", where).strip())
    assert chart.is_relative_to(launcher.parent)
    theirs, ours = (
        {path.relative_to(root): path.read_bytes() for path in root.rglob("*") if path.is_file()}
        for root in (chart, ROOT / "charts" / "clusterfit-storage")
    )
    assert theirs == ours


def test_the_image_looks_for_the_driver_where_gke_puts_it() -> None:
    """Its device plugin mounts a folder and leaves the search path to the image."""
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    assert "ENV LD_LIBRARY_PATH=/usr/local/nvidia/lib64:/usr/local/nvidia/lib " in dockerfile
