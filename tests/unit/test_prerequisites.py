"""What k8s/prerequisites gives to a team that applies it as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from clusterfit.launch.charts import STORAGE_CHART, find_chart

FOLDER = Path(__file__).parents[2] / "k8s" / "prerequisites"


def read(name: str) -> dict[str, Any]:
    """Return a file's objects by their kinds."""
    found = list(yaml.safe_load_all((FOLDER / name).read_text()))
    by_kind = {item["kind"]: item for item in found}
    assert len(by_kind) == len(found)
    return by_kind


def test_the_namespace_enforces_restricted_and_warns_of_what_it_would_refuse() -> None:
    assert read("namespace.yaml")["Namespace"]["metadata"]["labels"] == {
        "pod-security.kubernetes.io/enforce": "restricted",
        "pod-security.kubernetes.io/warn": "restricted",
    }


def test_the_claim_is_as_the_chart_makes_it() -> None:
    claim = read("claim.yaml")["PersistentVolumeClaim"]
    values = yaml.safe_load((find_chart(STORAGE_CHART) / "values.yaml").read_text())
    assert claim["metadata"]["name"] == "clusterfit"
    assert claim["spec"] == {
        "accessModes": ["ReadWriteMany"],
        "resources": {"requests": {"storage": values["size"]}},
    }


def test_the_queue_leads_to_32_gpus_and_to_all_else_that_pods_ask_for() -> None:
    objects = read("kueue.yaml")
    queue, pool = objects["LocalQueue"], objects["ClusterQueue"]
    assert queue["spec"] == {"clusterQueue": pool["metadata"]["name"]}
    (group,) = pool["spec"]["resourceGroups"]
    (flavor,) = group["flavors"]
    assert flavor["name"] == objects["ResourceFlavor"]["metadata"]["name"]
    quotas = {item["name"]: item["nominalQuota"] for item in flavor["resources"]}
    assert [*quotas] == group["coveredResources"]
    assert quotas.keys() == {"cpu", "memory", "nvidia.com/gpu"}
    assert quotas["nvidia.com/gpu"] == 32
