"""Bad run files: each mistake is one line that says what was got, what is wanted, and where."""

from __future__ import annotations

import pytest

from clusterfit.config.loading import load_run_file
from clusterfit.errors import ConfigError

from .conftest import WriteFile

HEAD = "formatVersion: 1\nname: rotnet\n"
NAME = "1 to 40 lower-case letters, digits and `-`, a letter first and no `-` last"
MODEL = "a torchvision classification model or resnet8_small"
LAYER = "a layer's name, such as res5avg or layer4.1.bn2"
YES_NO = "(y, yes, on, n, no and off are true and false without)"

# Line 3 of the file, after HEAD: the line of fault, without its place.
MISTAKES = {
    "sead: 1": "sead: unknown key, did you mean seed?",
    "cluster: {numClusters: 0}": "cluster.numClusters: got 0, want an integer >= 1",
    "cluster: {numClusters: 1.5}": "cluster.numClusters: got 1.5, want an integer >= 1",
    'cluster: {numClusters: "3"}': 'cluster.numClusters: got "3", want an integer >= 1; leave out '
    "the quotes",
    "cluster: {numClusters: many}": 'cluster.numClusters: got "many", want an integer >= 1',
    "cluster: {numClusters: y}": "cluster.numClusters: got true, want an integer >= 1",
    "cluster: {num_clusters: 3}": "cluster.num_clusters: unknown key, did you mean numClusters?",
    "cluster: {K: 3}": "cluster.K: unknown key, want one of engine, numClusters, init, "
    "initialCentroids, numIterations, numCandidates, relaxation, stopImprovement, stopChurn, "
    "spherical, maxSizeRatio, normalize, pcaDim, pcaWhiten, maxPointsPerCentroid, numNearest",
    "cluster: {maxSizeRatio: 0.9}": "cluster.maxSizeRatio: got 0.9, want 0 or a number >= 1",
    "cluster: {maxSizeRatio: -1}": "cluster.maxSizeRatio: got -1, want 0 or a number >= 1",
    'cluster: {maxSizeRatio: "1.5"}': 'cluster.maxSizeRatio: got "1.5", want 0 or a number >= 1; '
    "leave out the quotes",
    "cluster: {maxSizeRatio: 10, numClusters: 10}": "cluster.maxSizeRatio: got 10, want less than "
    "numClusters (10); no cluster can be as many times larger than the mean",
    "cluster: {engine: faiss, init: random, maxSizeRatio: 2}": "cluster.engine: faiss does not "
    "know maxSizeRatio; set engine: torch, or leave these and set init: random or given",
    'cluster: {normalize: "yes"}': 'cluster.normalize: got "yes", want true or false; leave out '
    "the quotes",
    "cluster: {normalize: 1}": "cluster.normalize: got 1, want true or false",
    "cluster: 3": "cluster: got 3, want a section with its keys indented below it",
    "cluster: [numClusters, 3]": 'cluster: got ["numClusters", 3], want a section with its keys '
    "indented below it",
    "train: {baselr: 0.1}": "train.baselr: unknown key, did you mean baseLr?",
    "train: {batchSize: 3}": "train.batchSize: unknown key, did you mean batchSizePerRank?",
    "train: {numClusters: 3}": "train.numClusters: unknown key here, did you mean "
    "cluster.numClusters?",
    "extract: {loaders_per_rank: 3}": "extract.loaders_per_rank: unknown key here, did you mean "
    "data.loadersPerRank?",
    "baseLr: 3": "baseLr: unknown key here, did you mean pretext.baseLr or train.baseLr or "
    "evaluate.heads.baseLr?",
    "train: {momentum: 1}": "train.momentum: got 1, want a number >= 0 and < 1",
    "train: {model: no}": f"train.model: got false, want {MODEL}",
    "train: {model: 3}": f"train.model: got 3, want {MODEL}",
    "train: {model: resnet5}": f"train.model: got resnet5, want {MODEL}; did you mean resnet50 or "
    "resnet152 or resnet34?",
    "extract: {model: vit_b16}": f"extract.model: got vit_b16, want {MODEL}; did you mean vit_b_16 "
    "or vit_l_16 or vit_h_14?",
    'train: {model: "resn\\u2028et50"}': 'train.model: got "resn\\u2028et50", want '
    f"{MODEL}; did you mean resnet50 or resnet152 or resnet101?",
    "extract: {layer: no}": f"extract.layer: got false, want {LAYER}; put quotes around it "
    f"{YES_NO}",
    "extract: {layer: 3}": f"extract.layer: got 3, want {LAYER}; put quotes around it",
    # Features lie in a folder of this name, which --overwrite removes.
    "extract: {layer: ..}": f'extract.layer: got "..", want {LAYER}',
    "extract: {layer: ../../other}": f'extract.layer: got "../../other", want {LAYER}',
    "extract: {layer: /images}": f'extract.layer: got "/images", want {LAYER}',
    "train: {lrMilestones: 3}": "train.lrMilestones: got 3, want a list, each a number > 0; put "
    "brackets around it: [3]",
    "train: {lrMilestones: [3, x]}": 'train.lrMilestones[1]: got "x", want a number > 0',
    "train: {epochs: 12}": "train.lrMilestones: got [30, 60, 90, 100], want all below "
    "epochs (12); give milestones of your own, or schedule: cosine",
    "train: {colorJitter: [1, 1, 1, 1]}": "train.colorJitter: got a hue of 1.0, want at most 0.5",
    "data: {format: folders}": 'data.format: got "folders", want one of folder, filelist; did you '
    "mean folder?",
    "data: {train: /images}": 'data.train: got "/images", want a path below its root, so without '
    "`/` in front and without `..`",
    "data: {train: a/../../b}": 'data.train: got "a/../../b", want a path below its root, so '
    "without `/` in front and without `..`",
    "data: {mean: [0.1, ~, 0.3]}": "data.mean[1]: got nothing (null), want a value; leave it out "
    "to keep the default",
    "evaluate: {backbones: [{label: a, from: run, stage: train, run: ../b}]}": "evaluate."
    'backbones[0].run: got "../b", want another run\'s name, or nothing',
    'cluster: {"num\\nClusters": 3}': 'cluster."num\\nClusters": unknown key, did you mean '
    "numClusters?",
    f'cluster: {{numClusters: "{"7" * 5000}"}}': f'cluster.numClusters: got "{"7" * 56}..., want '
    "an integer >= 1",
    "data: {mean: [1, 2]}": "data.mean: got [1, 2], want a list of 3, each a number",
    "data: {maxUnreadableFraction: 2}": "data.maxUnreadableFraction: got 2, want a number >= 0 and "
    "<= 1",
    "data: {valLabels: x}": "data: trainLabels and valLabels belong to format: filelist; a "
    "folder's labels are its subfolders' names",
    "stages: [cluster, extract]": "stages: got cluster, extract, want each once and in this order: "
    "pretext, extract, cluster, train, evaluate",
    "stages: [extrakt]": 'stages[0]: got "extrakt", want one of pretext, extract, cluster, train, '
    "evaluate; did you mean extract?",
    "stages: []": "stages: got [], want a list of at least 1, each one of pretext, extract, "
    "cluster, train, evaluate",
    "extract: {weights: {from: path}}": "extract.weights.path: missing, want a weights file, "
    "because of from: path",
    "extract: {weights: {path: a.pth}}": "extract.weights.path: has no effect with from: pretext; "
    "set from: path",
    "extract: {cropPixels: 300}": "extract.cropPixels: got 300, want at most resizePixels (256)",
    "evaluate: {backbones: [{from: run, stage: train}]}": "evaluate.backbones[0].label: missing, "
    "want text of 1 to 60 characters",
    "evaluate: {backbones: [{label: a, from: run}]}": "evaluate.backbones[0].stage: missing, want "
    "it given with from: run",
    "evaluate: {backbones: [{label: a, from: random, model: vgg11, path: c}]}": "evaluate."
    "backbones[0].path: has no effect with from: random; leave it out",
    "evaluate: {backbones: [{label: a, from: run, stag: train}]}": "evaluate.backbones[0].stag: "
    "unknown key, did you mean stage?",
    "evaluate: {backbones: [{label: a, from: random, model: b}]}": "evaluate.backbones[0].model: "
    f"got b, want {MODEL}",
    "evaluate: {protocols: [svm, svm]}": "evaluate.protocols: got svm, svm, want each only once",
    "evaluate: {protocols: [knm]}": 'evaluate.protocols[0]: got "knm", want one of linear, knn, '
    "heads, svm; did you mean knn?",
    "evaluate: {layers: [{layer: res4, kernel: 4, padding: 3}]}": "evaluate.layers[0].padding: got "
    "3, want at most half of kernel (4)",
    "evaluate: {heads: {epochs: 20}}": "evaluate.heads.lrMilestones: got [8, 16, 24], want "
    "all below epochs (20); give milestones of your own, or schedule: cosine",
    "seed: -1": "seed: got -1, want an integer >= 0 and <= 2147483647",
    "seed:": "seed: got nothing (null), want a value; leave it out to keep the default",
}


def _faults_of(file: WriteFile, text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_run_file([file(text)])
    return list(caught.value.faults)


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line(write_file: WriteFile, mistake: str) -> None:
    assert _faults_of(write_file, f"{HEAD}{mistake}\n") == [f"{MISTAKES[mistake]} (run.yaml:3)"]


@pytest.mark.parametrize(
    "name", ["Rot_Net", "-a", "a-", "1a", "a.b", "a" * 41, "", "é", "a\\n", "a b"]
)
def test_a_name_that_is_no_label_is_refused(write_file: WriteFile, name: str) -> None:
    (fault,) = _faults_of(write_file, f'formatVersion: 1\nname: "{name}"\n')
    assert fault.endswith(f", want {NAME} (run.yaml:2)")


def test_what_must_be_given_is_missed_in_the_file(write_file: WriteFile) -> None:
    assert _faults_of(write_file, "seed: 1\n") == [
        "formatVersion: missing, want 1: add `formatVersion: 1` (run.yaml)",
        f"name: missing, want {NAME} (run.yaml)",
    ]


def test_what_must_be_given_is_missed_where_the_run_file_begins(write_file: WriteFile) -> None:
    files = [write_file("name: x\n"), write_file("seed: 1\n", "over.yaml")]
    with pytest.raises(ConfigError, match=r"^formatVersion: missing, .* \(run\.yaml\)$"):
        load_run_file(files, ["cluster.numClusters=3"])


def test_an_empty_value_is_not_also_missing(write_file: WriteFile) -> None:
    assert _faults_of(write_file, "formatVersion: 1\nname:\n") == [
        "name: got nothing (null), want a value; leave it out to keep the default (run.yaml:2)"
    ]


def test_a_misspelt_key_that_must_be_given_is_not_also_missing(write_file: WriteFile) -> None:
    assert _faults_of(write_file, "formatversion: 1\nname: x\n") == [
        "formatversion: unknown key, did you mean formatVersion? (run.yaml:1)"
    ]


def test_a_rule_across_sections_has_the_line_of_what_was_given(write_file: WriteFile) -> None:
    text = f"{HEAD}stages: [cluster, evaluate]\ndata:\n  train: x\n"
    assert _faults_of(write_file, text) == [
        "data.val: missing, want the images that the evaluate stage judges on (run.yaml)"
    ]
    text = f"{HEAD}stages: [extract]\ninputs:\n  features: other\n"
    assert _faults_of(write_file, text) == [
        "inputs.features: got other, whose features stand in for this run's; leave extract out of "
        "stages (run.yaml:5)"
    ]


def test_features_come_from_the_network_that_pretext_trains(write_file: WriteFile) -> None:
    text = f"{HEAD}stages: [pretext, extract]\npretext: {{model: resnet18}}\n"
    assert _faults_of(write_file, f"{text}extract:\n  model: resnet34\n") == [
        "extract.model: got resnet34, want resnet18, as pretext.model, because of "
        "extract.weights.from: pretext (run.yaml:6)"
    ]
    (fault,) = _faults_of(write_file, text)
    assert fault.startswith("extract.model: got resnet50, want resnet18, ")
    path = "run/pretext/model.safetensors"
    for legal in (
        f"{text}extract: {{weights: {{from: path, path: {path}}}}}\n",
        f"{text}extract: {{weights: {{from: random}}}}\n",
        text.replace("pretext, extract", "pretext, train"),
        text.replace("pretext, extract", "extract"),  # judged by what lies there
    ):
        load_run_file([write_file(legal)])


def test_all_mistakes_of_a_file_are_named_at_once(write_file: WriteFile) -> None:
    text = f"{HEAD}sead: 1\nseed: -1\ncluster:\n  numClusters: 0\n  K: 3\ntrain:\n  epochs:\n"
    places = [fault.rsplit(" ", 1)[1] for fault in _faults_of(write_file, text)]
    assert places == [f"(run.yaml:{line})" for line in (3, 4, 6, 7, 9)]


def test_python_names_of_keys_are_no_keys(write_file: WriteFile) -> None:
    """The tree's own spelling would pass here and be refused by Helm's schema."""
    assert _faults_of(write_file, "format_version: 1\nname: x\n") == [
        "format_version: unknown key, did you mean formatVersion? (run.yaml:1)"
    ]
