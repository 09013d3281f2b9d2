"""What the rendered objects promise, whatever Helm prints."""

from __future__ import annotations

import copy
import json
import shutil
import subprocess
import sys
from pathlib import Path

import helm_python
import pytest

from clusterfit.errors import PERMANENT_EXIT_CODES, TERMINATED_EXIT_CODE
from clusterfit.launch.charts import RUN_CHART, STORAGE_CHART, find_chart
from clusterfit.launch.helm import Helm, HelmLibrary, HelmProgram, Values
from clusterfit.launch.invariants import check_manifests, find_restrictions
from clusterfit.launch.manifests import Manifest, read_manifests, write_manifests
from clusterfit.launch.pod_security import find_violations
from clusterfit.launch.render import render_run
from clusterfit.worker.entry.agent import GRACE_SECONDS

from .changes import look_up
from .rendering import Render, deep_merge, find, load, read_plan

ROOT = Path(__file__).parents[2]


def test_manifests_for_kubectl_are_what_the_chart_renders() -> None:
    script = ROOT / "scripts" / "write_manifests.py"
    done = subprocess.run(
        [sys.executable, script, "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_example_passes_all_rules_and_restricted_pod_security() -> None:
    for path in sorted((ROOT / "k8s" / "manifests").glob("*.yaml")):
        manifests = read_manifests(path.read_text())
        assert check_manifests(manifests) == []
        assert find_restrictions(manifests) == []


def test_what_is_written_is_read_back(values: Values, helm: Helm) -> None:
    manifests = render_run(helm, load(values), "somewhere").manifests
    assert read_manifests(write_manifests(manifests)) == manifests


def test_helm_on_path_and_the_bundled_one_print_the_same_bytes(values: Values) -> None:
    program = shutil.which("helm")
    if program is None:
        pytest.skip("no helm on PATH; the cluster tests bring Helm 3 and Helm 4")
    run = load(values)
    texts = {
        write_manifests(render_run(helm, run, "somewhere").manifests)
        for helm in (HelmProgram(program), HelmLibrary())
    }
    assert len(texts) == 1


def test_only_the_first_stage_starts_by_itself(values: Values, render: Render) -> None:
    manifests = render(values)
    suspended = {
        item["metadata"]["labels"]["clusterfit.dev/stage"]: item["spec"].get("suspend")
        if item["kind"] == "Job"
        else item["spec"]["runPolicy"]["suspend"]
        for item in manifests
        if "clusterfit.dev/stage" in item["metadata"]["labels"]
    }
    assert suspended == {"pretext": False, "extract": True, "cluster": True, "train": True}


def test_under_kueue_every_stage_is_suspended_and_later_ones_are_held(
    values: Values, render: Render
) -> None:
    queue = {"gang": "kueue", "name": "team"}
    manifests = render(deep_merge(values, {"platform": {"queue": queue, "deadlineSeconds": 90}}))
    stages = [item for item in manifests if "clusterfit.dev/stage" in item["metadata"]["labels"]]
    queues = {}
    for item in stages:
        labels = item["metadata"]["labels"]
        spec = item["spec"]
        assert spec.get("suspend", spec.get("runPolicy", {}).get("suspend")) is True
        assert labels["kueue.x-k8s.io/max-exec-time-seconds"] == "90"
        queues[labels["clusterfit.dev/stage"]] = labels["kueue.x-k8s.io/queue-name"]
    held = "clusterfit-held"
    assert queues == {"pretext": "team", "extract": held, "cluster": held, "train": held}


def test_pods_are_named_as_the_operator_names_them(values: Values, render: Render) -> None:
    plan = read_plan(render(values))
    extract = next(stage for stage in plan["stages"] if stage["stage"] == "extract")
    assert extract["kind"] == "PyTorchJob"
    assert extract["pods"] == ["digits-extract-worker-0", "digits-extract-worker-1"]
    job = find(render(values), "PyTorchJob", "digits-extract")
    container = job["spec"]["pytorchReplicaSpecs"]["Worker"]["template"]["spec"]["containers"][0]
    env = {variable["name"]: variable.get("value") for variable in container["env"]}
    assert env["PET_MASTER_ADDR"] == extract["pods"][0]
    assert container["command"][:5] == ["python", "-P", "-m", "clusterfit.worker", "extract"]


def test_clustering_on_several_nodes_is_a_pytorchjob_like_any_other(
    values: Values, render: Render
) -> None:
    changes = {"platform": {"stages": {"cluster": {"gpus": 16}}}}
    manifests = render(deep_merge(copy.deepcopy(values), changes))
    assert "digits-cluster" not in [m["metadata"]["name"] for m in manifests if m["kind"] == "Job"]
    job = find(manifests, "PyTorchJob", "digits-cluster")
    extract = find(manifests, "PyTorchJob", "digits-extract")
    as_extract = json.loads(json.dumps(job).replace("digits-cluster", "digits-extract"))
    as_extract = json.loads(json.dumps(as_extract).replace('"cluster"', '"extract"'))
    assert as_extract == extract
    assert job["spec"]["pytorchReplicaSpecs"]["Worker"]["replicas"] == 2
    assert job["spec"]["nprocPerNode"] == "8"
    cluster = next(s for s in read_plan(manifests)["stages"] if s["stage"] == "cluster")
    assert cluster["kind"] == "PyTorchJob"
    assert cluster["pods"] == ["digits-cluster-worker-0", "digits-cluster-worker-1"]


def test_clustering_on_one_node_is_a_job_with_a_process_for_each_gpu(
    values: Values, render: Render
) -> None:
    job = find(render(values), "Job", "digits-cluster")
    [container] = job["spec"]["template"]["spec"]["containers"]
    env = {variable["name"]: variable.get("value") for variable in container["env"]}
    assert env["PET_NNODES"] == "1"
    assert env["PET_NPROC_PER_NODE"] == container["resources"]["limits"]["nvidia.com/gpu"] == "8"


def render_selftest(values: Values) -> Manifest:
    """Return the pod of `helm test`: Helm's hooks are not among what it installs."""
    with helm_python.Chart.load(str(find_chart(RUN_CHART))) as chart:
        texts = chart.render(values, name="release", namespace="somewhere")
    (pod,) = read_manifests(texts["clusterfit/templates/tests/selftest.yaml"])
    return pod


def test_platform_never_enters_a_container(values: Values, render: Render) -> None:
    config = find(render(values), "ConfigMap", "release-config")["data"]["config.json"]
    assert json.loads(config) == load(values).algorithm().dump()


def test_the_digest_tells_contents_apart_and_nothing_else(values: Values, render: Render) -> None:
    def digest(changed: Values) -> str:
        manifest = find(render(changed), "ConfigMap", "release-config")
        return str(manifest["metadata"]["annotations"]["clusterfit.dev/content"])

    complete = load(values).dump()
    assert digest(values) == digest(complete), "defaults written out are the same content"
    assert digest(values) != digest({**values, "seed": 1})
    assert digest({**values, "global": {"region": "x"}}) == digest(values)


def test_the_same_run_of_another_namespace_is_another_submission(
    values: Values, helm: Helm
) -> None:
    """On a storage that both reach, one would take the other's stages over while it works."""

    def read_submission(namespace: str, changed: Values) -> str:
        text = helm.render(find_chart(RUN_CHART), "release", namespace, changed)
        job = find(read_manifests(text), "PyTorchJob", "digits-extract")
        return str(look_up(job, "env PET_RDZV_ID value"))

    own = read_submission("team", values)
    assert own.startswith("team/digits-extract-")
    assert own == read_submission("team", load(values).dump())
    assert own != read_submission("other", values)
    assert own != read_submission("team", {**values, "seed": 1})


def test_what_an_item_of_a_list_leaves_out_is_its_default(values: Values, render: Render) -> None:
    """Helm fills in the defaults of mappings alone."""
    scratch = {"name": "scratch", "mountPath": "/scratch", "source": {"emptyDir": {}}}
    platform = {"extraVolumes": [scratch], "extraEnv": [{"name": "EMPTY"}]}
    left_out = deep_merge(values, {"platform": platform})
    mount = {"name": "scratch", "mountPath": "/scratch", "readOnly": True}
    for written in (left_out, load(left_out).dump()):
        job = find(render(written), "PyTorchJob", "digits-extract")
        assert look_up(job, "mounts /scratch") == mount
        assert look_up(job, "env EMPTY") == {"name": "EMPTY", "value": ""}


def test_a_workers_own_volumes_bind_no_pod_that_reads_claims(
    values: Values, render: Render
) -> None:
    """A disk that one node may mount would keep `logs`, `put` and `get` waiting for the stage."""
    volume = {"name": "own", "source": {"persistentVolumeClaim": {"claimName": "one-node"}}}
    platform = {"extraVolumes": [{**volume, "mountPath": "/own"}]}
    changed = deep_merge(values, {"platform": platform})
    manifests, selftest = render(changed), json.dumps(render_selftest(changed))
    files_pod = find(manifests, "ConfigMap", "release-config")["data"]["files-pod.json"]
    pods = {item["metadata"]["name"]: json.dumps(item) for item in manifests}
    assert "one-node" in pods["digits-extract"]
    for pod in (files_pod, selftest, pods["release-supervisor"]):
        assert "one-node" not in pod
        assert '"/own"' not in pod
    assert all('"/storage"' in pod for pod in (files_pod, selftest))


@pytest.mark.parametrize("pod", ["supervisor", "files", "test"])
def test_a_pod_beside_the_stages_is_kept_to_nodes_that_run_the_image(
    pod: str, values: Values, render: Render
) -> None:
    """It needs no GPU: of the stages' labels it has no other."""

    def read_selector(selector: Values) -> Values | None:
        changed = deep_merge(values, {"platform": {"nodeSelector": selector}})
        manifests = render(changed)
        job = find(manifests, "Job", "release-supervisor")
        config_map = find(manifests, "ConfigMap", "release-config")
        specs = {
            "supervisor": job["spec"]["template"]["spec"],
            "files": json.loads(config_map["data"]["files-pod.json"])["spec"],
            "test": render_selftest(changed)["spec"],
        }
        found: Values | None = specs[pod].get("nodeSelector")
        return found

    image = {"kubernetes.io/arch": "amd64", "kubernetes.io/os": "linux"}
    assert read_selector({**image, "gpu": "h100"}) == image
    assert read_selector({"kubernetes.io/arch": "amd64"}) == {"kubernetes.io/arch": "amd64"}
    assert read_selector({"gpu": "h100"}) is None


def test_an_administrators_account_needs_no_role(values: Values, render: Render) -> None:
    account = {"platform": {"sequencing": {"serviceAccount": "runner"}}}
    manifests = render(deep_merge(values, account))
    assert not {"Role", "RoleBinding", "ServiceAccount"} & {item["kind"] for item in manifests}
    supervisor = find(manifests, "Job", "release-supervisor")
    assert supervisor["spec"]["template"]["spec"]["serviceAccountName"] == "runner"


def test_client_sequencing_has_no_supervisor(values: Values, render: Render) -> None:
    manifests = render(deep_merge(values, {"platform": {"sequencing": {"mode": "client"}}}))
    kinds = {item["kind"] for item in manifests}
    assert kinds == {"ConfigMap", "PyTorchJob", "Job"}
    assert "release-supervisor" not in {item["metadata"]["name"] for item in manifests}


def test_a_pod_with_a_part_of_the_gpus_gets_that_part_of_a_node(
    values: Values, render: Render
) -> None:
    node = {"gpus": 2, "gpusPerNode": 8, "cpusPerNode": 64, "memoryGibPerNode": 256}
    job = find(render(values | {"platform": node}), "PyTorchJob", "digits-extract")
    pod = job["spec"]["pytorchReplicaSpecs"]["Worker"]["template"]["spec"]
    assert pod["containers"][0]["resources"] == {
        "limits": {"memory": "64Gi", "nvidia.com/gpu": "2"},
        "requests": {"cpu": "16", "memory": "64Gi", "nvidia.com/gpu": "2"},
    }


def test_a_job_gives_up_on_the_permanent_exit_codes_and_no_others(
    values: Values, render: Render
) -> None:
    job = find(render(values), "Job", "digits-cluster")
    (container,) = job["spec"]["template"]["spec"]["containers"]
    disruption, *rules = job["spec"]["podFailurePolicy"]["rules"]
    on_disruption = [{"type": "DisruptionTarget", "status": "True"}]
    assert disruption == {"action": "Ignore", "onPodConditions": on_disruption}
    for rule in rules:
        assert rule["onExitCodes"]["containerName"] == container["name"]
        assert rule["onExitCodes"]["operator"] == "In"
    assert [(rule["action"], rule["onExitCodes"]["values"]) for rule in rules] == [
        ("FailJob", sorted(PERMANENT_EXIT_CODES)), ("Ignore", [TERMINATED_EXIT_CODE]),
    ]  # fmt: skip


def test_every_object_and_pod_has_the_users_labels_and_annotations(
    values: Values, render: Render
) -> None:
    own = {"labels": {"team": "vision"}, "annotations": {"note": "mine"}, "networkPolicy": True}
    changed = deep_merge(values, {"platform": own})
    manifests = [*render(changed), render_selftest(changed)]
    kinds = {item["kind"] for item in manifests}
    assert kinds == {
        "ConfigMap", "Job", "NetworkPolicy", "Pod", "PyTorchJob", "Role", "RoleBinding",
        "ServiceAccount",
    }  # fmt: skip
    files_pod = find(manifests, "ConfigMap", "release-config")["data"]["files-pod.json"]
    for item in (*manifests, *map(find_template, manifests), json.loads(files_pod)):
        if item is not None:
            assert item["metadata"]["labels"]["team"] == "vision", item
            assert item["metadata"]["annotations"]["note"] == "mine", item


def find_template(manifest: Manifest) -> Manifest | None:
    """Return the template of a job's pods."""
    spec = manifest.get("spec", {})
    found: Manifest | None = (
        spec["pytorchReplicaSpecs"]["Worker"]["template"]
        if manifest["kind"] == "PyTorchJob"
        else spec.get("template")
    )
    return found


def test_every_pod_of_a_release_goes_where_the_user_lets_it(values: Values, render: Render) -> None:
    """On a cluster whose nodes are all tainted, one that may not would wait for ever."""
    tolerations = [{"key": "gpu", "operator": "Exists"}]
    changed = deep_merge(values, {"platform": {"tolerations": tolerations}})
    manifests = render(changed)
    templates = [found for item in manifests if (found := find_template(item))]
    assert len(templates) == 5
    files_pod = find(manifests, "ConfigMap", "release-config")["data"]["files-pod.json"]
    for pod in (*templates, json.loads(files_pod), render_selftest(changed)):
        assert pod["spec"]["tolerations"] == tolerations, pod


def test_every_pod_of_a_release_is_of_the_same_user(values: Values, render: Render) -> None:
    user = {"user": 2000, "group": 3000, "fsGroup": 4000, "supplementalGroups": [5000]}
    changed = deep_merge(
        values,
        {"platform": {
            "podUser": user, "priorityClass": "high", "image": {"pullSecrets": ["registry"]},
        }},
    )  # fmt: skip
    pods = [job["spec"]["template"]["spec"] for job in render(changed) if job["kind"] == "Job"]
    config_map = find(render(changed), "ConfigMap", "release-config")
    files = json.loads(config_map["data"]["files-pod.json"])
    test = render_selftest(changed)
    assert list(find_violations(test["spec"])) == []
    assert test["metadata"]["annotations"]["helm.sh/hook"] == "test"
    for pod in (*pods, files["spec"], test["spec"]):
        assert pod["priorityClassName"] == "high"
        assert pod["imagePullSecrets"] == [{"name": "registry"}]
        assert pod["securityContext"] == {
            "runAsNonRoot": True,
            "runAsUser": 2000,
            "runAsGroup": 3000,
            "fsGroup": 4000,
            "fsGroupChangePolicy": "OnRootMismatch",
            "supplementalGroups": [5000],
            "seccompProfile": {"type": "RuntimeDefault"},
        }


def test_the_network_policy_lets_the_releases_own_pods_talk_alone(
    values: Values, render: Render
) -> None:
    policy = find(
        render(deep_merge(values, {"platform": {"networkPolicy": True}})),
        "NetworkPolicy",
        "release",
    )["spec"]
    own = {"app.kubernetes.io/name": "clusterfit", "app.kubernetes.io/instance": "release"}
    assert policy["podSelector"] == {"matchLabels": own}
    assert policy["ingress"] == [{"from": [{"podSelector": {"matchLabels": own}}]}]


def test_the_storage_chart_keeps_its_claim(helm: HelmLibrary) -> None:
    (claim,) = read_manifests(helm.render(find_chart(STORAGE_CHART), "storage", "somewhere", {}))
    assert claim["metadata"]["name"] == "clusterfit"
    assert claim["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]


def test_the_storage_claim_is_as_large_and_as_fast_as_asked_for(helm: HelmLibrary) -> None:
    asked = {
        "claim": "shared",
        "size": "2Ti",
        "storageClass": "fast",
        "accessMode": "ReadWriteOnce",
        "labels": {"team": "vision"},
    }
    (claim,) = read_manifests(helm.render(find_chart(STORAGE_CHART), "storage", "here", asked))
    assert claim["metadata"]["name"] == "shared"
    assert claim["metadata"]["labels"]["team"] == "vision"
    assert claim["metadata"]["labels"]["app.kubernetes.io/name"] == "clusterfit-storage"
    assert claim["spec"] == {
        "accessModes": ["ReadWriteOnce"],
        "storageClassName": "fast",
        "resources": {"requests": {"storage": "2Ti"}},
    }


def test_pods_end_and_come_back_as_the_worker_counts_on(values: Values, render: Render) -> None:
    """Each of these is silent where it is missing: pods double, or die before a checkpoint."""
    objects = render(values)
    trained = [item["spec"] for item in objects if item["kind"] == "PyTorchJob"]
    assert {spec["runPolicy"]["cleanPodPolicy"] for spec in trained} == {"Running"}
    replicas = [spec["pytorchReplicaSpecs"]["Worker"] for spec in trained]
    assert {worker["restartPolicy"] for worker in replicas} == {"ExitCode"}
    cluster, supervisor = (
        find(objects, "Job", name)["spec"] for name in ("digits-cluster", "release-supervisor")
    )
    jobs = [cluster, supervisor]
    assert {job["template"]["spec"]["restartPolicy"] for job in jobs} == {"Never"}
    assert cluster["podReplacementPolicy"] == "Failed", "two would write at once"
    # A node that is off says of no pod that it has failed. The API takes no podFailurePolicy then.
    assert supervisor["podReplacementPolicy"] == "TerminatingOrFailed"
    assert "podFailurePolicy" not in supervisor
    templates = [each["template"] for each in (*replicas, *jobs)]
    grace = sorted(item["spec"]["terminationGracePeriodSeconds"] for item in templates)
    assert grace == [15, *[120] * (len(replicas) + 1)]
    assert 10 <= 120 - GRACE_SECONDS <= 20, "ranks get nearly all of it, and none outlives it"
    for template in templates:
        assert template["spec"]["enableServiceLinks"] is False, "PET_ is not all that is read"
        (container,) = template["spec"]["containers"]
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
