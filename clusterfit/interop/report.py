"""What loading a weights file did."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from clusterfit.interop.formats import FileFormat


@dataclass(frozen=True, slots=True)
class LoadReport:
    """What became of each tensor of a model and of a file.

    Every tensor of the model is in exactly one of loaded, missing, skipped and mismatched.
    """

    path: Path
    file_format: FileFormat
    found_at: str
    reason: str
    loaded: tuple[str, ...]
    """Keys of the model that were filled from the file."""
    missing: tuple[str, ...]
    """Keys of the model that the file does not have; they keep what they had."""
    skipped: tuple[str, ...]
    """Keys of the model that `skipLayers` leaves out."""
    mismatched: tuple[str, ...]
    """Keys of the model's head that the file has too, but that were not loaded because the head as
    a whole does not fit: another number of classes."""
    unused: tuple[str, ...]
    """Keys of the file that the model does not have."""
    head: str
    """Name of the model's final classifier; empty: it has none."""
    head_is_loaded: bool
    """Whether the whole head came from the file."""
    num_backbone_loaded: int
    num_backbone_wanted: int
    """Tensors of the backbone: without the head, `num_batches_tracked` and what was skipped."""
    notes: tuple[str, ...]
    """What a user should know; each is worth a warning."""

    @property
    def loaded_fraction(self) -> float:
        """Part of the backbone's tensors that came from the file, 0 to 1."""
        return self.num_backbone_loaded / max(1, self.num_backbone_wanted)

    @property
    def summary(self) -> str:
        """One line for the log."""
        head = ("loaded" if self.head_is_loaded else "not loaded") if self.head else "none"
        return (
            f"{self.file_format} file, state dict at {self.found_at} ({self.reason}): "
            f"{self.num_backbone_loaded} of {self.num_backbone_wanted} backbone tensors loaded "
            f"({self.loaded_fraction:.1%}), head {head}, {len(self.missing)} missing, "
            f"{len(self.skipped)} skipped, {len(self.unused)} unused"
        )
