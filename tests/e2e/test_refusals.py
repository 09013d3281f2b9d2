"""What the cluster refuses is said in one line with the cure, and nothing is left behind."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from tests.cluster.addons import apply_training_operator, wait_for_training_operator
from tests.cluster.cluster import Cluster
from tests.cluster.commands import CommandError, wait_for
from tests.cluster.manifests import Object, claim, pytorchjob
from tests.cluster.namespace import STORAGE_CLAIM
from tests.e2e.digits import RUN
from tests.e2e.helm import RUN_CHART, helm
from tests.e2e.people import become, log_in, make_supervisor_account, read_rights, read_team_rules
from tests.e2e.product import Product
from tests.e2e.typed import Answer

NOWHERE = {"platform.nodeSelector": {"nowhere": "true"}}
CRD = "pytorchjobs.kubeflow.org"


def refused(answer: Answer, code: int) -> str:
    """Return the one line of a command that was refused."""
    answer.expect(code)
    (line,) = answer.stderr.splitlines()
    return line


def what_is_there(user: Product) -> str:
    """Name all that a submission could have left: its objects, and Helm's record of it."""
    kinds = "pytorchjobs,jobs,pods,configmaps,serviceaccounts,roles,rolebindings"
    ours = user.namespace.kubectl("get", kinds, "--selector=clusterfit.dev/run", "--output=name")
    return ours + user.namespace.kubectl("get", "secrets", "--output=name")


def submit(user: Product, changes: dict[str, Any] | None = None, *options: str) -> Answer:
    return user.type("submit", "step1", "-f", user.write({**NOWHERE, **(changes or {})}), *options)


def wait_for_cause(user: Product, word: str) -> dict[str, Any]:
    """Wait until status names a cause for the first stage; return what it says of the stage."""
    _, stages = wait_for(
        f"status says {word!r}",
        user.status,
        lambda status: word in status[1]["extract"].get("cause", ""),
    )
    return stages["extract"]


def test_no_permission_names_the_verb_and_on_what(user: Product) -> None:
    nobody = become(user, "nobody", [])
    where = f"in namespace {user.namespace.name}; ask an administrator for that verb"
    who = f"system:serviceaccount:{user.namespace.name}:nobody"
    for words in (["list"], ["status", RUN], ["delete", RUN]):
        assert refused(nobody.type(*words), 77) == (
            f"error: no permission: {who} may not list configmaps {where}"
        )
    reader = become(
        user, "reader", [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["list"]}]
    )
    assert "may not list secrets in" in refused(submit(reader), 77)
    assert what_is_there(user) == ""


def test_rights_of_the_offered_role_are_enough(user: Product) -> None:
    member = become(user, "member", read_team_rules())
    everything = {**NOWHERE, "platform.networkPolicy": True}
    run_file = member.write(everything)
    tried = member.succeed("submit", "step1", "-f", run_file, "--dry-run=server").stdout
    assert "RoleBinding" in tried
    assert "NetworkPolicy" in tried
    assert what_is_there(user) == "", "a dry run makes nothing"
    assert member.submit("step1", everything).stdout.startswith("submitted")
    records = ("secrets", "--selector=owner=helm,status=deployed", "--output=name")
    assert "digits-step1" in user.namespace.kubectl("get", *records)
    member.wait_for_pods("extract", lambda pods: len(pods) == 2)
    assert wait_for_cause(member, "no node fits")["phase"] == "starting"
    member.succeed("list")
    member.succeed("suspend", RUN)
    member.wait_for_pods("extract", lambda pods: not pods)
    _, stages = member.status()
    assert stages["extract"]["phase"] == "suspended"
    member.succeed("resume", RUN)
    member.wait_for_pods("extract", lambda pods: len(pods) == 2)
    assert "has not started" in member.succeed("logs", RUN).stderr
    # A release of another name brings a Role of another name.
    member.succeed("submit", "extract", "-f", run_file, "--replace")
    member.wait_for_pods("extract", lambda pods: len(pods) == 2)
    member.succeed("cancel", RUN)
    (member.folder / "file").write_text("content")
    member.put(member.folder / "file", "storage:some/file")
    member.succeed("get", "storage:some", member.folder / "back", "-f", member.write())
    assert (member.folder / "back" / "file").read_text() == "content"
    member.succeed("delete", RUN)
    assert what_is_there(user) == ""


@pytest.mark.parametrize(("group", "kind"), [("kubeflow.org", "pytorchjobs"), ("batch", "jobs")])
def test_user_who_may_not_create_a_kind_of_job(user: Product, group: str, kind: str) -> None:
    rules = read_team_rules()
    for rule in rules:
        if rule["apiGroups"] == [group]:
            rule["verbs"].remove("create")
    # Jobs come after all that has no pods: by then a part of the release exists.
    said = refused(submit(become(user, "member", rules)), 77)
    assert f"may not create {kind}.{group} in namespace {user.namespace.name}" in said
    assert what_is_there(user) == ""


def test_user_who_may_not_create_roles(user: Product) -> None:
    rules = [
        rule for rule in read_team_rules() if rule["apiGroups"] != ["rbac.authorization.k8s.io"]
    ]
    member = become(user, "member", rules)
    said = refused(submit(member), 69)
    assert "no permission to create roles" in said
    assert "platform.sequencing.mode: client" in said
    assert what_is_there(user) == ""
    member.submit("step1", {**NOWHERE, "platform.sequencing": {"mode": "client"}})
    member.wait_for_pods("extract", lambda pods: len(pods) == 2)
    assert member.pods("", role="supervisor") == []
    _, stages = member.status()
    assert "nothing in the cluster starts it" in stages["cluster"]["cause"]
    member.succeed("delete", RUN)
    # Or an administrator makes an account, once.
    account = make_supervisor_account(user)
    member.submit("step1", {**NOWHERE, "platform.sequencing": {"serviceAccount": account}})
    (supervisor,) = member.wait_for_pods(
        "",
        lambda pods: [pod["status"]["phase"] for pod in pods] == ["Running"],
        role="supervisor",
    )
    assert supervisor["spec"]["serviceAccountName"] == account
    assert read_rights(log_in(user, account), user.namespace.name) == {
        *(("pytorchjobs", "", verb) for verb in ("get", "patch")),
        *(("jobs", "", verb) for verb in ("get", "patch")),
        ("pods", "", "get"),
    }
    wait_for(
        "the supervisor has looked",
        lambda: member.log(supervisor["metadata"]["name"]),
        lambda said: "phase=held" in said,
    )


def test_namespace_that_is_not_there(user: Product) -> None:
    lost = replace(user, namespace=replace(user.namespace, name="nowhere"))
    said = refused(submit(lost), 3)
    wanted = "error: namespace nowhere: not found; create it, or name another with -n"
    assert said == wanted
    for words in (("list",), ("status", RUN), ("logs", RUN), ("wait", RUN), ("delete", RUN)):
        assert refused(lost.type(*words), 3) == wanted


def test_claim_that_is_not_there(user: Product) -> None:
    missing = {"platform.storage": {"claim": "other"}}
    tried = submit(user, missing, "--dry-run=server").expect(1)
    (release,) = (line for line in tried.stdout.splitlines() if line.startswith("Release "))
    assert "refused: claim other: not found in namespace" in release
    said = refused(submit(user, missing), 69)
    assert f"claim other: not found in namespace {user.namespace.name}; make it (`helm" in said
    assert what_is_there(user) == ""


def test_claim_that_nobody_provides(user: Product) -> None:
    user.namespace.kubectl.create(claim("other", storage_class="none-such"))
    user.submit("step1", {"platform.storage": {"claim": "other"}})
    stage = wait_for_cause(user, "a claim is not ready")
    assert "kubectl describe pvc" in stage["advice"]


def test_exceeded_quota(user: Product) -> None:
    spec = {"hard": {"requests.memory": "3Gi"}}
    quota: Object = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "small"}}
    user.namespace.kubectl.create({**quota, "spec": spec})
    wait_for(
        "the quota is counted",
        lambda: user.namespace.kubectl.get("resourcequota", "small").get("status", {}),
        lambda status: bool(status.get("hard")),
    )
    tried = submit(user, {}, "--dry-run=server").expect(1)
    assert f"error: refused: PyTorchJob {RUN}-extract; nothing was created\n" in tried.stderr
    rows = [line.split(maxsplit=2) for line in tried.stdout.splitlines()[1:]]
    (fault,) = (verdict for _, name, verdict in rows if name == f"{RUN}-extract")
    assert fault.startswith("refused: its pods together: exceeded quota: small, requested: ")
    assert "requests.memory=4224Mi" in fault, "two pods of 2 GiB, and the supervisor beside them"
    objects = user.succeed("render", "step1", "-f", user.write(NOWHERE), "--output=table").stdout
    assert [row[:2] for row in rows] == [
        ["Release", f"{RUN}-step1"],
        *(line.split() for line in objects.splitlines()[1:]),
    ]
    user.submit("step1", NOWHERE)
    stage = wait_for_cause(user, "exceeded quota: small")
    assert "requests.memory=2Gi" in stage["cause"]
    assert "limited: requests.memory=3Gi" in stage["cause"]
    assert "ask for less" in stage["advice"]


def test_pod_security(user: Product) -> None:
    scratch = {"name": "scratch", "mountPath": "/scratch", "source": {"hostPath": {"path": "/"}}}
    changes = {**NOWHERE, "platform.extraVolumes": [scratch]}
    tried = submit(user, changes, "--dry-run=server").expect(1)
    assert 'Pod Security refuses it: PodSecurity "restricted' in tried.stdout
    jobs = f"PyTorchJob {RUN}-extract, Job {RUN}-cluster"
    assert f"error: refused: {jobs}; nothing was created\n" in tried.stderr
    assert what_is_there(user) == ""
    submitted = submit(user, changes).expect(0)
    assert "note: a namespace that enforces `restricted` would refuse the pods: " in (
        submitted.stderr
    )
    stage = wait_for_cause(user, "Pod Security refuses its pods")
    assert "platform.extraVolumes" in stage["advice"]


def test_same_submission_again_does_nothing_and_another_one_is_refused(user: Product) -> None:
    user.submit("step1", NOWHERE)
    user.wait_for_pods("extract", lambda pods: len(pods) == 2)
    before = user.job("extract")
    again = submit(user).expect(0)
    assert again.stdout.startswith(f"unchanged: {RUN}-step1 is there already")
    said = refused(submit(user, {"cluster.numClusters": 11}), 73)
    assert f"release {RUN}-step1 (extract, cluster) is there with other content" in said
    assert "--replace removes it first (results stay)" in said
    now = user.job("extract")
    assert before is not None
    assert now is not None
    assert now["metadata"]["uid"] == before["metadata"]["uid"]
    assert now["metadata"]["generation"] == before["metadata"]["generation"]


@pytest.mark.parametrize("option", [[], ["--replace"]])
def test_release_of_that_name_which_is_somebody_elses_survives(
    user: Product, option: list[str]
) -> None:
    run_file = user.write({**NOWHERE, "name": "other"})
    helm(user, "install", f"{RUN}-step1", RUN_CHART, "-f", run_file)
    before = user.namespace.kubectl.get("pytorchjobs", "other-extract")
    said = refused(submit(user, {}, *option), 73)
    assert f"release {RUN}-step1 exists (deployed), but not as a submission of run {RUN}" in said
    after = user.namespace.kubectl.get("pytorchjobs", "other-extract")
    assert after["metadata"]["uid"] == before["metadata"]["uid"]
    assert "deletionTimestamp" not in after["metadata"]
    there = what_is_there(user)
    assert f"secret/sh.helm.release.v1.{RUN}-step1.v1\n" in there
    assert f"{RUN}-extract" not in there


def test_same_submission_by_two_people_at_once(user: Product) -> None:
    words = ("submit", "step1", "-f", user.write(NOWHERE))
    with user.begin(*words) as one, user.begin(*words) as other:
        answers = [typed.wait(180) for typed in (one, other)]
    assert sorted(answer.code for answer in answers) in ([0, 0], [0, 73]), str(answers)
    assert any(f"submitted {RUN}-step1" in answer.stdout for answer in answers)
    user.wait_for_pods("extract", lambda pods: len(pods) == 2)
    assert f"unchanged: {RUN}-step1" in submit(user).expect(0).stdout


def test_helm_upgrade_is_refused(user: Product) -> None:
    user.submit("step1", NOWHERE)
    with pytest.raises(CommandError) as refusal:
        helm(user, "upgrade", f"{RUN}-step1", RUN_CHART, "-f", user.write(NOWHERE))
    assert "a submitted run is never changed" in refusal.value.output
    command = f"helm uninstall {RUN}-step1 -n {user.namespace.name}"
    assert f"`{command}` first" in refusal.value.output


def test_cluster_without_the_operator(user: Product, cluster: Cluster) -> None:
    cluster.kubectl("delete", "crd", CRD)
    try:
        said = refused(submit(user), 69)
        assert "the cluster has no PyTorchJob of kubeflow.org/v1; an administrator must" in said
    finally:
        apply_training_operator(cluster.cache, cluster.kubectl)
        scope = "--namespace=kubeflow"  # its caches are of the kind that is gone
        cluster.kubectl(scope, "rollout", "restart", "deployment/training-operator")
        wait_for_training_operator(cluster.kubectl)
    assert what_is_there(user) == ""


def test_cluster_whose_operator_is_too_old(user: Product, cluster: Cluster) -> None:
    path = "spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/runPolicy"
    path += "/properties/suspend"
    value: Any = cluster.kubectl.get("crd", CRD)
    for key in path.split("/"):
        value = value[int(key) if key.isdigit() else key]
    probe = json.dumps(pytorchjob("probe", user.image, ["true"]))

    def change(operation: str) -> None:
        patch = [{"op": operation, "path": f"/{path}", "value": value}]
        cluster.kubectl("patch", "crd", CRD, "--type=json", f"--patch={json.dumps(patch)}")

    def knows_suspend() -> bool:
        try:
            options = ("--dry-run=server", "--validate=strict", "--filename=-")
            user.namespace.kubectl("create", *options, stdin=probe)
        except CommandError as error:
            return "spec.runPolicy.suspend" not in error.output
        return True

    change("remove")
    try:
        wait_for("it is too old", knows_suspend, lambda known: not known)
        said = refused(submit(user), 69)
        assert (
            "the cluster's PyTorchJob has no spec.runPolicy.suspend: its operator is too old"
            in said
        )
    finally:
        change("add")
        wait_for("it is as before", knows_suspend, bool)
    assert what_is_there(user) == ""


@pytest.mark.usefixtures("cluster")  # elsewhere there may be Kueue
def test_queue_where_there_is_no_kueue(user: Product) -> None:
    said = refused(submit(user, {"platform.queue": {"gang": "kueue", "name": "team"}}), 69)
    assert "the cluster serves no LocalQueue" in said
    assert "is Kueue installed?" in said
    assert what_is_there(user) == ""


def test_claims_are_kept_whatever_is_removed(user: Product) -> None:
    user.submit("step1", NOWHERE)
    user.succeed("delete", RUN)
    found = user.namespace.kubectl.get("pvc", STORAGE_CLAIM)
    assert found["status"]["phase"] == "Bound"
    assert json.dumps(found["metadata"]).count("deletionTimestamp") == 0
