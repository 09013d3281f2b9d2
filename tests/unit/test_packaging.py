"""The locks and what they promise: hashes, no index addresses, a launcher without torch."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
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


@pytest.mark.campaign
def test_the_launcher_alone_installs_and_checks_a_run_file(tmp_path: Path) -> None:
    uv = Path(sys.executable).with_name("uv")
    python = tmp_path / "venv" / "bin" / "python"
    environment = os.environ | {"UV_SYSTEM_CERTS": "1"}
    lock = ROOT / "requirements" / "launcher.lock"
    wheel_folder = tmp_path / "dist"
    commands: list[list[str | Path]] = [
        [sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"],
        [uv, "pip", "sync", "--require-hashes", "--python", python, lock],
        [uv, "build", "--wheel", "--no-build-isolation", "--python", sys.executable,
         "--out-dir", wheel_folder, ROOT],
    ]  # fmt: skip
    for command in commands:
        subprocess.run(command, env=environment, check=True, cwd=tmp_path)
    [wheel] = wheel_folder.glob("*.whl")
    install: list[str | Path] = [uv, "pip", "install", "--no-deps", "--python", python, wheel]
    subprocess.run(install, env=environment, check=True, cwd=tmp_path)
    run_file = ROOT / "examples" / "digits.yaml"
    checked = subprocess.run(
        [python.with_name("clusterfit"), "config", "check", "-f", run_file],
        cwd=tmp_path, check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert checked.stdout.startswith("ok: run digits")
    missing = subprocess.run([python, "-c", "import torch"], capture_output=True, cwd=tmp_path)
    assert missing.returncode != 0
