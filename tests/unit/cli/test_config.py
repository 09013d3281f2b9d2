"""`clusterfit config` as a user sees it."""

from __future__ import annotations

import json
from pathlib import Path

from clusterfit.config.schema import build_schema, walk_leaves
from clusterfit.config.sections.evaluation import Evaluate

from .conftest import RunCommand

RUN = "formatVersion: 1\nname: rotnet\ncluster:\n  numClusters: 100\n"


def test_show_prints_every_value_and_can_be_read_again(run_command: RunCommand) -> None:
    Path("run.yaml").write_text(RUN)
    shown = run_command("config", "show", "-f", "run.yaml")
    assert shown.code == 0
    assert "  numClusters: 100\n" in shown.out
    Path("shown.yaml").write_text(shown.out)
    assert run_command("config", "show", "-f", "shown.yaml").out == shown.out


def test_show_says_where_each_value_comes_from(run_command: RunCommand) -> None:
    Path("run.yaml").write_text(RUN)
    Path("over.yaml").write_text("seed: 3\n")
    options = ("-f", "run.yaml", "-f", "over.yaml", "--set", "cluster.pcaDim=7")
    lines = run_command("config", "show", *options, "--origin").out.splitlines()
    origins = {line.split(":")[0].strip(): line.split(" # ")[1] for line in lines if " # " in line}
    items = sum(len(layer.dump()) for layer in Evaluate().layers)  # each key of a list's maps
    assert len([line for line in lines if " # " in line]) == len(list(walk_leaves())) + items
    assert origins["numClusters"] == "run.yaml:4"
    assert origins["seed"] == "over.yaml:1"
    assert origins["pcaDim"] == "--set"
    assert origins["numIterations"] == "default"


def test_show_as_json(run_command: RunCommand) -> None:
    Path("run.yaml").write_text(RUN)
    values = json.loads(run_command("config", "show", "-f", "run.yaml", "-o", "json").out)
    assert values["cluster"]["numClusters"] == 100
    shown = json.loads(
        run_command("config", "show", "-f", "run.yaml", "-o", "json", "--origin").out
    )
    assert shown["values"] == values
    assert shown["origins"]["cluster.numClusters"] == "run.yaml:4"
    assert shown["origins"]["seed"] == "default"


def test_check_says_that_a_file_is_right(run_command: RunCommand) -> None:
    Path("run.yaml").write_text(RUN)
    ending = run_command("config", "check", "-f", "run.yaml", "--set", 'stages=["cluster"]')
    assert (ending.code, ending.out) == (0, "ok: run rotnet, stages cluster\n")


def test_check_names_each_fault(run_command: RunCommand) -> None:
    Path("run.yaml").write_text(RUN + "  pcaWhiten: y\nsead: 1\n")
    ending = run_command("config", "check", "-f", "run.yaml", "--set", "seed=-1")
    assert ending.code == 64
    assert ending.out == ""
    assert ending.err == (
        "error: cluster.pcaWhiten: has no effect without pcaDim; give the dimensions to keep "
        "(run.yaml:5)\n"
        "error: sead: unknown key, did you mean seed? (run.yaml:6)\n"
        "error: seed: got -1, want an integer >= 0 and <= 2147483647 (--set)\n"
    )


def test_a_run_file_must_be_given(run_command: RunCommand) -> None:
    for command in ("show", "check"):
        ending = run_command("config", command)
        assert ending.code == 64
        assert ending.err == "error: no run file is given: -f FILE; `clusterfit init` writes one\n"


def test_schema_is_printed(run_command: RunCommand) -> None:
    assert json.loads(run_command("config", "schema").out) == build_schema()
