"""Any text arrives as it was: at each place that takes some, through Helm and readers of YAML."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any, Final

from hypothesis import example, given
from hypothesis import strategies as st

from clusterfit.config.schema import (
    Schema,
    default_values,
    find_map_values,
    is_section,
    walk_leaves,
)
from clusterfit.launch.charts import RUN_CHART, STORAGE_CHART, find_chart
from clusterfit.launch.helm import Helm, Values
from clusterfit.launch.manifests import read_manifests, write_manifests

from .rendering import deep_merge, find

Place = tuple[str | int, ...]
"""Keys and positions that lead to a text; of a map or list, to its one entry in these tests."""

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=30)
KEY_IN: Final = {"annotations": "note", "nccl": "NCCL_NOTE"}
"""A key for each map that takes any text."""

# One entry for each list that holds text, and what Kubernetes alone understands.
LISTS: Values = {
    "extract": {"weights": {"skipLayers": [""]}},
    "evaluate": {"backbones": [{"label": "", "from": "random"}]},
    "platform": {"extraEnv": [{"name": "NOTE"}]},
}


def walk_texts(schema: Schema, place: Place) -> Iterator[Place]:
    """Yield the places below one that take any text: no pattern, no choice of words."""
    values = find_map_values(schema)
    if is_section(schema):
        for key, below in schema["properties"].items():
            yield from walk_texts(below, (*place, key))
    elif schema.get("type") == "array":
        yield from walk_texts(schema["items"], (*place, 0))
    elif schema.get("type") == "string" and not schema.keys() & {"enum", "const", "pattern"}:
        yield place
    elif values:
        for below in walk_texts(values, ()):
            yield (*place, KEY_IN[str(place[-1])], *below)


PLACES = [place for leaf in walk_leaves() for place in walk_texts(leaf.schema, leaf.path)]


def put(values: Values, place: Place, text: str) -> None:
    """Set a text."""
    below: Any = values
    for step in place[:-1]:
        below = below[step]
    below[place[-1]] = text


def test_every_platform_text_is_looked_for_below() -> None:
    ours = {place[1] for place in PLACES if place[0] == "platform"}
    assert ours == {"annotations", "nccl", "extraEnv"}
    assert ("evaluate", "backbones", 0, "label") in PLACES
    assert ("extract", "weights", "stateDictKey") in PLACES


@given(text=TEXT, path=TEXT)
def test_any_text_arrives_as_it_was(text: str, path: str, values: Values, helm: Helm) -> None:
    wanted = deep_merge(deep_merge(copy.deepcopy(default_values()), values), copy.deepcopy(LISTS))
    wanted["data"]["train"] = "x" + path
    wanted["platform"]["tolerations"] = [{"key": "k", "value": text}]
    volume = {"name": "more", "mountPath": "/more", "source": {"nfs": {"path": text}}}
    wanted["platform"]["extraVolumes"] = [{**volume, "readOnly": True}]
    near: Values = {"topologyKey": "k", "labelSelector": {"matchLabels": {"k": text}}}
    required = "requiredDuringSchedulingIgnoredDuringExecution"
    wanted["platform"]["affinity"] = {"podAffinity": {required: [near]}}
    for number, place in enumerate(PLACES):
        put(wanted, place, f"{text}{number}")
    key = {"configMapKeyRef": {"name": "n", "key": text}}
    wanted["platform"]["extraEnv"].append({"name": "KEY", "value": "", "valueFrom": key})
    platform = wanted["platform"]
    rendered = helm.render(find_chart(RUN_CHART), "release", "somewhere", wanted)
    for objects in (
        read_manifests(rendered),
        read_manifests(write_manifests(read_manifests(rendered))),
    ):
        config_map = find(objects, "ConfigMap", "release-config")
        algorithm = {key: value for key, value in wanted.items() if key != "platform"}
        assert json.loads(config_map["data"]["config.json"]) == algorithm
        job = find(objects, "PyTorchJob", "digits-extract")
        assert job["metadata"]["annotations"] == platform["annotations"]
        template = job["spec"]["pytorchReplicaSpecs"]["Worker"]["template"]
        assert template["metadata"]["annotations"]["note"] == platform["annotations"]["note"]
        pod = template["spec"]
        env = {item["name"]: item for item in pod["containers"][0]["env"]}
        assert env["NOTE"]["value"] == platform["extraEnv"][0]["value"]
        assert env["NCCL_NOTE"]["value"] == platform["nccl"]["NCCL_NOTE"]
        assert env["KEY"]["valueFrom"] == key
        assert pod["affinity"] == platform["affinity"]
        assert pod["tolerations"] == platform["tolerations"]
        supervisor = find(objects, "Job", "release-supervisor")["spec"]["template"]["spec"]
        assert supervisor["tolerations"] == platform["tolerations"]
        mounted = next(item for item in pod["volumes"] if item["name"] == "more")
        assert mounted["nfs"]["path"] == text


# What a path may hold, and YAML may not, without quotes.
ODD: Final = 'it\'s "a": {b} #1 - é'


def test_any_path_is_mounted_as_it_was(values: Values, helm: Helm) -> None:
    wanted = deep_merge(copy.deepcopy(default_values()), values)
    platform = wanted["platform"]
    platform["storage"] = {"claim": "storage", "subPath": f"runs/{ODD}"}
    platform["data"] = {"claim": "data", "subPath": f"images/{ODD}"}
    volume = {"name": "more", "source": {"emptyDir": {}}, "readOnly": True}
    platform["extraVolumes"] = [{**volume, "mountPath": f"/more/{ODD.replace(':', '')}"}]
    objects = read_manifests(helm.render(find_chart(RUN_CHART), "release", "somewhere", wanted))
    job = find(objects, "PyTorchJob", "digits-extract")
    (container,) = job["spec"]["pytorchReplicaSpecs"]["Worker"]["template"]["spec"]["containers"]
    mounts = {item["name"]: item for item in container["volumeMounts"]}
    assert mounts["storage"]["subPath"] == f"runs/{ODD}"
    assert mounts["data"]["subPath"] == f"images/{ODD}"
    assert mounts["more"]["mountPath"] == f"/more/{ODD.replace(':', '')}"


@given(notes=st.dictionaries(TEXT, TEXT, max_size=3))
@example(notes={"note\x7f": "\x7f\x85\ufeff"})
def test_a_claims_annotations_arrive_as_they_were(notes: dict[str, str], helm: Helm) -> None:
    rendered = helm.render(find_chart(STORAGE_CHART), "storage", "here", {"annotations": notes})
    claim = find(read_manifests(rendered), "PersistentVolumeClaim", "clusterfit")
    assert claim["metadata"]["annotations"] == {**notes, "helm.sh/resource-policy": "keep"}
