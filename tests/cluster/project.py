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
from tests.cluster.containerd import Ctr
from tests.cluster.images import BASE_IMAGE, REGISTRY, base_archive
from tests.cluster.imagestore import ImageStore
from tests.cluster.paths import CHECKOUT, Cache, write_whole

PROJECT = "clusterfit"
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
    with cache.lock("images"), cache.scratch() as folder:
        store = image_store(cache)
        store.buildah("rm", "--all")  # those of a build that was killed
        if not store.has(BASE_IMAGE):
            store.buildah("pull", "--quiet", f"docker-archive:{base}", scratch=folder)
        id_file = folder / "id"
        store.buildah(
            "bud",
            "--layers",
            "--force-rm",
            "--isolation=chroot",  # needs no capability that a container lacks
            "--network=host",
            "--pull-never",
            "--quiet",
            f"--iidfile={id_file}",
            f"--file={recipe}",
            *(f"--build-arg={name}={value}" for name, value in arguments.items()),
            *(f"--volume={volume}" for volume in volumes),
            str(context),
            scratch=folder,
        )
        identity = id_file.read_text().strip().removeprefix("sha256:")
    print(f"built the image in {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    return f"{REGISTRY}/{name}:{identity[:16]}"


def load_image(cache: Cache, ctr: Ctr, image: str) -> None:
    """Bring an image that `build_image` named to containerd, if it is not there."""
    write_whole(newest(cache) / short_name(image), image)
    if image in ctr("images", "list", "--quiet").split():
        return
    started = time.monotonic()
    store, image_id = image_store(cache), image.rpartition(":")[2]
    with cache.lock("images"):
        missing = store.digests(image_id) - set(ctr("content", "list", "--quiet").split())
        with ctr.importing() as archive:
            store.pack(archive, image_id, image, missing)
    print(f"loaded the image in {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)


def prune_images(cache: Cache, ctr: Ctr) -> None:
    """Remove images built here, but the newest of each name, while nothing runs that needs them."""
    there = ctr("images", "list", "--quiet").split()
    for record in newest(cache).glob("*"):
        own = [image for image in there if short_name(image) == record.name]
        earlier = [image for image in own if image != record.read_text()]
        # Kubernetes' side of containerd names each image a second time, by its id.
        ids = tuple(f"sha256:{image.rpartition(':')[2]}" for image in earlier)
        names = [*earlier, *(image for image in there if ids and image.startswith(ids))]
        if names:
            ctr("images", "delete", *names)


def image_store(cache: Cache) -> ImageStore:
    """The store that images are built in."""
    return ImageStore(cache.root / "buildah")


def newest(cache: Cache) -> Path:
    """Where it is written which image of each name was loaded last."""
    return cache.images / "newest"


def downloads_home() -> Path:
    """Where this user's package managers keep what they downloaded."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")


def short_name(image: str) -> str:
    """The name in registry/name:tag."""
    return image.rpartition("/")[2].partition(":")[0]
