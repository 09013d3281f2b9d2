"""What Helm prints after an install can be typed as it stands, and means that release."""

from __future__ import annotations

import re
import shlex
from typing import Any

import helm_python
import pytest
from typer.main import get_command

from clusterfit.cli.app import app
from clusterfit.launch.api import JOBS, PODS, PYTORCHJOBS
from clusterfit.launch.charts import RUN_CHART, find_chart
from clusterfit.launch.helm import Values
from clusterfit.launch.manifests import Manifest

from .rendering import Render, deep_merge

OURS = {"status", "logs", "delete"}
"""What leads on with the launcher, whoever starts the stages."""


def list_commands(values: Values, release: str, namespace: str) -> list[list[str]]:
    """Return the words of each command in the notes of a release: of each indented line."""
    with helm_python.Config(storage_driver="memory", namespace=namespace) as config:
        done = config.install(str(find_chart(RUN_CHART)), release, values, dry_run="client")
    return [shlex.split(line) for line in re.findall(r"^ +(.+)$", done["notes"], re.MULTILINE)]


def parse_ours(words: list[str]) -> dict[str, Any]:
    """Return what the launcher understands; it ends where it does not."""
    program = get_command(app)
    with program.make_context("clusterfit", words) as context:
        name, command, rest = program.resolve_command(context, words)  # type: ignore[attr-defined]
        with command.make_context(name, rest, parent=context) as parsed:
            return dict(parsed.params)


def split_options(words: list[str], *flags: str) -> tuple[list[str], dict[str, str]]:
    """Return the arguments and the options of a command; each option but the flags has a value."""
    arguments, options = [], {}
    left = iter(words)
    for word in left:
        if word in flags:
            options[word] = ""
        elif word.startswith("-"):
            options[word] = next(left)
        else:
            arguments.append(word)
    return arguments, options


def read_labels(manifest: Manifest) -> list[dict[str, str]]:
    """Return the labels of a job and of the pods it makes."""
    spec = manifest["spec"]
    if manifest["kind"] == "PyTorchJob":
        spec = spec["pytorchReplicaSpecs"]["Worker"]
    return [manifest["metadata"]["labels"], spec["template"]["metadata"]["labels"]]


@pytest.mark.parametrize(
    ("mode", "verbs"), [("cluster", OURS), ("client", OURS | {"wait"})], ids=["cluster", "client"]
)
def test_each_command_is_one_on_this_release(
    values: Values, render: Render, mode: str, verbs: set[str]
) -> None:
    changed = deep_merge(values, {"platform": {"sequencing": {"mode": mode}}})
    by_tool: dict[str, list[list[str]]] = {"clusterfit": [], "helm": [], "kubectl": []}
    for tool, *words in list_commands(changed, "first-try", "somewhere"):
        by_tool[tool].append(words)

    assert {words[0] for words in by_tool["clusterfit"]} == verbs
    for words in by_tool["clusterfit"]:
        parsed = parse_ours(words)
        assert (parsed["run"], parsed["namespace"]) == ("digits", "somewhere"), words
        assert parsed.get("follow", False) is (words[0] == "logs")

    parsed_helm = [split_options(words, "--logs") for words in by_tool["helm"]]
    assert parsed_helm == [
        (["test", "first-try"], {"-n": "somewhere", "--logs": ""}),
        (["uninstall", "first-try"], {"-n": "somewhere"}),
    ]

    ((arguments, options),) = map(split_options, by_tool["kubectl"])
    assert arguments == ["get", f"{PYTORCHJOBS.plural},{JOBS.plural},{PODS.plural}"]
    assert options.keys() == {"-n", "-l"}
    assert options["-n"] == "somewhere"
    label, _, value = options["-l"].partition("=")
    jobs = [item for item in render(changed, "first-try") if item["kind"] in ("PyTorchJob", "Job")]
    assert len(jobs) == len(changed["stages"]) + (mode == "cluster")
    for labels in (labels for job in jobs for labels in read_labels(job)):
        assert labels[label] == value
