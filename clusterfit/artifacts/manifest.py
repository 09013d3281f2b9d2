"""Manifests: written last, so that a finished stage is one whose manifest is there and fits."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from clusterfit.artifacts.files import Guard, compute_sha256, read_json, write_json
from clusterfit.artifacts.layout import MANIFEST_NAME
from clusterfit.artifacts.outage import check_storage
from clusterfit.errors import InvalidDataError, MissingInputError

FORMAT_VERSION: Final = 1
"""Of the run directory; part of every fingerprint."""


@dataclass(frozen=True, slots=True)
class Identity:
    """What makes an artifact the one it is.

    `config` holds the result-changing settings as nested JSON types, `inputs` the fingerprints of
    what was read. Two artifacts with equal fingerprints are interchangeable.
    """

    stage: str
    config: Mapping[str, Any]
    inputs: Mapping[str, str]

    @property
    def fingerprint(self) -> str:
        """sha256 over stage, config, inputs and format version, in canonical JSON."""
        canonical = json.dumps(
            [FORMAT_VERSION, self.stage, self.config, self.inputs],
            sort_keys=True,
            separators=(",", ":"),
            allow_nan=False,
        )
        return hashlib.sha256(canonical.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class FileRecord:
    """A file that a manifest vouches for."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    path: Annotated[str, Field(pattern=r"^[^/\x00][^\x00]*$")]
    """Relative to the manifest's folder."""
    size: Annotated[int, Field(ge=0)]
    """Bytes."""
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a stage wrote, from what, and what it found."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    stage: str
    fingerprint: str
    config: dict[str, Any]
    inputs: dict[str, str]
    files: list[FileRecord]
    results: dict[str, Any] = field(default_factory=dict)
    """Counts, objectives and the like; for people and for later stages."""
    versions: dict[str, str] = field(default_factory=dict)
    """Of the packages that computed it."""
    format_version: int = FORMAT_VERSION

    @property
    def identity(self) -> Identity:
        """What it says that it is."""
        return Identity(self.stage, self.config, self.inputs)


_MANIFEST: Final = TypeAdapter(Manifest)


def write_manifest(
    folder: Path,
    identity: Identity,
    files: Sequence[str | FileRecord],
    results: Mapping[str, Any],
    versions: Mapping[str, str],
    guard: Guard | None = None,
) -> Manifest:
    """Vouch for files of a folder: the named ones, which are hashed, and those of given records."""
    records = [
        file
        if isinstance(file, FileRecord)
        else FileRecord(file, (folder / file).stat().st_size, compute_sha256(folder / file))
        for file in files
    ]
    manifest = Manifest(
        stage=identity.stage,
        fingerprint=identity.fingerprint,
        config=dict(identity.config),
        inputs=dict(identity.inputs),
        files=records,
        results=dict(results),
        versions=dict(versions),
    )
    write_json(folder / MANIFEST_NAME, asdict(manifest), guard)
    return manifest


def read_manifest(folder: Path) -> Manifest:
    """Return a folder's manifest.

    Raises:
        MissingInputError: when the stage has not finished.
        InvalidDataError: when the file is damaged or of another format version.
    """
    path = folder / MANIFEST_NAME
    content = read_json(path)
    version = content.get("format_version")
    if version != FORMAT_VERSION:
        raise InvalidDataError(
            f"{path}: format version {version}, this clusterfit reads {FORMAT_VERSION}"
        )
    try:
        manifest = _MANIFEST.validate_json(json.dumps(content), strict=True)
    except ValidationError as error:
        raise InvalidDataError(
            f"{path}: not a manifest of ours ({_explain(error)}); delete it, and run the stage "
            "again"
        ) from error
    if manifest.identity.fingerprint != manifest.fingerprint:
        raise InvalidDataError(
            f"{path}: changed after it was written: its settings are not those of its fingerprint; "
            "delete it, and run the stage again"
        )
    return manifest


def read_count(folder: Path, manifest: Manifest, key: str) -> int:
    """Return a number that a stage has counted, from its manifest's results.

    Raises:
        InvalidDataError: when there is no such count in it.
    """
    value = manifest.results.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise InvalidDataError(
            f"{folder / MANIFEST_NAME}: results.{key} is {json.dumps(value)}, want a count; delete "
            f"it, and run stage {manifest.stage} again"
        )
    return value


def check_file(folder: Path, manifest: Manifest, path: Path) -> Path:
    """Return a file of the folder that its manifest vouches for, once all of it has been read.

    Raises:
        MissingInputError: when it is not there.
        InvalidDataError: when its content is not the one that was written.
        RetryableError: when the storage failed.
    """
    name = path.relative_to(folder).as_posix()
    redo = f"delete it, and run stage {manifest.stage} again"
    try:
        found = compute_sha256(path)
    except OSError as error:
        check_storage(path, error)
        raise MissingInputError(f"{path}: {error.strerror}; {redo}") from error
    if found not in {record.sha256 for record in manifest.files if record.path == name}:
        raise InvalidDataError(f"{path}: content differs from the manifest's sha256; {redo}")
    return path


def find_manifest(folder: Path) -> Manifest | None:
    """Return a folder's manifest, or None where the stage has not finished."""
    try:
        return read_manifest(folder)
    except MissingInputError:
        return None


def is_finished(folder: Path, identity: Identity) -> bool:
    """Tell whether a folder holds this very artifact, every file at its recorded size.

    Raises:
        InvalidDataError: when it holds another one; names each difference.
    """
    manifest = find_manifest(folder)
    if manifest is None:
        return False
    check_identity(folder, manifest.identity, identity)
    return not any(find_size_faults(folder, manifest))


def check_identity(folder: Path, found: Identity, wanted: Identity) -> None:
    """Raise InvalidDataError unless what was found is what is wanted, naming each difference."""
    if found.fingerprint == wanted.fingerprint:
        return
    differences = [
        *_differences(wanted.stage, found.config, wanted.config),
        *_differences(f"{wanted.stage}.inputs", found.inputs, wanted.inputs),
    ]
    raise InvalidDataError(
        f"{folder}: made with other settings: {'; '.join(differences) or 'format version'}. "
        "Give the run another name, or redo the stage with --overwrite"
    )


def find_size_faults(folder: Path, manifest: Manifest) -> Iterator[str]:
    """Yield one line for each file that is missing, or of another size; cheap.

    Raises:
        RetryableError: when the storage failed.
    """
    for record in manifest.files:
        path = folder / record.path
        try:
            size = path.stat().st_size
        except FileNotFoundError:
            yield f"{path}: missing"
            continue
        except OSError as error:
            check_storage(path, error)
            yield f"{path}: {error.strerror}"
            continue
        if size != record.size:
            yield f"{path}: {size} bytes, the manifest says {record.size}"


def _differences(path: str, have: Mapping[str, Any], want: Mapping[str, Any]) -> Iterator[str]:
    for key in sorted({*have, *want}):
        old, new = have.get(key), want.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            yield from _differences(f"{path}.{key}", old, new)
        elif old != new:
            yield f"{path}.{key} was {_short(old)}, now {_short(new)}"


def _explain(error: ValidationError) -> str:
    """Return the first thing that is wrong, as `files.0.size: Field required`."""
    first = error.errors(include_url=False)[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"


def _short(value: Any) -> str:
    text = json.dumps(value)
    is_fingerprint = isinstance(value, str) and len(value) == 64
    return value[:12] if is_fingerprint else text
