"""The project's own image: built from its Dockerfile, brought to containerd layer by layer.

buildah decides what has to be rebuilt, and its answer, the image's id, becomes the tag: from an
unchanged checkout comes the same tag and nothing is copied; after a change only new layers are.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from tests.cluster.commands import ClusterError
from tests.cluster.images import BASE_IMAGE, REGISTRY, base_archive, contained
from tests.cluster.layout import Layout
from tests.cluster.node import Ctr
from tests.cluster.paths import Cache, write_whole

PROJECT = "clusterfit"
CHECKOUT = Path(__file__).resolve().parents[2]
# Registries may be reached through certificates that only this machine trusts.
CERTIFICATES = ("/etc/ssl/certs", "/usr/share/ca-certificates", "/usr/local/share/ca-certificates")
# What pip and uv have downloaded for this user is used, and added to, by builds.
DOWNLOADS = ("pip", "uv")


def build_image(
    cache: Cache,
    context: Path = CHECKOUT,
    dockerfile: Path | None = None,
    *,
    name: str = PROJECT,
    build_args: Mapping[str, str] | None = None,
) -> str:
    """Build an image on the base image and return its full name.

    Args:
        cache: Holds buildah's layers and the package managers' downloads.
        context: The build context.
        dockerfile: Its Dockerfile, which takes the build argument BASE_IMAGE; by default the one
            in the context.
        name: What it is called. Of each name the newest image stays from one cluster to the next.
        build_args: More build arguments.

    Returns:
        The image's full name, whose tag follows from its content.
    """
    recipe = dockerfile or context / "Dockerfile"
    if not recipe.is_file():
        raise ClusterError(f"{recipe}: no such Dockerfile")
    base = base_archive(cache)
    arguments = {"BASE_IMAGE": BASE_IMAGE, **(build_args or {})}
    volumes = [f"{path}:{path}:ro" for path in CERTIFICATES if Path(path).is_dir()]
    for tool in DOWNLOADS:
        downloads = downloads_home() / tool
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
    return f"{REGISTRY}/{name}:{identity[:16]}"


def load_image(cache: Cache, ctr: Ctr, image: str) -> None:
    """Bring an image that `build_image` named to containerd, if it is not there."""
    layout = Layout(layouts(cache) / short_name(image))
    write_whole(layout.root / "newest", image)
    if image in ctr("images", "list", "--quiet").split():
        return
    started = time.monotonic()
    with cache.lock():
        # Uncompressed, a layer's digest is known beforehand: one that is there is left alone.
        push = ["push", "--quiet", "--disable-compression"]
        buildah(cache, *push, image.rpartition(":")[2], f"oci:{layout.root}:{image}")
        descriptor = layout.descriptor(image)
        needed = layout.digests(descriptor)
        missing = needed - set(ctr("content", "list", "--quiet").split())
        with ctr.importing() as archive:
            layout.pack(archive, image, descriptor, missing)
        layout.tidy(descriptor, needed, containerd_blobs(cache))
    print(f"loaded the image in {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)


def buildah(cache: Cache, *args: str) -> str:
    """Run buildah on a store of our own."""
    store = cache.root / "buildah"
    where = [f"--root={store}/root", f"--runroot={store}/run", "--storage-driver=overlay"]
    return contained(["buildah", *where, *args], timeout_seconds=3600)


def prune_images(cache: Cache, ctr: Ctr) -> None:
    """Remove images built here, but the newest of each name, while nothing runs that needs them."""
    there = ctr("images", "list", "--quiet").split()
    for newest in layouts(cache).glob("*/newest"):
        own = [image for image in there if short_name(image) == newest.parent.name]
        earlier = [image for image in own if image != newest.read_text()]
        if earlier:
            ctr("images", "delete", *earlier)


def layouts(cache: Cache) -> Path:
    """Where the layouts are that images are handed over by, one for each name."""
    return cache.images / "layouts"


def containerd_blobs(cache: Cache) -> Path:
    """Where containerd keeps layers."""
    return cache.containerd / "io.containerd.content.v1.content" / "blobs" / "sha256"


def downloads_home() -> Path:
    """Where this user's package managers keep what they downloaded."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")


def short_name(image: str) -> str:
    """The name in registry/name:tag."""
    return image.rpartition("/")[2].partition(":")[0]
