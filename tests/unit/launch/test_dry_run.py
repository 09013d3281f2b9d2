"""A dry run says of a release, and of each of its objects, what submitting would come to."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from clusterfit.launch.api import CLAIMS, CONFIG_MAPS, NAMESPACES, Api
from clusterfit.launch.dry_run import Verdict, dry_run
from clusterfit.launch.manifests import Manifest
from clusterfit.launch.render import Rendered

from .object_server import Objects, serve_objects
from .test_submit import ACCESS, Helm, named, render

CPU = {"gpus": 0, "nodesWithoutGpus": 2, "memoryGibPerNode": 2, "shmGibPerNode": 1}


@pytest.fixture
def server() -> Iterator[tuple[Api, Objects]]:
    with serve_objects() as (api, objects):
        objects.kinds |= {"serviceaccounts", "roles", "rolebindings"}
        objects.put(NAMESPACES, named("team"))
        objects.put(CLAIMS, named("clusterfit"))
        yield api, objects


def judge(api: Api, rendered: Rendered, **options: Any) -> list[Verdict]:
    return list(dry_run(Helm(**options), api, ACCESS, rendered))


def find_faults(verdicts: list[Verdict]) -> dict[str, str]:
    return {f"{each.kind} {each.name}": each.fault for each in verdicts if each.fault}


def quota(mebibytes: int) -> Any:
    """Return a judge that adds up the memory of a pod's containers, as a ResourceQuota does."""

    def refuse(manifest: Manifest) -> tuple[int, str] | None:
        if manifest["kind"] != "Pod":
            return None
        containers = manifest["spec"]["containers"]
        assert len({container["name"] for container in containers}) == len(containers)
        asked = 0
        for container in containers:
            text = container["resources"]["requests"]["memory"]
            asked += int(text[:-2]) * {"Mi": 1, "Gi": 1024}[text[-2:]]
        if asked <= mebibytes:
            return None
        return 403, f'pods "x" is forbidden: exceeded quota: small, requested: {asked}Mi'

    return refuse


def test_each_object_has_one_row_below_that_of_the_release(server: tuple[Api, Objects]) -> None:
    rendered = render()
    assert judge(server[0], rendered) == [
        Verdict("Release", "digits-step1", ""),
        *(Verdict(item["kind"], item["metadata"]["name"], "") for item in rendered.manifests),
    ]


@pytest.mark.parametrize(("mebibytes", "asked"), [
    (1024, "its pods: create pods digits-extract-pod in namespace team: exceeded quota: small, "
           "requested: 2048Mi"),
    (3072, "its pods together: exceeded quota: small, requested: 4224Mi"),
    (4223, "its pods together: exceeded quota: small, requested: 4224Mi"),
    (4224, ""),
])  # fmt: skip
def test_a_quota_must_hold_all_pods_of_a_stage_and_the_supervisor(
    server: tuple[Api, Objects], mebibytes: int, asked: str
) -> None:
    api, objects = server
    objects.judge = quota(mebibytes)
    faults = find_faults(judge(api, render(device="cpu", platform=CPU)))
    assert faults.get("PyTorchJob digits-extract", "") == asked
    # One pod of 2 GiB, and the supervisor's 128 MiB beside it.
    assert ("Job digits-cluster" in faults) == (mebibytes < 2176)


def test_what_submit_would_refuse_is_refused(server: tuple[Api, Objects]) -> None:
    api, objects = server
    missing = {"storage": {"claim": "none"}, "queue": {"gang": "kueue", "name": "gpu"}}
    (said,) = find_faults(judge(api, render(platform=missing))).values()
    assert "claim none: not found" in said
    assert "is Kueue installed" in said
    taken = judge(api, render(), digits_step1="deployed")
    assert "exists (deployed), but not as" in find_faults(taken)["Release digits-step1"]
    objects.put(CONFIG_MAPS, render(seed=1).config_map)
    assert "with other content" in find_faults(judge(api, render()))["Release digits-step1"]
    assert next(dry_run(Helm(), api, ACCESS, render(), replace=True)).fault == ""
