"""A dry run says of a release, and of each of its objects, what submitting would come to."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from clusterfit.launch.api import CLAIMS, CONFIG_MAPS, NAMESPACES, RESOURCE_QUOTAS, Api
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


def put_quota(objects: Objects, hard: str, **spec: Any) -> None:
    """Limit the pods that run, and those that are kept; one of the former runs already."""
    status = {
        "hard": {"pods": hard, "count/pods": hard, "requests.cpu": "1"},
        "used": {"pods": "1", "count/pods": "0", "requests.cpu": "0"},
    }
    objects.put(RESOURCE_QUOTAS, {**named("few"), "spec": spec, "status": status})


RELEASE = "Release digits-step1"
EXTRACT, CLUSTER = "PyTorchJob digits-extract", "Job digits-cluster"


def refuse_stage(requested: int, limited: int) -> str:
    asked = f"requested: pods={requested}, used: pods=1, limited: pods={limited}"
    return f"its pods together: exceeded quota: few, {asked}"


def refuse_release(limited: int) -> str:
    asked = f"requested: count/pods=4, used: count/pods=0, limited: count/pods={limited}"
    return f"all its pods: exceeded quota: few, {asked}"


@pytest.mark.parametrize(
    ("hard", "faults"),
    [
        ("1k", {}),
        ("4", {}),
        ("3", {RELEASE: refuse_release(3), EXTRACT: refuse_stage(3, 3)}),
        (
            "2",
            {
                RELEASE: refuse_release(2),
                EXTRACT: refuse_stage(3, 2),
                CLUSTER: refuse_stage(2, 2),
            },
        ),
    ],
)
def test_a_quota_of_pods_must_have_room_for_all_of_them(
    server: tuple[Api, Objects], hard: str, faults: dict[str, str]
) -> None:
    """Two of extract and one of cluster, each stage in its turn, with the supervisor beside it."""
    api, objects = server
    put_quota(objects, hard)
    assert find_faults(judge(api, render(device="cpu", platform=CPU))) == faults


def select(operator: str, *values: str) -> Any:
    term = {"scopeName": "PriorityClass", "operator": operator, "values": list(values)}
    return {"scopeSelector": {"matchExpressions": [term]}}


@pytest.mark.parametrize(("scopes", "of_none", "of_high"), [
    ({}, True, True),
    ({"scopes": ["NotBestEffort", "NotTerminating"]}, True, True),
    ({"scopes": ["NotTerminating", "BestEffort"]}, False, False),
    ({"scopes": ["Terminating"]}, False, False),
    ({"scopes": ["PriorityClass"]}, False, True),
    (select("Exists"), False, True),
    (select("DoesNotExist"), True, False),
    (select("In", "low", "high"), False, True),
    (select("In", "low"), False, False),
    (select("NotIn", "high"), True, False),
])  # fmt: skip
def test_a_quota_of_other_pods_has_no_say(
    server: tuple[Api, Objects], scopes: Any, of_none: bool, of_high: bool
) -> None:
    api, objects = server
    put_quota(objects, "1", **scopes)
    for priority, is_meant in (("", of_none), ("high", of_high)):
        platform = {**CPU, "priorityClass": priority}
        faults = find_faults(judge(api, render(device="cpu", platform=platform)))
        assert bool(faults) is is_meant


def test_who_may_not_read_quotas_is_not_refused(server: tuple[Api, Objects]) -> None:
    api, objects = server
    put_quota(objects, "1")

    def refuse(_method: str, path: str) -> None:
        if path.endswith("/resourcequotas"):
            objects.trouble.append(403)

    objects.look_on = refuse
    assert find_faults(judge(api, render())) == {}


def test_what_is_there_already_needs_no_room(server: tuple[Api, Objects]) -> None:
    api, objects = server
    rendered = render()
    objects.install(rendered.manifests)
    put_quota(objects, "1")
    assert RELEASE not in find_faults(judge(api, rendered))


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
