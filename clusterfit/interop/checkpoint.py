"""Open a weights file without executing anything in it."""

from __future__ import annotations

import argparse
import re
from dataclasses import dataclass
from pathlib import Path

from clusterfit.errors import InvalidDataError
from clusterfit.interop.formats import FileFormat, recognise_format


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a weights file holds, before anybody has looked for a state dict in it."""

    path: Path
    file_format: FileFormat
    content: object
    """Dicts, lists, tensors, numbers and strings, nested as they were saved."""


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a safetensors file or one that torch.save wrote, onto the CPU.

    Files of torch.save go through torch's restricted unpickler, which builds tensors and plain
    containers and nothing else. argparse.Namespace is let through beside these, because published
    checkpoints often carry their command line, and it only holds values.

    Raises:
        MissingInputError: there is no such file.
        InvalidDataError: it is no weights file, it is damaged, or reading it would run code.
    """
    file_format = recognise_format(path)
    try:
        if file_format == "safetensors":
            content = _read_safetensors(path)
        else:
            content = _read_torch(path, is_zip=file_format == "torch zip")
    except (OSError, MemoryError, ImportError):
        raise  # The machine's trouble, or the installation's, not the file's.
    except Exception as error:  # Whatever a parser raises on bytes that are not what they claim.
        raise InvalidDataError(f"{path}: {_explain(error, file_format)}") from error
    return Checkpoint(path, file_format, content)


def _read_safetensors(path: Path) -> object:
    from safetensors.torch import load_file

    return load_file(path, device="cpu")


def _read_torch(path: Path, *, is_zip: bool) -> object:
    import torch

    with torch.serialization.safe_globals([argparse.Namespace]), path.open("rb") as file:
        # torch maps a file into memory only by its path, but believes a path's .safetensors.
        can_map = is_zip and path.suffix != ".safetensors"
        return torch.load(
            path if can_map else file, map_location="cpu", weights_only=True, mmap=can_map
        )


def _explain(error: Exception, file_format: FileFormat) -> str:
    """Turn what a parser raised into what is wrong with the file."""
    # torch wraps the restricted unpickler's one line in advice to turn the restriction off.
    text = str(error).partition("WeightsUnpickler error: ")[2] or str(error)
    if re.search(r"\bGLOBAL\b|allowlist|reduce for", text):
        named = re.search(r"\bGLOBAL ([\w.]*\w)|<(?:class|function|built-in \w+) '?([\w.]+)", text)
        needed = f" ({named[1] or named[2]})" if named else ""
        return (
            f"a {file_format} file that needs Python code to be run{needed}, which is refused; "
            "where you trust it, load it with torch.load(FILE, weights_only=False) and save its "
            "tensors with safetensors.torch.save_file"
        )
    reason = " ".join(text.split()).partition(". ")[0][:120] or type(error).__name__
    return f"a {file_format} file that is cut off or damaged ({reason}); fetch or write it again"
