"""What the charts do for an administrator who has Helm alone, beside running the stages."""

from __future__ import annotations

import re
import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from tests.cluster import programs
from tests.cluster.cluster import Cluster
from tests.cluster.commands import CommandError
from tests.cluster.manifests import claim, phase
from tests.cluster.storage import ROOT_OWNED_CLASS
from tests.e2e.digits import RUN
from tests.e2e.helm import RUN_CHART, helm
from tests.e2e.product import Product

NOWHERE = {"platform.nodeSelector": {"nowhere": "true"}}


def test_selftest_names_who_may_not_write(cluster: Cluster, user: Product) -> None:
    user.namespace.kubectl.create(claim("locked", storage_class=ROOT_OWNED_CLASS))
    who = {"user": 2000, "group": 3000, "fsGroup": 4000, "supplementalGroups": [5000]}
    run_file = user.write(
        {
            **NOWHERE,
            "stages": ["extract"],
            "platform.storage": {"claim": "locked"},
            "platform.podUser": who,
        }
    )
    helm(user, "install", "locked-out", RUN_CHART, "-f", run_file)
    with pytest.raises(CommandError) as refusal:
        helm(user, "test", "locked-out", "--logs")
    said = refusal.value.output
    assert "failed: storage claim as user 2000, groups [3000, 4000, 5000]: " in said
    assert "Permission denied: '/storage/.clusterfit-test-" in said
    assert "ok: data claim: 0 entries, read-only" in said
    assert "ok: libraries: torch " in said
    # What is wrong is the claim, not the pod.
    tested = user.namespace.kubectl.get("pod", "locked-out-test")
    assert phase(tested) == "Failed"


@pytest.mark.parametrize("program", [programs.HELM_3, programs.HELM_4], ids=["helm3", "helm4"])
def test_a_users_own_helm_installs_replaces_and_removes(
    cluster: Cluster, user: Product, tmp_path: Path, program: programs.Program
) -> None:
    programs.build(cluster.cache, program)
    words = tmp_path / "words"
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "helm").write_text(
        f'#!/bin/sh\necho "$1" >> {words}\nexec {program.path(cluster.cache)} "$@"\n'
    )
    (tools / "helm").chmod(0o755)
    user = replace(user, changes=NOWHERE, tools=tools)
    submit = ("submit", "pretext", "-f")
    assert "submitted digits-pretext" in user.succeed(*submit, user.write()).stdout
    assert "unchanged: digits-pretext" in user.succeed(*submit, user.write()).stdout
    other = user.write({"seed": 1})
    user.type(*submit, other).expect(73)
    assert "replaced digits-pretext" in user.succeed(*submit, other, "--replace").stdout
    assert helm(user, "list", "--short").split() == ["digits-pretext"]
    user.succeed("delete", RUN)
    assert helm(user, "list", "--short") == ""
    left = user.namespace.kubectl(
        "get", "all,configmaps,roles", f"--selector=clusterfit.dev/run={RUN}"
    )
    assert left == ""
    typed = words.read_text().split()
    assert [typed.count(word) for word in ("install", "uninstall")] == [2, 2]


def test_claim_that_submit_advises_outlives_its_release(cluster: Cluster, user: Product) -> None:
    user = replace(user, changes={**NOWHERE, "platform.storage": {"claim": "shared"}})
    refused = user.type("submit", "pretext", "-f", user.write()).expect(69)
    advised = re.search(r"`helm (install [^`]+)`", refused.stderr)
    assert advised, refused.stderr
    helm(user, *shlex.split(advised[1]))
    namespace = user.namespace
    made = namespace.wait_for_object("pvc", "shared", lambda item: phase(item) == "Bound")
    assert made["spec"]["accessModes"] == ["ReadWriteMany"]
    user.submit("pretext")

    note = user.folder / "note.txt"
    note.write_text("a month of work\n")
    user.put(note, "storage:note.txt")
    said = helm(user, "uninstall", "storage")
    assert "kept due to the resource policy" in said
    assert helm(user, "list", "--short").split() == ["digits-pretext"]
    kept = namespace.kubectl.get("pvc", "shared")
    assert kept["metadata"]["uid"] == made["metadata"]["uid"]
    assert "deletionTimestamp" not in kept["metadata"]
    assert phase(kept) == "Bound"
    assert namespace.read("note.txt", "shared") == "a month of work\n"
