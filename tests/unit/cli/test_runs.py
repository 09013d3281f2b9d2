"""The commands on runs as they are typed: what they print, and which cluster they mean."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from clusterfit.cli.cluster import open_api
from clusterfit.cli.logs import follow_run
from clusterfit.config.tree import RunFile
from clusterfit.launch.api import CONFIG_MAPS, JOBS, NAMESPACES, PODS, PYTORCHJOBS
from clusterfit.launch.charts import RUN_CHART, find_chart
from clusterfit.launch.failures import NotFoundError
from clusterfit.launch.helm import HelmLibrary
from clusterfit.launch.manifests import read_manifests
from clusterfit.launch.plan import read_release
from clusterfit.launch.render import is_hook, render_run
from tests.unit.cli.conftest import DIGITS, RunCommand
from tests.unit.launch.api_server import write_kubeconfig
from tests.unit.launch.object_server import CREATED, Objects, serve_objects, worker_pod

PROGRESS = (
    "ts=2026-11-23T12:00:01.000Z level=info stage=extract rank=0 msg=progress done=512 total=1797 "
    "unit=images rate=256 eta_seconds=65"
)


@pytest.fixture
def digits(submitted: Objects) -> Objects:
    """A run whose first stage works, with two pods."""
    extract = read_release(submitted.find_config_map()).plan.stages[0]
    for node, name in enumerate(extract.pods):
        submitted.put(PODS, worker_pod(extract, name, node=node))
    submitted.logs[extract.pods[0]] = [f"2026-11-23T12:00:01.000Z {PROGRESS}"]
    working = {"status": {"replicaStatuses": {"Worker": {"active": 2}}}}
    submitted.put(PYTORCHJOBS, submitted.get(PYTORCHJOBS, extract.name) | working)
    return submitted


LISTED = [
    {
        "run": "digits",
        "release": "digits-step1",
        "stages": ["extract", "cluster"],
        "phase": "running",
        "created": CREATED,
    }
]
SAID = {
    "run": "digits",
    "namespace": "team",
    "phase": "running",
    "stages": [
        {
            "stage": "extract",
            "release": "digits-step1",
            "phase": "running",
            "pods": {"running": 2, "wanted": 2},
            "restarts": 0,
            "progress": {
                "done": 512, "total": 1797, "unit": "images", "rate": 256.0, "etaSeconds": 65.0
            },
        },
        {
            "stage": "cluster",
            "release": "digits-step1",
            "phase": "held",
            "pods": {"running": 0, "wanted": 1},
            "restarts": 0,
            "cause": "waits for extract",
        },
    ],
}  # fmt: skip

READ: dict[str, Callable[[str], Any]] = {"json": json.loads, "yaml": yaml.safe_load}


@pytest.mark.parametrize("output", READ)
@pytest.mark.parametrize(("command", "wanted"), [("list", LISTED), ("status digits", SAID)])
def test_a_program_reads_the_same_in_json_and_yaml(
    command: str, wanted: Any, output: str, digits: Objects, run_command: RunCommand
) -> None:
    assert digits.by_path
    answer = run_command(*command.split(), "-o", output)
    assert (answer.code, answer.err) == (0, "")
    assert READ[output](answer.out) == wanted


@pytest.mark.parametrize("options", [(), ("-o", "table")])
def test_a_person_reads_tables(
    options: tuple[str, ...], digits: Objects, run_command: RunCommand
) -> None:
    assert digits.by_path
    listed = run_command("list", *options).out.splitlines()
    assert [line.split() for line in listed] == [
        ["RUN", "RELEASE", "STAGES", "PHASE", "CREATED"],
        ["digits", "digits-step1", "extract,cluster", "running", CREATED],
    ]
    assert run_command("status", "digits", *options).out.splitlines() == [
        "run digits in namespace team: running",
        "",
        "STAGE    PHASE    PODS  RESTARTS  PROGRESS",
        "extract  running  2/2   0         28 % (512/1797 images, 256/s, 1:05 to go)",
        "cluster  held     0/1   0         -",
        "",
        "cluster: waits for extract",
    ]


def test_how_long_a_stage_takes_is_not_known_before_it_has_done_anything(
    digits: Objects, run_command: RunCommand
) -> None:
    first = PROGRESS.replace("done=512", "done=0").replace("rate=256 eta_seconds=65", "rate=0 ")
    said = [f"2026-11-23T12:00:01.000Z {first}eta_seconds=-1"]
    digits.logs["digits-extract-worker-0"] = said
    shown = run_command("status", "digits").out
    assert "0 % (0/1797 images, 0/s, ? to go)" in shown
    read = json.loads(run_command("status", "digits", "-o", "json").out)
    wanted = {"done": 0, "total": 1797, "unit": "images", "rate": 0.0}
    assert read["stages"][0]["progress"] == wanted


def test_the_status_of_a_run_that_failed_is_1_and_of_none_3(
    digits: Objects, run_command: RunCommand
) -> None:
    failed = {"status": {"conditions": [{"type": "Failed", "status": "True", "message": "so"}]}}
    digits.put(PYTORCHJOBS, digits.get(PYTORCHJOBS, "digits-extract") | failed)
    for output in ("table", "json", "yaml"):
        assert run_command("status", "digits", "-o", output).code == 1
        answer = run_command("status", "nothing", "-o", output)
        assert (answer.code, answer.out) == (3, "")
        assert answer.err == (
            "error: run nothing: not found in namespace team; the runs here are digits\n"
        )


def test_an_empty_namespace_is_an_empty_list(digits: Objects, run_command: RunCommand) -> None:
    digits.put(NAMESPACES, {"metadata": {"name": "other"}})
    answer = run_command("list", "-n", "other")
    assert (answer.code, answer.out, answer.err) == (0, "", "no runs in namespace other\n")
    assert json.loads(run_command("list", "-n", "other", "-o", "json").out) == []


def test_a_namespace_that_is_not_there_is_named(digits: Objects, run_command: RunCommand) -> None:
    """An empty list, or an unknown run, would send people to look for the wrong mistake."""
    assert digits.by_path
    for words in (("list",), ("list", "-o", "json"), ("status", "digits"), ("delete", "digits")):
        answer = run_command(*words, "-n", "tema")
        wanted = "error: namespace tema: not found; create it, or name another with -n\n"
        assert (answer.code, answer.out, answer.err) == (3, "", wanted)


@pytest.fixture
def two_clusters(
    digits: Objects, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Objects, Objects]]:
    """The current context leads to an empty cluster, `there` to the one with the run."""
    with serve_objects() as (_, empty):
        servers = {"here": empty.address, "there": digits.address}
        path = write_kubeconfig(tmp_path / "two", servers, namespace="team")
        monkeypatch.setenv("KUBECONFIG", str(path))
        yield empty, digits


COMMANDS = [
    ("list",),
    ("status", "digits"),
    ("logs", "digits", "extract"),
    ("wait", "digits", "--timeout=0.001"),
    ("suspend", "digits"),
    ("resume", "digits"),
    ("cancel", "digits"),
    ("delete", "digits"),
    ("submit", "step1", "-f", "run.yaml"),
    ("put", "run.yaml", "storage:", "--run", "digits"),
    ("get", "storage:", "out", "--run", "digits"),
]


@pytest.mark.usefixtures("claims")
@pytest.mark.parametrize("command", COMMANDS, ids=lambda words: words[0])
def test_a_context_or_a_kubeconfig_leads_to_another_cluster(
    command: tuple[str, ...],
    two_clusters: tuple[Objects, Objects],
    run_command: RunCommand,
    tmp_path: Path,
) -> None:
    empty, digits = two_clusters
    (tmp_path / "run.yaml").write_text(json.dumps({**DIGITS, "name": "other"}))
    if command[0] == "delete":  # nobody lets its pods go here
        for path in [path for path in digits.by_path if "/pods/" in path]:
            del digits.by_path[path]
    answer = run_command(*command, "--context", "there")
    # No submission gets further than to the namespace, which is not there.
    assert answer.code == {"wait": 124, "submit": 3}.get(command[0], 0), answer
    assert empty.requests == []
    assert digits.requests

    there = write_kubeconfig(tmp_path / "there", {"only": digits.address}, namespace="team")
    digits.requests.clear()
    run_command(*command, "--kubeconfig", str(there))
    assert empty.requests == []
    assert digits.requests

    digits.requests.clear()
    run_command(*command)
    assert empty.requests
    assert digits.requests == []


def test_what_is_suggested_leads_to_the_same_cluster(
    two_clusters: tuple[Objects, Objects], run_command: RunCommand
) -> None:
    _, digits = two_clusters
    said = run_command("suspend", "digits", "--context", "there").out
    assert said.splitlines()[-1] == "go on:  clusterfit resume digits -n team --context there"
    assert digits.get(PYTORCHJOBS, "digits-extract")["spec"]["runPolicy"]["suspend"] is True
    assert run_command("resume", "digits", "-n", "team", "--context", "there").code == 0
    assert digits.get(PYTORCHJOBS, "digits-extract")["spec"]["runPolicy"]["suspend"] is False
    assert digits.get(JOBS, "digits-cluster")["spec"]["suspend"] is True, "its turn has not come"


@pytest.mark.parametrize("error", [KeyError("uid"), OSError("no name")])
def test_who_has_no_name_can_stop_a_run_too(
    submitted: Objects, run_command: RunCommand, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def find_no_name() -> str:
        raise error

    monkeypatch.setattr("getpass.getuser", find_no_name)
    assert run_command("cancel", "digits").code == 0
    note = submitted.get(PYTORCHJOBS, "digits-extract")["metadata"]["annotations"]
    assert json.loads(note["clusterfit.dev/stopped"])["by"] == f"user {os.getuid()}"


def test_a_run_of_two_releases_is_shown_and_removed_as_one(
    submitted: Objects, run_command: RunCommand
) -> None:
    evaluate = {
        "stages": ["evaluate"],
        "data": {"val": "digits/val"},
        "evaluate": {"backbones": [{"label": "first", "from": "run", "stage": "pretext"}]},
    }
    run = RunFile.model_validate_json(json.dumps(DIGITS | evaluate))
    submitted.install(render_run(HelmLibrary(), run, "team").manifests)
    said = json.loads(run_command("status", "digits", "-o", "json").out)
    # In the pipeline's order, not in that of their names.
    assert [(stage["release"], stage["stage"]) for stage in said["stages"]] == [
        ("digits-step1", "extract"),
        ("digits-step1", "cluster"),
        ("digits-evaluate", "evaluate"),
    ]
    deleted = run_command("delete", "digits")
    assert (deleted.code, deleted.out.splitlines()) == (0, [
        "deleted digits-step1; its results stay on the claim, below digits",
        "deleted digits-evaluate; its results stay on the claim, below digits",
    ])  # fmt: skip
    assert submitted.by_path == {}


def test_many_runs_are_listed_with_a_request_for_each_kind_of_object(
    digits: Objects, run_command: RunCommand
) -> None:
    """Over a slow line each request is felt: stage by stage, hundreds of runs took minutes."""
    config_map = digits.find_config_map()
    for number in range(3):
        name = f"other-{number}"
        plan = config_map["data"]["plan.json"].replace("digits", name)
        copy = json.loads(json.dumps(config_map).replace("digits", name))
        digits.put(CONFIG_MAPS, {**copy, "data": {**copy["data"], "plan.json": plan}})
    digits.requests.clear()
    listed = run_command("list").out.splitlines()
    assert [line.split()[0] for line in listed] == [
        "RUN",
        "digits",
        "other-0",
        "other-1",
        "other-2",
    ]
    assert [line.split()[3] for line in listed[1:]] == ["running", *["missing"] * 3]
    plurals = [path.partition("?")[0].rpartition("/")[2] for _, path in digits.requests]
    assert sorted(plurals) == ["configmaps", "jobs", "pytorchjobs"]


def test_a_submission_follows_the_same_content_whatever_its_release_is_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run_command: RunCommand
) -> None:
    run = RunFile.model_validate_json(json.dumps(DIGITS))
    made = HelmLibrary().render(find_chart(RUN_CHART), "foo", "team", run.dump())
    (tmp_path / "run.yaml").write_text(json.dumps(DIGITS))
    with serve_objects() as (_, objects):
        objects.install([item for item in read_manifests(made) if not is_hook(item)])
        path = write_kubeconfig(tmp_path / "foo", {"here": objects.address}, namespace="team")
        monkeypatch.setenv("KUBECONFIG", str(path))
        failed = {"status": {"conditions": [{"type": "Failed", "status": "True"}]}}
        objects.put(PYTORCHJOBS, objects.get(PYTORCHJOBS, "digits-extract") | failed)
        extract = read_release(objects.find_config_map()).plan.stages[0]
        for node, name in enumerate(extract.pods):
            objects.put(PODS, worker_pod(extract, name, node=node, code=1))
        answer = run_command("submit", "step1", "-f", "run.yaml", "--follow")
    assert answer.code == 1
    assert answer.out.startswith("unchanged: foo is there already, with the same content, and ")


def test_what_is_gone_before_it_can_be_followed_is_no_success(digits: Objects) -> None:
    assert digits.by_path
    api, access = open_api("", "", "")
    with pytest.raises(NotFoundError, match=r"^release digits-step2 of run digits: not found in"):
        follow_run(api, access, "digits", "digits-step2")
