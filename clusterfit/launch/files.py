"""`put` and `get`: files onto the claims of a run and out of them."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from clusterfit.errors import ConfigError, MissingInputError, WriteError
from clusterfit.launch.api import Api
from clusterfit.launch.files_pod import run_files_pod
from clusterfit.launch.manifests import Manifest
from clusterfit.launch.remote_command import CommandFailedError, RemoteCommand
from clusterfit.launch.transfer import (
    CANNOT_WRITE,
    Listing,
    list_files,
    receive_files,
    send_files,
)

_MODULE: Final = ("python", "-m", "clusterfit.launch.transfer")
# PID 1 gets no default signal handling, so it waits for the signal itself.
_IDLE: Final = (
    "python",
    "-c",
    "import signal as s; s.pthread_sigmask(s.SIG_BLOCK, {s.SIGTERM}); "
    "s.sigtimedwait({s.SIGTERM}, 86400)",
)
_DAY_SECONDS: Final = 86400
_BUFFER_BYTES: Final = 1 << 18

Say = Callable[[str], None]
Tell = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Place:
    """A path on one of the two claims, written `data:PATH` or `storage:PATH`."""

    root: str
    path: str
    is_folder: bool = False
    """Whether it is written as one: the root itself, or with a slash at its end."""
    folder: str = ""
    """Of the claim, that is the root; empty: all of it."""

    @property
    def in_pod(self) -> str:
        """Where the files pod sees it."""
        parts = (self.root, self.folder, self.path)
        return "".join(f"/{part}" for part in parts if part)

    def child(self, name: str) -> Place:
        """Return the place of that name in this folder."""
        return replace(self, path=f"{self.path}/{name}".lstrip("/"), is_folder=False)


@dataclass(frozen=True, slots=True)
class Amount:
    """What a transfer is about to do."""

    num_files: int
    num_bytes: int
    num_there: int
    """Files that are there already, by size and time."""
    num_gone: int = 0
    """Files that were gone when their turn came."""


def parse_place(text: str) -> Place:
    """Read `data:PATH` or `storage:PATH`.

    Raises:
        ConfigError: It is neither, or leads out of the claim.
    """
    root, colon, path = text.partition(":")
    if not colon or root not in ("data", "storage") or ".." in path.split("/"):
        raise ConfigError(f"{text}: want data:PATH or storage:PATH, a path on the run's claims")
    return Place(root, path.strip("/"), is_folder=path.strip("/") == "" or path.endswith("/"))


@contextmanager
def open_claim(
    api: Api, template: Manifest, run: str, place: Place, say: Say, *, writable: bool
) -> Iterator[tuple[str, Place]]:
    """Yield the name of a pod that mounts a place's claim, and the place as that pod has it."""
    template, place = mount_claim(template, place, writable=writable)
    with run_files_pod(api, template, run, _IDLE, say, _DAY_SECONDS) as pod:
        yield pod, place


def mount_claim(template: Manifest, place: Place, *, writable: bool) -> tuple[Manifest, Place]:
    """Return a files pod that mounts one claim, all of it, and a place there.

    Data stays read-only unless it is to be written: its claim may allow no more.
    Where only a folder of it is mounted and does not exist, the kubelet makes it, as root, and the
    pod's user may not write there.
    """
    changed: Manifest = json.loads(json.dumps(template))
    [container] = changed["spec"]["containers"]
    mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
    own = mounts[f"/{place.root}"]
    place = replace(place, folder=own.pop("subPath", "").strip("/"))
    if writable:
        own.pop("readOnly", None)
    other = mounts["/storage" if place.root == "data" else "/data"]
    container["volumeMounts"].remove(other)
    names = {mount["name"] for mount in container["volumeMounts"]}
    volumes = [volume for volume in changed["spec"]["volumes"] if volume["name"] in names]
    for volume in volumes if writable else ():
        volume.get("persistentVolumeClaim", {}).pop("readOnly", None)
    changed["spec"]["volumes"] = volumes
    return changed, place


def put_files(
    api: Api, pod: str, source: Path, target: Place, begin: Callable[[Amount], Tell]
) -> Amount:
    """Bring a file or folder onto a claim.

    A folder's files go into the target, a file takes its place. As with cp, a file goes into a
    target that is a folder, or is written as one, under its own name.

    Raises:
        MissingInputError: The source cannot be read.
        WriteError: The claim cannot be written.
    """
    with _reading(source):
        here = list_files(source, everything=True)
    folder, rename = target.in_pod, ""
    if source.is_file():
        there = {} if target.is_folder else _list_remote(api, pod, target.in_pod)
        if target.is_folder or not (there is None or _is_file(there, target)):
            target = target.child(source.name)
            there = _list_remote(api, pod, target.in_pod)
        folder, _, rename = target.in_pod.rpartition("/")
        there = {source.name: there[rename]} if there and _is_file(there, target) else {}
    else:
        there = _list_remote(api, pod, folder) or {}
    names, amount = _compare(here, there)
    tell = begin(amount)
    if not names:
        return amount
    command = [*_MODULE, "receive", folder, *([f"--rename={rename}"] if rename else [])]
    try:
        with RemoteCommand(api, pod, command) as remote:
            buffered = io.BufferedWriter(remote, _BUFFER_BYTES)
            with _reading(source):
                send_files(source, names, buffered, tell)
            buffered.flush()
            while remote.read(64):
                pass  # the count; the end of it is what is waited for
            buffered.detach()
    except CommandFailedError as error:
        if error.status == CANNOT_WRITE:
            raise WriteError(str(error)) from error
        raise
    return amount


def get_files(
    api: Api, pod: str, source: Place, target: Path, begin: Callable[[Amount], Tell]
) -> Amount:
    """Bring a file or folder from a claim into a folder here.

    What a stage at work removes or renames meanwhile is left out.

    Raises:
        MissingInputError: The source does not exist.
        WriteError: A file cannot be written here.
    """
    there = _list_remote(api, pod, source.in_pod)
    if there is None:
        raise MissingInputError(f"{source.root}:{source.path}: not there")
    here = list_files(target) if target.is_dir() else {}
    names, amount = _compare(there, here)
    tell = begin(amount)
    if not names:
        return amount
    with RemoteCommand(api, pod, [*_MODULE, "send", source.in_pod]) as remote:
        remote.write(json.dumps(names).encode() + b"\n")
        buffered = io.BufferedReader(remote, _BUFFER_BYTES)
        try:
            num_files = receive_files(target, buffered, tell)
        except OSError as error:
            raise WriteError(f"{error.filename or target}: {error.strerror or error}") from error
        while buffered.read(_BUFFER_BYTES):
            pass  # the padding after the archive's end, then the command's own end
        buffered.detach()
    return replace(amount, num_gone=amount.num_files - num_files)


@contextmanager
def _reading(source: Path) -> Iterator[None]:
    """Tell in one line what of the source cannot be read, also where it changes meanwhile.

    Raises:
        MissingInputError: Something cannot.
    """
    try:
        yield
    except OSError as error:
        raise MissingInputError(f"{error.filename or source}: {error.strerror or error}") from error


def _is_file(listing: Listing, place: Place) -> bool:
    """Whether a listing is that of one file, and not of a folder."""
    return list(listing) == [place.path.rpartition("/")[2]]


def _compare(source: Listing, target: Listing) -> tuple[list[str], Amount]:
    names = [name for name, what in source.items() if target.get(name) != what]
    num_bytes = sum(source[name][0] for name in names)
    return names, Amount(len(names), num_bytes, len(source) - len(names))


def _list_remote(api: Api, pod: str, path: str) -> Listing | None:
    with RemoteCommand(api, pod, [*_MODULE, "list", path]) as remote:
        listing: Listing | None = json.loads(remote.read())
    return listing
