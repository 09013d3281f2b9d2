"""Reading images: decoded by torchvision or Pillow, unreadable ones named rather than guessed."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch
from torch.utils.data import DataLoader, Dataset
from torchvision.io import ImageReadMode, decode_image

from clusterfit.artifacts.outage import is_outage
from clusterfit.errors import RetryableError
from clusterfit.worker.cores import count_cores
from clusterfit.worker.data import pillow
from clusterfit.worker.data.header import check_size
from clusterfit.worker.data.views import View
from clusterfit.worker.orphan import tie_to_parent
from clusterfit.worker.randomness import derive_seed, seeded
from clusterfit.worker.stopping import stop_signals_blocked

Key = tuple[int, int]
"""(epoch, sample_index): all that an image's view depends on beside the seed."""


_MAX_SUBSTITUTES: Final = 64
"""Images tried in the place of one unreadable one before its batch stays short."""

_SOURCE_POSITION: Final = re.compile(r"^.*\.cpp:\d+,\s*")


def read_image(path: Path) -> torch.Tensor:
    """Return an image as (3, H, W) uint8, upright as its EXIF says.

    Greyscale, CMYK, RGBA and palette images become RGB, 16-bit ones 8-bit, animations their first
    frame.

    Raises:
        OSError: when the file cannot be read.
        RuntimeError, ValueError: when it cannot be decoded to its end, or would fill the memory.
    """
    # Read here, because torchvision maps the file: where storage fails, that kills the process.
    content = bytearray(path.read_bytes())
    if not content:
        raise ValueError("an empty file")
    if (name := pillow.find_format(content)) is not None:
        return pillow.decode(io.BytesIO(content), name)
    check_size(content)
    image: torch.Tensor = decode_image(
        torch.frombuffer(content, dtype=torch.uint8),
        ImageReadMode.RGB,
        apply_exif_orientation=True,
    )
    if image.dim() == 4:
        image = image[0]
    if image.dtype == torch.uint16:
        image = (image.to(torch.int32) >> 8).to(torch.uint8)
    if min(image.shape) == 0:
        raise ValueError(f"an image of {tuple(image.shape)}")
    return image


@dataclass(frozen=True, slots=True)
class Example:
    """One image's view, or none where it cannot be read."""

    image: torch.Tensor | None
    """(3, s, s) uint8."""
    sample_index: int
    unreadable: dict[int, str]
    """Sample index -> why, of this image or of those that it stands in for."""
    outage: str = ""
    """What the file system said instead of reading; no image is to blame."""
    draws: torch.Tensor = field(default_factory=lambda: torch.empty(0))
    """(num_draws,) float32 in 0..1: the image's randomness for what is done on the device."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Views of several images, readable ones only, in the order asked for."""

    images: torch.Tensor
    """(n, 3, s, s) uint8."""
    sample_indices: torch.Tensor
    """(n,) int64."""
    unreadable: dict[int, str]
    """Sample index -> why, for what is left out."""
    outage: str = ""
    """What the file system said; the batch is of no use then."""
    draws: torch.Tensor = field(default_factory=lambda: torch.empty(0, 0))
    """(n, num_draws) float32 in 0..1."""

    def pin_memory(self) -> Batch:
        """Return the batch in page-locked memory; DataLoader calls it."""
        return replace(self, images=self.images.pin_memory())


class ImageSet(Dataset[Any]):
    """Images below the data root, each under a view whose randomness is a function of its key."""

    def __init__(
        self,
        data_root: Path,
        paths: Sequence[str],
        view: View,
        seed: int,
        substitute: bool,
        num_draws: int = 0,
    ) -> None:
        """Keep what is needed to read an image in any process.

        Args:
            data_root: where the paths start.
            paths: of all images, in the data set's order.
            view: what becomes of each image.
            seed: of the view's randomness, together with epoch and sample index.
            substitute: whether the next readable image stands in for an unreadable one, so that
                every rank trains on equally many.
            num_draws: random numbers that each image needs beside its view.
        """
        self._data_root = data_root
        self.paths = paths
        self._view = view
        self._seed = seed
        self._max_tries = _MAX_SUBSTITUTES if substitute else 1
        self.num_draws = num_draws

    def __getitem__(self, key: Key) -> Example:
        """Read one image."""
        epoch, wanted = key
        unreadable: dict[int, str] = {}
        for offset in range(self._max_tries):
            sample_index = (wanted + offset) % len(self.paths)
            path = self._data_root / self.paths[sample_index]
            try:
                image = read_image(path)
            except (OSError, RuntimeError, ValueError) as error:
                if isinstance(error, OSError) and is_outage(error):
                    return Example(None, wanted, {}, f"{path}: {error.strerror}")
                unreadable[sample_index] = _explain(error)
                continue
            with seeded(derive_seed("view", self._seed, epoch, sample_index)):
                seen = self._view(image)
                return Example(seen, sample_index, unreadable, draws=torch.rand(self.num_draws))
        return Example(None, wanted, unreadable)


def _explain(error: Exception) -> str:
    """Return the first line of an error, without where in torchvision's source it arose."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    line = (str(error).strip().splitlines() or [""])[0]
    return _SOURCE_POSITION.sub("", line) or type(error).__name__


def build_loader(
    images: ImageSet, batches: Iterable[list[Key]], loaders_per_rank: int, device: torch.device
) -> Iterator[Batch]:
    """Yield one `Batch` for each batch of keys, in order.

    Keys are asked for a few batches ahead, in this process. They must come at once: no stop is
    heard while they are chosen.

    Loading processes end with this one and not before: a signal that is sent to all processes at
    once (Ctrl-C, a service manager) must leave this one its batches, until it has a checkpoint.

    Raises:
        RetryableError: when the file system fails. A loader's process only passes on what it was
            told, because what it raises reaches this one as a traceback.
    """
    loader = DataLoader(
        images,
        batch_sampler=batches,
        num_workers=min(loaders_per_rank, count_cores()),
        collate_fn=collate,
        pin_memory=device.type == "cuda",
        worker_init_fn=partial(_tie_loader, os.getpid()),
    )
    with stop_signals_blocked():  # which the processes that are started here inherit
        batches_in_order = iter(loader)
    try:
        for batch in batches_in_order:
            if batch.outage:
                raise RetryableError(f"{batch.outage}; the storage of the images is not available")
            yield batch
    finally:
        # Ends the loading processes, which no signal does: not later, when this process ends, or
        # it would wait for them for ever.
        del batches_in_order


def _tie_loader(rank: int, _number: int) -> None:
    tie_to_parent(rank)


def collate(examples: list[Example]) -> Batch:
    """Stack readable examples; keep the reasons of the others."""
    readable = [(e.image, e.sample_index, e.draws) for e in examples if e.image is not None]
    unreadable: dict[int, str] = {}
    for example in examples:
        unreadable |= example.unreadable
    outage = next((example.outage for example in examples if example.outage), "")
    if not readable:
        nothing = torch.empty(0, 3, 0, 0, dtype=torch.uint8)
        return Batch(nothing, torch.empty(0, dtype=torch.int64), unreadable, outage)
    images, sample_indices, draws = zip(*readable, strict=True)
    return Batch(
        torch.stack(images), torch.tensor(sample_indices), unreadable, outage, torch.stack(draws)
    )
