"""The run file of `clusterfit init`: it loads, and every option of it counts."""

from __future__ import annotations

import itertools

import pytest

from clusterfit.config.loading import load_run_file
from clusterfit.config.starter import Starter

from .conftest import WriteFile

STARTERS = [
    Starter(name="my-name", train="in/train", val=val, weights=weights, model="resnet18")
    for val, weights in itertools.product(["", "in/val"], ["", "weights/rotnet.torch"])
]


@pytest.mark.parametrize("starter", STARTERS, ids=str)
def test_what_is_written_loads_as_it_was_asked_for(starter: Starter, write_file: WriteFile) -> None:
    text = starter.format("run.yaml")
    run_file = load_run_file([write_file(text)]).run_file
    assert run_file.name == "my-name"
    assert run_file.data.train == "in/train"
    assert run_file.data.val == starter.val
    assert run_file.extract.model == run_file.train.model == "resnet18"
    assert run_file.extract.weights.path == starter.weights
    assert run_file.extract.weights.source == ("path" if starter.weights else "pretext")
    assert ("pretext" in run_file.stages) == (not starter.weights)
    assert ("evaluate" in run_file.stages) == bool(starter.val)
    if "pretext" in run_file.stages:
        assert run_file.pretext.model == "resnet18"


def test_what_is_written_changes_no_default(write_file: WriteFile) -> None:
    """A starter only spells out the settings that people change first."""
    started = load_run_file([write_file(Starter().format("run.yaml"))]).run_file
    plain = load_run_file([write_file("formatVersion: 1\nname: my-run\n")]).run_file
    assert started.model_copy(update={"stages": plain.stages}) == plain


def test_every_section_of_a_starter_is_explained() -> None:
    for starter in STARTERS:
        lines = starter.format("run.yaml").splitlines()
        for above, line in itertools.pairwise(lines):
            if line.endswith(":") and not line.startswith(" "):
                assert above.startswith("# "), line
    assert "-f other.yaml" in STARTERS[0].format("other.yaml")
