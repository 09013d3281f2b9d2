"""An image as files, in the layout that the Open Container Initiative describes.

The layout is how an image travels from buildah to containerd. It is kept, so that of the next image
only the layers that are new are written and read.
"""

from __future__ import annotations

import io
import json
import os
import tarfile
from pathlib import Path
from typing import IO, Any

NAME = "org.opencontainers.image.ref.name"
Descriptor = dict[str, Any]


class Layout:
    """A folder with one image in it."""

    def __init__(self, root: Path) -> None:
        """Refer to a folder; it is made if it is not there."""
        self.root = root
        self.blobs = root / "blobs" / "sha256"
        root.mkdir(parents=True, exist_ok=True)

    def descriptor(self, image: str) -> Descriptor:
        """Find the entry of an image in the index.

        Raises:
            KeyError: It is not in this layout.
        """
        index = json.loads((self.root / "index.json").read_text())
        for entry in index["manifests"]:
            if entry.get("annotations", {}).get(NAME) == image:
                found: Descriptor = entry
                return found
        raise KeyError(image)

    def digests(self, descriptor: Descriptor) -> set[str]:
        """Name every blob of an image: its manifest, its config, its layers."""
        manifest = json.loads(self._path(descriptor["digest"]).read_text())
        parts = [descriptor, manifest["config"], *manifest["layers"]]
        return {part["digest"] for part in parts}

    def pack(
        self, archive: IO[bytes], image: str, descriptor: Descriptor, digests: set[str]
    ) -> None:
        """Write an archive of some of an image's blobs.

        Args:
            archive: Where to write it.
            image: The name that the reader is to give it.
            descriptor: The image's entry in the index.
            digests: The blobs that the reader lacks; it finds the others by their digests.
        """
        named = descriptor | {"annotations": {"io.containerd.image.name": image}}
        texts = {
            "oci-layout": {"imageLayoutVersion": "1.0.0"},
            "index.json": {"schemaVersion": 2, "manifests": [named]},
        }
        with tarfile.open(fileobj=archive, mode="w|") as tar:
            for digest in sorted(digests):
                path = self._path(digest)
                tar.add(path, path.relative_to(self.root))
            for name, content in texts.items():
                text = json.dumps(content).encode()
                entry = tarfile.TarInfo(name)
                entry.size = len(text)
                tar.addfile(entry, io.BytesIO(text))

    def tidy(self, descriptor: Descriptor, digests: set[str], shared: Path) -> None:
        """Forget every other image, and keep each blob only once on disk.

        Args:
            descriptor: The image to keep.
            digests: Its blobs.
            shared: Where containerd has the same blobs; ours become links to them.
        """
        index = {"schemaVersion": 2, "manifests": [descriptor]}
        (self.root / "index.json").write_text(json.dumps(index))
        for blob in self.blobs.iterdir():
            if f"sha256:{blob.name}" not in digests:
                blob.unlink()
            elif (shared / blob.name).exists():
                beside = blob.with_name(f".{blob.name}")
                beside.unlink(missing_ok=True)
                os.link(shared / blob.name, beside)
                beside.replace(blob)

    def _path(self, digest: str) -> Path:
        return self.blobs / digest.removeprefix("sha256:")
