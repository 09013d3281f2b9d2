"""Files and options laid over the defaults, each value with its origin."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusterfit.config.loading import check_values, load_run_file
from clusterfit.config.provenance import DEFAULT, Origin, build_node, merge
from clusterfit.config.schema import default_values, walk_leaves
from clusterfit.config.writer import format_yaml
from clusterfit.errors import ConfigError

from .conftest import WriteFile

HEAD = "formatVersion: 1\nname: rotnet\n"


def _faults_of(files: list[Path], overrides: list[str] | None = None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_run_file(files, overrides or [])
    assert caught.value.exit_code == 64
    return list(caught.value.faults)


def test_what_is_not_given_keeps_its_default(write_file: WriteFile) -> None:
    dumped = load_run_file([write_file(HEAD)]).run_file.dump()
    assert dumped == {"formatVersion": 1, "name": "rotnet", **default_values()}


def test_later_files_lie_over_earlier_ones_and_set_over_all(write_file: WriteFile) -> None:
    base = write_file(
        HEAD + "cluster:\n  numClusters: 10\n  numIterations: 20\ndata: {mean: [0, 0, 0]}\n"
    )
    over = write_file("cluster: {numClusters: 11, pcaDim: 4}\ndata: {mean: [1, 1, 1]}\n", "b.yaml")
    loaded = load_run_file([base, over], ["cluster.pcaDim=5", 'data.train="here"'])
    cluster = loaded.run_file.cluster
    assert (cluster.num_clusters, cluster.num_iterations, cluster.pca_dim) == (11, 20, 5)
    assert loaded.run_file.data.mean == (1.0, 1.0, 1.0)
    origins = loaded.origins()
    assert origins["cluster", "numClusters"] == Origin("b.yaml", 1)
    assert origins["cluster", "numIterations"] == Origin("run.yaml", 5)
    assert origins["cluster", "pcaDim"] == Origin("--set")
    assert origins["data", "train"] == Origin("--set")
    assert origins["data", "mean"] == Origin("b.yaml", 2)
    assert origins[("seed",)] == DEFAULT
    assert list(origins) == [leaf.path for leaf in walk_leaves()]


JSON = st.recursive(
    st.integers(-9, 9) | st.booleans() | st.text("ab", max_size=2),
    lambda below: (
        st.lists(below, max_size=3) | st.dictionaries(st.sampled_from("abc"), below, max_size=3)
    ),
    max_leaves=8,
)
MAPS = st.dictionaries(st.sampled_from("abc"), JSON, max_size=3)


@given(MAPS, MAPS)
def test_merging_is_helms(first: dict[str, Any], second: dict[str, Any]) -> None:
    """Source: MergeMaps in helm.sh/helm/v4/pkg/cli/values, in its own words."""

    def merge_maps(a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
        out = dict(a)
        for key, value in b.items():
            if isinstance(value, dict) and isinstance(out.get(key), dict):
                out[key] = merge_maps(out[key], value)
            else:
                out[key] = value
        return out

    merged = merge(build_node(first, Origin("1")), build_node(second, Origin("2")))
    assert merged.plain() == merge_maps(first, second)


@given(MAPS, MAPS)
def test_every_merged_value_knows_which_file_gave_it(
    first: dict[str, Any], second: dict[str, Any]
) -> None:
    sources = {"1": build_node(first, Origin("1")), "2": build_node(second, Origin("2"))}
    merged = merge(sources["1"], sources["2"])

    def check(path: tuple[str | int, ...]) -> None:
        node = merged.find(path)
        assert node is not None
        giver = sources[node.origin.source].find(path)
        assert giver is not None
        if isinstance(node.value, dict):
            for key in node.value:
                check((*path, key))
        else:
            assert giver.plain() == node.plain()

    check(())


def test_what_show_prints_is_a_run_file_that_says_the_same(write_file: WriteFile) -> None:
    text = HEAD + (
        "stages: [extract, evaluate]\nextract: {weights: {from: path, path: 'y'}}\n"
        "data: {val: '12:30', maxUnreadableFraction: 1e-6}\n"
        "evaluate:\n  backbones:\n  - {label: '# no', from: run, stage: train}\n"
        "  - {label: b, from: random, model: resnet18}\n"
    )
    loaded = load_run_file([write_file(text)])
    shown = write_file(
        format_yaml(loaded.run_file.dump(), beside=lambda path: str(loaded.origin(path))), "b.yaml"
    )
    assert load_run_file([shown]).run_file == loaded.run_file


def test_standard_input_is_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(HEAD.encode() + b"seed: 3\n")))
    loaded = load_run_file([Path("-")])
    assert loaded.run_file.seed == 3
    assert str(loaded.origin(("seed",))) == "stdin:3"


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ("", "run.yaml: empty, want a run file; `clusterfit init` writes one"),
        ("# name: x\n", "run.yaml: empty, want a run file; `clusterfit init` writes one"),
        (
            "- a\n- b\n",
            'run.yaml: got ["a", "b"], want keys with values, like `name: my-run` (run.yaml:1)',
        ),
        (
            "\nname\n",
            'run.yaml: got "name", want keys with values, like `name: my-run` (run.yaml:2)',
        ),
        (b"name: x\nseed: \xff\n", "run.yaml: not UTF-8; save it as UTF-8 (run.yaml:2)"),
        ("cluster:\n\tseed: 1\n", "not YAML: a tab; write spaces instead (run.yaml:2)"),
    ],
)
def test_unreadable_files_are_one_line_each(
    write_file: WriteFile, content: str | bytes, fault: str
) -> None:
    assert _faults_of([write_file(content)]) == [fault]


def test_files_that_are_not_there_are_all_named(write_file: WriteFile) -> None:
    file = write_file(HEAD)
    Path("folder").mkdir()
    assert _faults_of([Path("no.yaml"), file, Path("folder")]) == [
        "no.yaml: no such file; `clusterfit init no.yaml` writes one",
        "folder: a directory, want a file",
    ]


def test_a_newer_format_is_named_before_its_keys_are_called_unknown(write_file: WriteFile) -> None:
    file = write_file("formatVersion: 2\nname: x\nnewSection: {}\n")
    (fault,) = _faults_of([file])
    assert fault.startswith("formatVersion: got 2, want 1: this is clusterfit ")
    assert fault.endswith("which reads version 1; use a newer one (run.yaml:1)")
    for text in ('"1"', "0", "1.5", "true"):
        (fault,) = _faults_of([write_file(f"formatVersion: {text}\nname: x\n")])
        assert fault.startswith(f"formatVersion: got {text}, want 1")


def test_faults_stand_in_the_order_of_the_files(write_file: WriteFile) -> None:
    first = write_file(HEAD + "train: {epochs: 0}\nseed: -1\ncluster: {pcaDim: }\n", "z.yaml")
    second = write_file("data: {format: 3}\n", "a.yaml")
    places = [
        fault.rsplit(" ", 1)[1] for fault in _faults_of([first, second], ["evaluate.neighbors=0"])
    ]
    assert places == ["(z.yaml:3)", "(z.yaml:4)", "(z.yaml:5)", "(a.yaml:1)", "(--set)"]


def test_values_from_no_file_are_checked_without_a_place() -> None:
    assert check_values({"formatVersion": 1, "name": "x"}).name == "x"
    with pytest.raises(ConfigError) as caught:
        check_values({"name": "X", "seed": -1})
    assert caught.value.faults == (
        "formatVersion: missing, want 1: add `formatVersion: 1`",
        'name: got "X", want 1 to 40 lower-case letters, digits and `-`, a letter first and no '
        "`-` last",
        "seed: got -1, want an integer >= 0 and <= 2147483647",
    )
