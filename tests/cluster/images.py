"""Container images without a registry: archives of one layer, written here.

Names are under .test, a domain that never resolves: an image that is not there is never fetched.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tarfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.cluster import programs, versions
from tests.cluster.commands import ClusterError, run
from tests.cluster.imagestore import contained
from tests.cluster.paths import Cache
from tests.cluster.programs import Program

REGISTRY = "clusterfit.test"
PAUSE_IMAGE = f"{REGISTRY}/pause:{versions.INIT_RECIPE}"
TRAINING_OPERATOR_IMAGE = f"{REGISTRY}/training-operator:{versions.TRAINING_OPERATOR}"
KUEUE_IMAGE = f"{REGISTRY}/kueue:{versions.KUEUE}"
# Debian with Python: what the project's image is built on here, and what small test pods run.
BASE_IMAGE = f"{REGISTRY}/base:{versions.DEBIAN_SUITE}-{versions.BASE_IMAGE_RECIPE}"
BASE_PACKAGES = "ca-certificates,python3-venv"


def program_archive(cache: Cache, image: str, program: Path, path_inside: str) -> Path:
    """Write an image that holds one static program and nothing else.

    Returns:
        The archive, written only if the cache lacks it.
    """
    archive = archive_path(cache, image)
    if not archive.exists():
        with cache.scratch() as folder:
            layer = folder / "layer.tar"
            with tarfile.open(layer, "w") as tar:
                entry = tar.gettarinfo(program, path_inside.lstrip("/"))
                entry.uid, entry.gid, entry.mode, entry.mtime = 0, 0, 0o755, 0
                entry.uname = entry.gname = ""
                with program.open("rb") as handle:
                    tar.addfile(entry, handle)
            write_archive(archive, image, layer, entrypoint=[path_inside])
    return archive


def operator_archive(cache: Cache, image: str, program: Program) -> Path:
    """Write the image of an operator, whose manifests call it /manager."""
    programs.build(cache, program)
    return program_archive(cache, image, program.path(cache), "/manager")


def pause_archive(cache: Cache) -> Path:
    """Write the image of the process that holds a pod's namespaces."""
    return program_archive(cache, PAUSE_IMAGE, programs.build_init(cache), "/pause")


def base_archive(cache: Cache) -> Path:
    """Write the base image: a minimal Debian with Python, from the mirror that apt uses here."""
    archive = archive_path(cache, BASE_IMAGE)
    if archive.exists():
        return archive
    with cache.lock("images"):
        if archive.exists():
            return archive
        started = time.monotonic()
        print("building the base image", file=sys.stderr, flush=True)
        with cache.scratch() as folder:
            root, layer = folder / "root", folder / "layer.tar"
            options = ["--variant=minbase", f"--include={BASE_PACKAGES}"]
            # In a mount namespace of its own, so that what debootstrap mounts goes when it does,
            # killed or not.
            contained(
                ["debootstrap", *options, versions.DEBIAN_SUITE, root, debian_mirror()],
                timeout_seconds=1800,
            )
            for downloaded in (root / "var/cache/apt/archives").glob("*.deb"):
                downloaded.unlink()
            excluded = [
                "--exclude=./var/lib/apt/lists/*",
                "--exclude=./proc/*",
                "--exclude=./sys/*",
            ]
            run(
                [
                    "tar",
                    "--numeric-owner",
                    "--directory",
                    root,
                    *excluded,
                    "--create",
                    "--file",
                    layer,
                    ".",
                ]
            )
            write_archive(archive, BASE_IMAGE, layer, command=["/bin/sh"])
        print(f"  took {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    return archive


def debian_mirror() -> str:
    """Ask apt for the mirror it is set up with."""
    sites = run(["apt-get", "indextargets", "--format", "$(SITE)", "Created-By: Packages"]).split()
    if not sites:
        raise ClusterError(
            "building the base image needs a Debian mirror, and apt is set up with none"
        )
    return sites[0]


def archive_path(cache: Cache, image: str) -> Path:
    """Where an image's archive lies: named like the image."""
    return cache.images / (image.rpartition("/")[2].replace(":", "_") + ".tar")


def write_archive(
    archive: Path,
    image: str,
    layer: Path,
    *,
    entrypoint: Sequence[str] = (),
    command: Sequence[str] = (),
) -> None:
    """Pack one layer as an image archive (the format of `docker save`), whole or not at all."""
    config: dict[str, Any] = {
        "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]
    }
    config |= {"Entrypoint": list(entrypoint)} if entrypoint else {}
    config |= {"Cmd": list(command)} if command else {}
    with layer.open("rb") as handle:
        diff_id = "sha256:" + hashlib.file_digest(handle, "sha256").hexdigest()
    description = {
        "architecture": go_architecture(),
        "os": "linux",
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": [diff_id]},
        "history": [{"created_by": "clusterfit test cluster"}],
    }
    folder = layer.parent
    (folder / "config.json").write_text(json.dumps(description))
    manifest = [{"Config": "config.json", "RepoTags": [image], "Layers": [layer.name]}]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    beside = folder / "image.tar"
    with tarfile.open(beside, "w") as tar:
        for name in ("manifest.json", "config.json", layer.name):
            tar.add(folder / name, name)
    archive.parent.mkdir(parents=True, exist_ok=True)
    beside.rename(archive)


def go_architecture() -> str:
    """This machine's architecture as images name it."""
    return programs.go("env", "GOARCH").strip()
