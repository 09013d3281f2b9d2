"""The project's own image: built from its Dockerfile, brought to containerd layer by layer.

buildah decides what has to be rebuilt, and its answer, the image's id, becomes the tag: from an
unchanged checkout comes the same tag and nothing is copied; after a change only new layers are.
"""

from __future__ import annotations

import json
import os
import sys
import tarfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.cluster.commands import ClusterError
from tests.cluster.images import BASE_IMAGE, base_archive, contained
from tests.cluster.node import Ctr
from tests.cluster.paths import Cache, write_whole

REPOSITORY = "clusterfit.test/clusterfit"
CHECKOUT = Path(__file__).resolve().parents[2]
# Registries may be reached through certificates that only this machine trusts.
CERTIFICATES = ("/etc/ssl/certs", "/usr/share/ca-certificates", "/usr/local/share/ca-certificates")
DOWNLOADS = ("pip", "uv")


def build_image(
    cache: Cache,
    context: Path = CHECKOUT,
    dockerfile: Path | None = None,
    build_args: Mapping[str, str] | None = None,
) -> str:
    """Build an image on the base image and return its name.

    Args:
        cache: Holds buildah's layers and the package managers' downloads.
        context: The build context.
        dockerfile: Its Dockerfile, which takes the build argument BASE_IMAGE; by default the one
            in the context.
        build_args: More build arguments.

    Returns:
        The image's name, whose tag follows from its content.
    """
    recipe = dockerfile or context / "Dockerfile"
    if not recipe.is_file():
        raise ClusterError(f"{recipe}: no such Dockerfile")
    base = base_archive(cache)
    arguments = {"BASE_IMAGE": BASE_IMAGE, **(build_args or {})}
    volumes = [f"{path}:{path}:ro" for path in CERTIFICATES if Path(path).is_dir()]
    for tool in DOWNLOADS:
        downloads = cache.root / "downloads" / tool
        downloads.mkdir(parents=True, exist_ok=True)
        volumes.append(f"{downloads}:/root/.cache/{tool}")
    started = time.monotonic()
    with cache.lock(), cache.scratch() as folder:
        if BASE_IMAGE not in buildah(cache, "images", "--format={{.Name}}:{{.Tag}}").split():
            buildah(cache, "pull", "--quiet", f"docker-archive:{base}")
        id_file = folder / "id"
        buildah(
            cache,
            "bud",
            "--layers",
            "--isolation=chroot",  # needs no capability that a container lacks
            "--network=host",
            "--pull-never",
            "--quiet",
            f"--iidfile={id_file}",
            f"--file={recipe}",
            *(f"--build-arg={name}={value}" for name, value in arguments.items()),
            *(f"--volume={volume}" for volume in volumes),
            str(context),
        )
        identity = id_file.read_text().strip().removeprefix("sha256:")
    print(f"built the image in {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    return f"{REPOSITORY}:{identity[:16]}"


def load_image(cache: Cache, ctr: Ctr, image: str) -> None:
    """Bring an image that `build_image` named to containerd, if it is not there."""
    write_whole(newest_record(cache), image)
    if image in ctr("images", "list", "--quiet").split():
        return
    started = time.monotonic()
    layout = cache.images / "project"
    layout.mkdir(parents=True, exist_ok=True)
    with cache.lock(), cache.scratch() as folder:
        identity = image.rpartition(":")[2]
        # Uncompressed: a layer's digest is then known beforehand, and one that is there already is
        # not written again.
        buildah(
            cache, "push", "--quiet", "--disable-compression", identity, f"oci:{layout}:current"
        )
        blobs = layout / "blobs" / "sha256"
        manifest = read_manifest(layout)
        needed = image_digests(blobs, manifest["digest"])
        there = set(ctr("content", "list", "--quiet").split())
        archive = folder / "image.tar"
        write_oci_archive(
            archive,
            image,
            manifest,
            [blobs / name(digest) for digest in needed if digest not in there],
        )
        ctr("images", "import", archive, timeout_seconds=1800)
        share_blobs(cache, blobs, needed)
    print(f"loaded the image in {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)


def buildah(cache: Cache, *args: str) -> str:
    """Run buildah on a store of our own."""
    store = cache.root / "buildah"
    where = [f"--root={store}/root", f"--runroot={store}/run", "--storage-driver=overlay"]
    return contained(["buildah", *where, *args], timeout_seconds=3600)


def read_manifest(layout: Path) -> dict[str, Any]:
    """Read the descriptor of the one image in a layout."""
    index = json.loads((layout / "index.json").read_text())
    found: dict[str, Any] = index["manifests"][0]
    if len(index["manifests"]) != 1:
        raise ClusterError(f"{layout}: {len(index['manifests'])} images, want 1; delete the folder")
    return found


def image_digests(blobs: Path, manifest_digest: str) -> list[str]:
    """Name every blob of an image: its manifest, its config, its layers."""
    manifest = json.loads((blobs / name(manifest_digest)).read_text())
    return [
        manifest_digest,
        manifest["config"]["digest"],
        *(layer["digest"] for layer in manifest["layers"]),
    ]


def write_oci_archive(
    archive: Path, image: str, manifest: dict[str, Any], blobs: list[Path]
) -> None:
    """Pack an OCI archive of the blobs that the receiver lacks; it finds the rest by digest."""
    named = manifest | {"annotations": {"io.containerd.image.name": image}}
    folder = archive.parent
    (folder / "oci-layout").write_text(json.dumps({"imageLayoutVersion": "1.0.0"}))
    (folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [named]}))
    with tarfile.open(archive, "w") as tar:
        for blob in blobs:
            tar.add(blob, f"blobs/sha256/{blob.name}")
        tar.add(folder / "oci-layout", "oci-layout")
        tar.add(folder / "index.json", "index.json")


def share_blobs(cache: Cache, blobs: Path, needed: list[str]) -> None:
    """Keep each layer once on disk: ours becomes a link to containerd's. Drop the unneeded."""
    store = cache.containerd / "io.containerd.content.v1.content" / "blobs" / "sha256"
    for blob in blobs.iterdir():
        if f"sha256:{blob.name}" not in needed:
            blob.unlink()
        elif (store / blob.name).exists():
            beside = blob.with_name(f".{blob.name}")
            beside.unlink(missing_ok=True)
            os.link(store / blob.name, beside)
            beside.replace(blob)


def prune_images(cache: Cache, ctr: Ctr) -> None:
    """Remove all but the newest image of the project, while nothing runs that could need it."""
    newest = newest_record(cache)
    keep = newest.read_text() if newest.exists() else ""
    earlier = [
        image
        for image in ctr("images", "list", "--quiet").split()
        if image.startswith(f"{REPOSITORY}:") and image != keep
    ]
    if earlier:
        ctr("images", "delete", *earlier)


def newest_record(cache: Cache) -> Path:
    """Where the name of the newest image is written."""
    return cache.images / "project-image"


def name(digest: str) -> str:
    """The file name of a blob."""
    return digest.removeprefix("sha256:")
