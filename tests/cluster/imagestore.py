"""buildah's store of images, and how one of them travels to containerd.

The store holds every image in the form that the Open Container Initiative describes: a manifest
that names a config and layers by the digests of their bytes. containerd keeps blobs by the same
digests, so only those that it lacks have to be handed over, and nothing is packed twice.
"""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from tests.cluster.commands import CommandError, run

Descriptor = dict[str, Any]
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"


class ImageStore:
    """A store of our own, apart from any other that buildah has on this computer."""

    def __init__(self, root: Path) -> None:
        """Refer to a store; buildah makes it if it is not there."""
        self.root = root

    def buildah(self, *args: str, scratch: Path | None = None) -> str:
        """Run buildah on the store and return what it prints.

        Args:
            args: Its command and arguments.
            scratch: Where it puts layers for a while, which can take gigabytes.
        """
        temporary = ["env", f"TMPDIR={scratch}"] if scratch else []
        where = [f"--root={self.root}/root", f"--runroot={self.root}/run"]
        return contained([*temporary, "buildah", *where, "--storage-driver=overlay", *args])

    def has(self, image: str) -> bool:
        """Whether an image of that name is in the store."""
        return image in self.buildah("images", "--format={{.Name}}:{{.Tag}}").split()

    def digests(self, image_id: str) -> set[str]:
        """Name the blobs of an image: its manifest, its config, its layers."""
        manifest = self._read(image_id, "manifest")
        parts = json.loads(manifest)
        return {digest_of(manifest), *(part["digest"] for part in blobs_of(parts))}

    def pack(self, archive: IO[bytes], image_id: str, name: str, digests: set[str]) -> None:
        """Write an image archive that leaves out what the reader has.

        Args:
            archive: Where to write it.
            image_id: The image.
            name: What the reader is to call it.
            digests: The blobs to write.
        """
        manifest = self._read(image_id, "manifest")
        entry = {"mediaType": MANIFEST_TYPE, "digest": digest_of(manifest), "size": len(manifest)}
        named = entry | {"annotations": {"io.containerd.image.name": name}}
        index = {"schemaVersion": 2, "manifests": [named]}
        parts = json.loads(manifest)
        config = parts["config"]["digest"]
        with tarfile.open(fileobj=archive, mode="w|") as tar:
            for layer in parts["layers"]:
                if layer["digest"] in digests:
                    self._add_layer(tar, layer)
            add(tar, blob_path(config), self._read(image_id, config))
            add(tar, blob_path(digest_of(manifest)), manifest)
            add(tar, "oci-layout", b'{"imageLayoutVersion": "1.0.0"}')
            add(tar, "index.json", json.dumps(index).encode())

    def _add_layer(self, tar: tarfile.TarFile, layer: Descriptor) -> None:
        known = json.loads(self._storage("layers", "--json"))
        # A layer of a container, not of an image, has no digest.
        found = next(item["id"] for item in known if item.get("diff-digest") == layer["digest"])
        command = isolated(self._storage_command("diff", "--uncompressed", found))
        entry = tarfile.TarInfo(blob_path(layer["digest"]))
        entry.size = layer["size"]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            tar.addfile(entry, process.stdout)
        if process.returncode != 0:
            raise CommandError(command, process.returncode, "")

    def _read(self, image_id: str, name: str) -> bytes:
        return self._storage("get-image-data", image_id, name).encode()

    def _storage(self, *args: str) -> str:
        return contained(self._storage_command(*args))

    def _storage_command(self, *args: str) -> list[str]:
        where = [f"--graph={self.root}/root", f"--run={self.root}/run"]
        return ["containers-storage", *where, "--storage-driver=overlay", *args]


def contained(command: Sequence[str | Path], timeout_seconds: float = 3600) -> str:
    """Run a command that mounts things, so that they are gone when it is, however it ends."""
    return run(isolated(command), timeout_seconds=timeout_seconds)


def isolated(command: Sequence[str | Path]) -> list[str]:
    """Turn a command into one that runs politely, with mounts of its own."""
    own_mounts = ["unshare", "--mount", "--propagation=private", "--"]
    return ["nice", "-n", "5", *own_mounts, *map(str, command)]


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    """Add a small file to an archive."""
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    tar.addfile(entry, io.BytesIO(content))


def blobs_of(manifest: Descriptor) -> list[Descriptor]:
    """The config and the layers of an image."""
    return [manifest["config"], *manifest["layers"]]


def blob_path(digest: str) -> str:
    """Where a blob is in an image archive."""
    return "blobs/" + digest.replace(":", "/")


def digest_of(content: bytes) -> str:
    """The digest by which a blob is known."""
    return "sha256:" + hashlib.sha256(content).hexdigest()
