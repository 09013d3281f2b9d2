"""What is looked at before anything is created, and what stands in the way of a submission."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from clusterfit.config.tree import RunFile
from clusterfit.errors import ConfigError
from clusterfit.launch.access import Access
from clusterfit.launch.api import (
    ACCOUNTS,
    CLAIMS,
    CONFIG_MAPS,
    JOBS,
    LOCAL_QUEUES,
    NAMESPACES,
    NEWER_LOCAL_QUEUES,
    PYTORCHJOBS,
    Api,
)
from clusterfit.launch.charts import STORAGE_CHART, find_chart
from clusterfit.launch.control import cancel_run
from clusterfit.launch.dry_run import dry_run
from clusterfit.launch.failures import (
    AlreadyExistsError,
    ClusterError,
    NotFoundError,
    NotPermittedError,
    RefusedError,
)
from clusterfit.launch.helm import HelmError, HelmLibrary, Values, read_error
from clusterfit.launch.plan import find_releases
from clusterfit.launch.prerequisites import check_cluster
from clusterfit.launch.render import Rendered, render_run
from clusterfit.launch.submit import Outcome, check_admission, decide, submit

from .object_server import Objects, serve_objects

ACCESS = Access("team")


def render(**changes: Any) -> Rendered:
    values = {"formatVersion": 1, "name": "digits", **changes}
    return render_run(HelmLibrary(), RunFile.model_validate_json(json.dumps(values)), "team")


class Helm(HelmLibrary):
    """Renders as Helm does, and keeps releases here; `fails` says how an install ends."""

    def __init__(self, **releases: str) -> None:
        self.releases = {name.replace("_", "-"): status for name, status in releases.items()}
        self.fails: HelmError | None = None
        self.left = ""
        self.log: list[str] = []

    def install(self, chart: Path, release: str, access: Access, values: Values) -> None:
        assert (chart.name, access, values["name"]) == ("clusterfit", ACCESS, "digits")
        self.log.append(f"install {release}")
        if self.left:
            self.releases[release] = self.left
        if self.fails:
            raise self.fails
        self.releases[release] = "deployed"

    def uninstall(self, release: str, access: Access) -> bool:
        assert access == ACCESS
        self.log.append(f"uninstall {release}")
        return self.releases.pop(release, "") != ""

    def find_status(self, release: str, access: Access) -> str:
        assert access == ACCESS
        return self.releases.get(release, "")


def named(name: str) -> Any:
    return {"metadata": {"name": name}}


@pytest.fixture
def server() -> Iterator[tuple[Api, Objects]]:
    with serve_objects() as (api, objects):
        objects.put(NAMESPACES, named("team"))
        objects.put(CLAIMS, named("clusterfit"))
        yield api, objects


def test_a_cluster_that_has_everything_passes(server: tuple[Api, Objects]) -> None:
    check_cluster(server[0], ACCESS, render())


def test_a_missing_namespace_is_named() -> None:
    with serve_objects() as (api, _), pytest.raises(NotFoundError, match="namespace team: not"):
        check_cluster(api, ACCESS, render())


def test_a_missing_operator_is_named(server: tuple[Api, Objects]) -> None:
    api, objects = server
    objects.kinds.remove("pytorchjobs")
    with pytest.raises(ClusterError, match=r"pytorchjobs\.kubeflow\.org"):
        check_cluster(api, ACCESS, render())


def test_an_operator_that_is_too_old_is_told_by_the_fields_that_it_lacks(
    server: tuple[Api, Objects],
) -> None:
    api, objects = server
    unknown = 'unknown field "spec.nprocPerNode", unknown field "spec.runPolicy.suspend"'
    said = f"PyTorchJob cannot be handled as a PyTorchJob: strict decoding error: {unknown}"
    objects.judge = lambda manifest: (400, said) if manifest["kind"] == "PyTorchJob" else None
    wanted = r"has no spec\.nprocPerNode, spec\.runPolicy\.suspend: .* too old; .* v1\.8 or v1\.9"
    with pytest.raises(ClusterError, match=wanted) as failure:
        check_cluster(api, ACCESS, render(platform={"storage": {"claim": "none"}}))
    assert len(failure.value.faults) == 2, "the claim is named too"
    objects.judge = lambda _: (403, 'pytorchjobs "x" is forbidden: exceeded quota: jobs')
    check_cluster(api, ACCESS, render())


@pytest.mark.parametrize(("access", "options"), [
    (Access("team"), "--namespace=team"),
    (
        Access("team", "there", "my clusters/config"),
        "--namespace=team --kube-context=there '--kubeconfig=my clusters/config'",
    ),
])  # fmt: skip
def test_missing_claims_are_named_with_the_command_that_makes_them(
    server: tuple[Api, Objects], access: Access, options: str
) -> None:
    platform = {"storage": {"claim": "shared"}, "data": {"claim": "images"}}
    with pytest.raises(ClusterError) as failure:
        check_cluster(server[0], access, render(platform=platform))
    chart = find_chart(STORAGE_CHART)
    assert chart.is_absolute()
    assert failure.value.faults == tuple(
        f"claim {claim}: not found in namespace team; make it (`helm install {use} {chart} --set "
        f"claim={claim} {options}`), or set platform.{use}.claim"
        for claim, use in (("images", "data"), ("shared", "storage"))
    )


def test_who_may_not_create_roles_learns_the_ways_out(server: tuple[Api, Objects]) -> None:
    api, objects = server
    objects.may_create_roles = False
    with pytest.raises(ClusterError, match=r"sequencing\.serviceAccount.*mode: client"):
        check_cluster(api, ACCESS, render())
    objects.put(ACCOUNTS, named("runner"))
    for sequencing in ({"serviceAccount": "runner"}, {"mode": "client"}):
        check_cluster(api, ACCESS, render(platform={"sequencing": sequencing}))


def test_an_account_that_is_not_there_is_named(server: tuple[Api, Objects]) -> None:
    """The supervisor's pod would never be made, and nothing would follow the first stage."""
    api, _ = server
    wanted = (
        r"^platform\.sequencing\.serviceAccount: no service account runer in namespace team; an "
        r"administrator makes it, with the rights to get and patch jobs and pytorchjobs and to get"
    )
    with pytest.raises(ClusterError, match=wanted):
        check_cluster(api, ACCESS, render(platform={"sequencing": {"serviceAccount": "runer"}}))


def test_a_queue_that_does_not_exist(server: tuple[Api, Objects]) -> None:
    api, objects = server
    queue = {"queue": {"gang": "kueue", "name": "gpu"}}
    with pytest.raises(ClusterError, match="is Kueue installed"):
        check_cluster(api, ACCESS, render(platform=queue))
    objects.kinds.add("localqueues")
    objects.put(LOCAL_QUEUES, named("other"))
    with pytest.raises(ClusterError, match="no LocalQueue gpu in namespace team; there are other"):
        check_cluster(api, ACCESS, render(platform=queue))
    objects.put(LOCAL_QUEUES, named("gpu"))
    check_cluster(api, ACCESS, render(platform=queue))


@pytest.mark.parametrize("gang", ["none", "volcano", "coscheduling"])
def test_a_default_queue_must_be_named(server: tuple[Api, Objects], gang: str) -> None:
    api, objects = server
    objects.kinds.add("localqueues")
    objects.put(LOCAL_QUEUES, named("default"))
    with pytest.raises(ClusterError, match=r"LocalQueue `default`.*gang: kueue, name: default"):
        check_cluster(api, ACCESS, render(platform={"queue": {"gang": gang}}))
    check_cluster(api, ACCESS, render(platform={"queue": {"gang": "kueue", "name": "default"}}))


def test_a_default_queue_of_a_newer_kueue_is_seen(
    server: tuple[Api, Objects], monkeypatch: pytest.MonkeyPatch
) -> None:
    """0.20 and later do not serve v1beta1 any more, and put into it what names no queue."""
    api, objects = server
    objects.kinds.add("localqueues")

    def answer(method: str, path: str, query: Mapping[str, str], body: Any) -> tuple[int, Any]:
        if "kueue.x-k8s.io/v1beta1" in path:
            return 404, b"404 page not found"
        return Objects.answer(objects, method, path, query, body)

    monkeypatch.setattr(objects, "answer", answer)
    check_cluster(api, ACCESS, render())
    objects.put(NEWER_LOCAL_QUEUES, named("default"))
    with pytest.raises(ClusterError, match=r"LocalQueue `default` of a Kueue that is too new"):
        check_cluster(api, ACCESS, render())


def set_condition(objects: Objects, condition: str) -> None:
    job = objects.get(PYTORCHJOBS, "digits-extract")
    job["status"] = {"conditions": [{"type": condition, "status": "True"}]}


@pytest.mark.parametrize("condition", ["Running", "Succeeded"])
@pytest.mark.parametrize("replace", [False, True])
def test_the_same_again_is_a_no_op(
    server: tuple[Api, Objects], condition: str, replace: bool
) -> None:
    api, objects = server
    rendered = render()
    objects.install(rendered.manifests)
    set_condition(objects, condition)
    assert submit(HelmLibrary(), api, ACCESS, rendered, replace).outcome is Outcome.UNCHANGED


def test_an_install_that_goes_on_is_left_to_it(server: tuple[Api, Objects]) -> None:
    api, objects = server
    rendered = render()
    objects.install(rendered.manifests, created=datetime.now(UTC).isoformat())
    objects.remove(PYTORCHJOBS, "digits-extract")  # Helm makes it last
    assert submit(HelmLibrary(), api, ACCESS, rendered, replace=True).outcome is Outcome.UNCHANGED


def test_what_is_gone_is_made_again_where_that_is_asked_for(server: tuple[Api, Objects]) -> None:
    """Whether removed after its success or by hand: what is finished ends at once."""
    api, objects = server
    rendered = render(platform={"ttlSecondsAfterFinished": 60})
    objects.install(rendered.manifests)
    objects.remove(PYTORCHJOBS, "digits-extract")
    assert submit(HelmLibrary(), api, ACCESS, rendered).outcome is Outcome.STUCK
    objects.remove(JOBS, "digits-cluster")
    assert submit(HelmLibrary(), api, ACCESS, rendered).outcome is Outcome.STUCK
    assert decide(Helm(), api, ACCESS, rendered, replace=True).outcome is Outcome.REPLACED


def test_that_nothing_came_in_its_place_is_said(
    server: tuple[Api, Objects], monkeypatch: pytest.MonkeyPatch
) -> None:
    api, objects = server
    objects.install(render().manifests)
    said: list[str] = []

    def hang(*arguments: Any) -> None:
        arguments[-1]("waiting for 2 pods")
        raise ClusterError("release digits-step1: removed, but pods are still ending")

    monkeypatch.setattr("clusterfit.launch.submit.delete_release", hang)
    monkeypatch.setattr("clusterfit.launch.submit.check_cluster", lambda *_: None)
    with pytest.raises(ClusterError, match=r"still ending; nothing was installed in its place$"):
        submit(Helm(), api, ACCESS, render(seed=1), True, said.append)
    assert said == ["waiting for 2 pods"]


@pytest.mark.parametrize("why", ["failed", "cancelled", "half installed"])
def test_the_same_is_replaced_where_it_is_stuck(
    server: tuple[Api, Objects], monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    api, objects = server
    rendered = render()
    objects.install(rendered.manifests)
    if why == "failed":
        set_condition(objects, "Failed")
    elif why == "cancelled":
        cancel_run(api, find_releases(api, "digits"), "ann")
    else:
        objects.remove(PYTORCHJOBS, "digits-extract")
    done: list[str] = []
    monkeypatch.setattr(
        "clusterfit.launch.submit.delete_release", lambda *_: done.append("deleted")
    )
    helm = Helm()
    assert submit(helm, api, ACCESS, rendered).outcome is Outcome.STUCK
    assert (done, helm.log) == ([], [])
    assert submit(helm, api, ACCESS, rendered, replace=True).outcome is Outcome.REPLACED
    assert (done, helm.log) == (["deleted"], ["install digits-step1"])


@pytest.mark.parametrize(
    ("kind", "fault", "is_removed"),
    [
        ("Job", "policy: no Jobs on Fridays", False),
        ("RoleBinding", "may not bind", False),
        ("PyTorchJob", "exceeded quota: gpus, requested: 8", True),
    ],
)
def test_what_would_be_refused_does_not_cost_what_is_there(
    server: tuple[Api, Objects],
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    fault: str,
    is_removed: bool,
) -> None:
    api, objects = server
    objects.install(render(seed=1).manifests)
    objects.judge = lambda item: (
        (403, fault) if item["kind"] == kind and item["metadata"]["name"] != "try" else None
    )
    there = dict(objects.by_path)
    for path in [path for path in there if f"/{kind.lower()}s/" in path]:
        del objects.by_path[path]  # else its name would be what is refused
    done: list[str] = []
    monkeypatch.setattr(
        "clusterfit.launch.submit.delete_release", lambda *_: done.append("deleted")
    )
    monkeypatch.setattr("clusterfit.launch.submit.check_cluster", lambda *_: None)
    helm = Helm()
    if is_removed:
        assert submit(helm, api, ACCESS, render(), replace=True).outcome is Outcome.REPLACED
        assert done == ["deleted"]
        return
    with pytest.raises(ClusterError, match=rf"{fault}.*; nothing was removed$"):
        submit(helm, api, ACCESS, render(), replace=True)
    assert (done, helm.log) == ([], [])


def test_a_binding_whose_role_comes_with_it_is_no_refusal(
    server: tuple[Api, Objects], monkeypatch: pytest.MonkeyPatch
) -> None:
    """So the server answers who may not grant all rights, as long as the Role is not there."""
    api, objects = server
    objects.judge = lambda item: (
        (404, 'roles.rbac.authorization.k8s.io "x" not found')
        if item["kind"] == "RoleBinding"
        else None
    )
    check_admission(api, render())
    verdicts = list(dry_run(Helm(), api, ACCESS, render()))
    assert {verdict.fault for verdict in verdicts if verdict.kind == "RoleBinding"} == {""}
    objects.judge = lambda item: (404, "no such thing") if item["kind"] == "Role" else None
    with pytest.raises(NotFoundError, match="no such thing; nothing was removed"):
        check_admission(api, render())


def test_other_content_under_any_release_name_is_refused(server: tuple[Api, Objects]) -> None:
    api, objects = server
    there = render(seed=1).config_map
    there["metadata"]["name"] = "installed-by-plain-helm-config"
    objects.put(CONFIG_MAPS, there)
    with pytest.raises(AlreadyExistsError, match="with other content; --replace removes it"):
        submit(HelmLibrary(), api, ACCESS, render(stages=["extract"]))


def test_other_stages_under_the_same_name_are_in_the_way(server: tuple[Api, Objects]) -> None:
    api, objects = server
    objects.put(CONFIG_MAPS, render(stages=["pretext", "extract"]).config_map)
    with pytest.raises(AlreadyExistsError, match=r"digits-pipeline \(pretext, extract\) is there"):
        submit(Helm(), api, ACCESS, render(stages=["cluster", "train"]))


@pytest.mark.parametrize("replace", [False, True])
def test_a_release_of_somebody_else_is_left_alone(
    server: tuple[Api, Objects], replace: bool
) -> None:
    helm = Helm(digits_step1="deployed")
    wanted = r"exists \(deployed\), .*: helm uninstall digits-step1 --namespace=team$"
    with pytest.raises(AlreadyExistsError, match=wanted):
        submit(helm, server[0], ACCESS, render(), replace)
    assert helm.log == []


@pytest.mark.parametrize("said", [
    'INSTALLATION FAILED: cannot re-use a name that is still in use',
    'INSTALLATION FAILED: release: already exists',
])  # fmt: skip
def test_who_was_faster_by_a_moment_is_left_alone(server: tuple[Api, Objects], said: str) -> None:
    helm = Helm()
    helm.fails, helm.left = read_error(said), "deployed"
    with pytest.raises(AlreadyExistsError, match="somebody else has just installed it"):
        submit(helm, server[0], ACCESS, render())
    assert helm.log == ["install digits-step1"]


@pytest.mark.parametrize(
    ("left", "is_removed"), [("failed", True), ("pending-install", True), ("deployed", False)]
)
def test_only_what_this_install_left_is_removed(
    server: tuple[Api, Objects], left: str, is_removed: bool
) -> None:
    helm = Helm()
    helm.fails, helm.left = read_error("Error: connection refused"), left
    with pytest.raises(ClusterError, match="digits-step1: not installed: connection refused"):
        submit(helm, server[0], ACCESS, render())
    assert ("uninstall digits-step1" in helm.log) is is_removed


def test_what_cannot_be_looked_at_after_a_failed_install_is_named(
    server: tuple[Api, Objects], monkeypatch: pytest.MonkeyPatch
) -> None:
    def find_status(release: str, access: Access) -> str:
        if "install digits-step1" in helm.log:
            raise HelmError("Kubernetes cluster unreachable")
        return ""

    helm = Helm()
    helm.fails = read_error("Error: connection refused")
    monkeypatch.setattr(helm, "find_status", find_status)
    with pytest.raises(ClusterError, match=r"left behind, .* of release digits-step1"):
        submit(helm, server[0], ACCESS, render())


def test_what_cannot_be_removed_after_a_failed_install_is_named(
    server: tuple[Api, Objects], monkeypatch: pytest.MonkeyPatch
) -> None:
    def install(chart: Path, release: str, access: Access, values: Values) -> None:
        objects.install(render().manifests)
        helm.releases[release] = "failed"
        raise read_error("Error: INSTALLATION FAILED: connection refused")

    def uninstall(release: str, access: Access) -> bool:
        raise read_error("Error: uninstallation completed with 1 error(s): forbidden")

    def refuse(method: str, path: str) -> None:
        if method == "DELETE" and "/jobs/" in path:
            objects.trouble.append(403)

    api, objects = server
    objects.look_on = refuse
    helm = Helm()
    monkeypatch.setattr(helm, "install", install)
    monkeypatch.setattr(helm, "uninstall", uninstall)
    with pytest.raises(ClusterError) as failure:
        submit(helm, api, ACCESS, render())
    assert failure.value.faults == (
        "release digits-step1: not installed: connection refused",
        "left behind, could not be removed: Helm's record of digits-step1, "
        "jobs.batch digits-step1-supervisor, jobs.batch digits-cluster",
    )


@pytest.mark.parametrize(("said", "error", "wanted"), [
    (
        'jobs.batch is forbidden: User "ann" cannot create resource "jobs" in API group "batch" in '
        'the namespace "team"',
        NotPermittedError,
        "no permission: ann may not create jobs.batch in namespace team; ask an administrator",
    ),
    (
        'pytorchjobs.kubeflow.org "x" is forbidden: exceeded quota: jobs, limited: count=1',
        RefusedError,
        "release digits-step1: not installed: exceeded quota: jobs, limited: count=1",
    ),
])  # fmt: skip
def test_what_helm_says_of_a_refusal_is_explained(
    server: tuple[Api, Objects], said: str, error: type[ClusterError], wanted: str
) -> None:
    helm = Helm()
    helm.fails = read_error(f"Error: INSTALLATION FAILED: 1 error occurred:\n\t* {said}\n\n")
    with pytest.raises(error, match=f"^{wanted}"):
        submit(helm, server[0], ACCESS, render())


def test_an_unknown_run_is_said_beside_those_that_exist(server: tuple[Api, Objects]) -> None:
    api, objects = server
    objects.put(CONFIG_MAPS, render().config_map)
    assert [item.plan.release for item in find_releases(api, "digits")] == ["digits-step1"]
    with pytest.raises(NotFoundError, match=r"run digit: not found in namespace team; .* digits"):
        find_releases(api, "digit")


@pytest.mark.parametrize("name", ["", "my run", "digits,other", "Digits", "d" * 41])
def test_a_name_that_no_run_has_never_means_another_one(
    server: tuple[Api, Objects], name: str
) -> None:
    api, objects = server
    objects.put(CONFIG_MAPS, render().config_map)
    with pytest.raises(ConfigError, match=r"RUN: got .*, want a run's name: 1 to 40 lower-case"):
        find_releases(api, name)
