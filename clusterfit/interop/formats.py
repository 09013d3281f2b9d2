"""What a weights file is, told from its bytes: names and extensions are not believed.

Only three formats are read. Everything else that people have given to such a setting (a login
page, a Git LFS pointer, a plain pickle, half a download) is named, with what to do about it.
"""

from __future__ import annotations

import json
import re
import struct
import zipfile
from pathlib import Path
from typing import Final, Literal

from clusterfit.errors import InvalidDataError, MissingInputError

FileFormat = Literal["safetensors", "torch zip", "torch legacy"]

_TORCH_LEGACY_MAGIC: Final = (0x1950A86A20F9469CFC6C).to_bytes(10, "little")
"""The first object in a file of torch.save before 1.6. Source: torch.serialization.MAGIC_NUMBER."""

_MAX_SAFETENSORS_HEADER_BYTES: Final = 100_000_000
"""Source: the safetensors format, https://github.com/huggingface/safetensors#format."""

_FOREIGN: Final[tuple[tuple[bytes, str], ...]] = (
    (b"version https://git-lfs", "a Git LFS pointer: fetch the file it stands for (git lfs pull)"),
    (b"\x93NUMPY", "a NumPy array, not a state dict"),
    (b"\x89HDF\r\n", "an HDF5 file (Keras?): convert it to safetensors"),
    (b"\x1f\x8b", "a gzip archive: unpack it first"),
    (b"BZh", "a bzip2 archive: unpack it first"),
    (b"\xfd7zXZ", "an xz archive: unpack it first"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive: unpack it first"),
    (b"Rar!", "a RAR archive: unpack it first"),
    (b"7z\xbc\xaf", "a 7z archive: unpack it first"),
    (b"GGUF", "a GGUF file, made for language models"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"\x89PNG", "a PNG image"),
    (b"%PDF", "a PDF document"),
)


def recognise_format(path: Path) -> FileFormat:
    """Return the format of a weights file, from its first bytes and its structure.

    Raises:
        MissingInputError: there is no such file, or it may not be read.
        InvalidDataError: it is something else, or only the beginning of a weights file.
    """
    try:
        with path.open("rb") as file:
            head = file.read(4096)
        size = path.stat().st_size
    except (FileNotFoundError, NotADirectoryError):
        raise MissingInputError(f"{path}: there is no such weights file") from None
    except IsADirectoryError:
        raise InvalidDataError(f"{path}: a folder; give the weights file in it") from None
    except PermissionError:
        raise MissingInputError(f"{path}: this user may not read the weights file") from None

    if _is_safetensors(head):
        _check_safetensors_is_whole(path, size)
        return "safetensors"
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        _check_torch_zip(path)
        return "torch zip"
    if head.startswith(b"\x80") and _TORCH_LEGACY_MAGIC in head[:24]:
        return "torch legacy"
    raise InvalidDataError(f"{path}: not weights but {_describe_foreign(head, size)}")


def _is_safetensors(head: bytes) -> bool:
    """Tell whether a plausible header length is followed by the brace that opens the header."""
    if len(head) < 9 or head[8:9] != b"{":
        return False
    header_bytes = int.from_bytes(head[:8], "little")
    return 2 <= header_bytes <= _MAX_SAFETENSORS_HEADER_BYTES


def _check_safetensors_is_whole(path: Path, size: int) -> None:
    with path.open("rb") as file:
        header_bytes = int.from_bytes(file.read(8), "little")
        header = file.read(header_bytes)
    wanted = 8 + header_bytes
    if size >= wanted:
        try:
            entries = json.loads(header)
            wanted += max(
                (entry["data_offsets"][1] for key, entry in entries.items() if key[:2] != "__"),
                default=0,
            )
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            raise InvalidDataError(
                f"{path}: a safetensors file with a damaged header; fetch or write it again"
            ) from None
    if size != wanted:
        state = "cut off" if size < wanted else "too long"
        raise InvalidDataError(
            f"{path}: a safetensors file that is {state}: it has {size} bytes, its header "
            f"tells of {'at least ' if size < 8 + header_bytes else ''}{wanted}; fetch it again"
        )


def _check_torch_zip(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, ValueError, LookupError, NotImplementedError, struct.error):
        raise InvalidDataError(
            f"{path}: a zip file that is cut off or damaged (torch.save writes such files): its "
            "table of contents, at its end, cannot be read; fetch or write it again"
        ) from None
    tops = {name.partition("/")[2] for name in names}
    if "constants.pkl" in tops or any(name.startswith("code/") for name in tops):
        raise InvalidDataError(
            f"{path}: a TorchScript archive, which is a program and is not run here; where you "
            "trust it, save torch.jit.load(FILE).state_dict() with safetensors.torch.save_file"
        )
    if "data.pkl" not in tops:
        kind = "NumPy archive (.npz)" if names and names[0].endswith(".npy") else "zip archive"
        content = f"its first entry is {names[0]!r}" if names else "it is empty"
        raise InvalidDataError(f"{path}: a {kind} that torch.save did not write: {content}")


def _describe_foreign(head: bytes, size: int) -> str:
    """Say in a few words what a file is that is none of ours, and what to do about it."""
    if not size:
        return "an empty file: fetch or write it again"
    for magic, description in _FOREIGN:
        if head.startswith(magic):
            return description
    if head[257:262] == b"ustar":
        return "a tar archive: unpack it first"
    if head[:1] == b"\x80" and head[1:2] in b"\x02\x03\x04\x05":
        return (
            "a Python pickle, which runs code as it is read; where you trust it, load it with "
            "what wrote it and save its tensors with safetensors.torch.save_file"
        )
    try:
        # The last character may be cut in two by the end of what was read.
        text = head.decode("utf-8", errors="strict" if size == len(head) else "ignore")
    except UnicodeDecodeError:
        text = ""
    if not text or "\0" in text:
        return f"a file of unknown format (it begins with the bytes {head[:8].hex(' ')})"
    if re.match(r"\s*(<!doctype html|<html|<head|<body|<!--|<\?xml)", text, re.IGNORECASE):
        found = re.search(r"<title[^>]*>(.*?)</title>", text, re.IGNORECASE | re.DOTALL)
        title = f" titled {_shorten(found[1])}" if found and found[1].strip() else ""
        return f"a web page{title}: the download gave a page instead of the file; fetch it again"
    return f"a text file that begins {_shorten(text)}"


def _shorten(text: str) -> str:
    words = " ".join(text.split())
    return repr(words if len(words) <= 40 else words[:39] + "…")
