"""`put` and `get` between two folders: the pod's side runs here, as the pod would run it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from clusterfit.config.tree import RunFile
from clusterfit.errors import MissingInputError, WriteError
from clusterfit.launch.api import PODS
from clusterfit.launch.files import (
    Amount,
    get_files,
    mount_claim,
    open_claim,
    parse_place,
    put_files,
)
from clusterfit.launch.helm import HelmLibrary
from clusterfit.launch.render import render_run

from .here_command import work_here
from .object_server import serve_objects
from .test_submit import render

API: Any = None


@pytest.fixture
def claims(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the two claims, where commands meant for the pod work."""
    return work_here(tmp_path / "claims", monkeypatch)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "rotnet.torch"
    path.write_bytes(b"weights")
    os.utime(path, (1e9, 1e9))
    return path


class Notes:
    """What was to be done, each time."""

    def __init__(self) -> None:
        self.amounts: list[Amount] = []

    def begin(self, amount: Amount) -> Callable[[int], None]:
        self.amounts.append(amount)
        return lambda _: None


def list_all(claims: Path) -> list[str]:
    return sorted(str(path.relative_to(claims)) for path in claims.rglob("*") if path.is_file())


@pytest.mark.parametrize(("target", "there", "wanted"), [
    ("storage:weights/other.torch", "", "storage/weights/other.torch"),
    ("storage:other", "", "storage/other"),
    ("storage:other", "storage/other", "storage/other"),
    ("storage:", "", "storage/rotnet.torch"),
    ("data:", "", "data/rotnet.torch"),
    ("storage:weights/", "", "storage/weights/rotnet.torch"),
    ("storage:weights", "storage/weights/more.torch", "storage/weights/rotnet.torch"),
    ("storage:weights", "storage/weights/rotnet.torch", "storage/weights/rotnet.torch"),
])  # fmt: skip
def test_a_file_takes_the_targets_place_or_goes_into_the_folder(
    claims: Path, weights: Path, target: str, there: str, wanted: str
) -> None:
    if there:
        (claims / there).parent.mkdir(exist_ok=True)
        (claims / there).write_bytes(b"other")
    notes = Notes()
    for _ in range(2):
        put_files(API, "pod", weights, parse_place(target), notes.begin)
    assert list_all(claims) == sorted({wanted, there} - {""})
    assert (claims / wanted).read_bytes() == b"weights"
    assert [amount.num_files for amount in notes.amounts] == [1, 0], "it was there the second time"


@pytest.mark.parametrize(("platform", "place", "claim", "in_pod"), [
    ({}, "data:x", "clusterfit", "/data/data/x"),
    ({}, "storage:x/", "clusterfit", "/storage/x"),
    ({"data": {"claim": "images"}}, "data:", "images", "/data"),
    ({"data": {"claim": "images", "subPath": "a/b"}}, "data:x", "images", "/data/a/b/x"),
    ({"storage": {"subPath": "us"}}, "storage:x", "clusterfit", "/storage/us/x"),
    ({"storage": {"subPath": "us"}}, "data:x", "clusterfit", "/data/data/x"),
])  # fmt: skip
def test_the_pod_mounts_one_claim_whole(
    platform: dict[str, Any], place: str, claim: str, in_pod: str
) -> None:
    """What it mounts a folder of, the kubelet would make as root where it is missing."""
    values = {"formatVersion": 1, "name": "digits", "platform": platform}
    run = RunFile.model_validate_json(json.dumps(values))
    template = json.loads(
        render_run(HelmLibrary(), run, "team").config_map["data"]["files-pod.json"]
    )
    before = json.dumps(template)
    pod, found = mount_claim(template, parse_place(place), writable=True)
    [container] = mount_claim(template, parse_place(place), writable=False)[0]["spec"]["containers"]
    is_kept = [mount["mountPath"] for mount in container["volumeMounts"] if "readOnly" in mount]
    assert ("/data" in is_kept) is place.startswith("data"), "its claim may allow no more"
    assert json.dumps(template) == before
    assert found.in_pod == in_pod
    [container] = pod["spec"]["containers"]
    claims = {
        volume["name"]: volume["persistentVolumeClaim"]
        for volume in pod["spec"]["volumes"]
        if "persistentVolumeClaim" in volume
    }
    (mount,) = (mount for mount in container["volumeMounts"] if mount["name"] in claims)
    assert mount == {"name": mount["name"], "mountPath": f"/{place.partition(':')[0]}"}
    assert claims == {mount["name"]: {"claimName": claim}}


def test_the_pod_lives_a_day_at_most_and_no_longer_than_the_command() -> None:
    """An hour, which printing has, is too little for a data set."""
    template = json.loads(render().config_map["data"]["files-pod.json"])
    with serve_objects() as (api, objects):
        objects.pods_last = True
        place = parse_place("data:x")
        with open_claim(api, template, "digits", place, print, writable=True) as (pod, _):
            assert objects.get(PODS, pod)["spec"]["activeDeadlineSeconds"] == 24 * 60 * 60
        assert objects.by_path == {}


def test_what_is_not_there_is_named_as_it_was_typed(claims: Path, tmp_path: Path) -> None:
    there = replace(parse_place("data:x/y"), folder="data")
    with pytest.raises(MissingInputError, match=r"^data:x/y: not there$"):
        get_files(API, "pod", there, tmp_path / "new", Notes().begin)


def test_what_cannot_be_read_here_is_named(claims: Path, weights: Path) -> None:
    def lose(_amount: Amount) -> Callable[[int], None]:
        weights.unlink()
        return lambda _: None

    with pytest.raises(MissingInputError, match=r"rotnet\.torch: No such file or directory$"):
        put_files(API, "pod", weights, parse_place("storage:"), lose)
    assert list_all(claims) == []


def test_where_nothing_can_be_written_get_says_so(
    claims: Path, weights: Path, tmp_path: Path
) -> None:
    put_files(API, "pod", weights, parse_place("storage:"), Notes().begin)
    for target in (weights, weights / "below"):
        with pytest.raises(WriteError, match=r"rotnet\.torch.*: (File exists|Not a directory)$"):
            get_files(API, "pod", parse_place("storage:"), target, Notes().begin)
    assert weights.read_bytes() == b"weights"
    get_files(API, "pod", parse_place("storage:"), tmp_path / "new", Notes().begin)
    assert (tmp_path / "new/rotnet.torch").read_bytes() == b"weights"
