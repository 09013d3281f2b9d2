"""Files, overlays and overrides are composed as Hydra does, and nothing of it is executed."""

from __future__ import annotations

from pathlib import Path

import pytest

from clusterfit.errors import ConfigError, MissingInputError
from clusterfit.interop.vissl_config.conversion import convert
from clusterfit.interop.vissl_config.source import Source, compose
from tests.unit.interop.vissl_config.conftest import (
    CONFIGS,
    ROTNET,
    STEP1,
    STEP1_AT_HEAD,
    WEIGHTS,
    refusal,
)


def write(folder: Path, text: str) -> Path:
    path = folder / "vissl.yaml"
    path.write_text(text)
    return path


def compose_text(folder: Path, text: str, *overrides: str) -> Source:
    return compose(write(folder, text), overrides)


def refused(folder: Path, text: str, *overrides: str) -> str:
    with pytest.raises((ConfigError, MissingInputError)) as caught:
        compose_text(folder, text, *overrides)
    (fault,) = caught.value.faults
    assert "\n" not in fault
    return fault


@pytest.mark.parametrize(
    ("override", "wanted"),
    [
        ("config.A=5", {"A": 5, "B": {"C": 2}}),
        ("config.B.C=1e-4", {"A": 1, "B": {"C": 1e-4}}),
        ("+config.B.D=[/x/y.npy]", {"A": 1, "B": {"C": 2, "D": ["/x/y.npy"]}}),
        ("++config.B={E: true}", {"A": 1, "B": {"C": 2, "E": True}}),
        ("config.A={x:1,z:[2,3]}", {"A": {"x": 1, "z": [2, 3]}, "B": {"C": 2}}),
        ("~config.B.C", {"A": 1, "B": {}}),
        ("config.A='a, b'", {"A": "a, b", "B": {"C": 2}}),
        ("config.A=/data/a=b/c.torch", {"A": "/data/a=b/c.torch", "B": {"C": 2}}),
        ("config.A=True", {"A": True, "B": {"C": 2}}),
        ("config.A=yes", {"A": "yes", "B": {"C": 2}}),
        ("config.A=", {"A": "", "B": {"C": 2}}),
        ("config.A=[{name:Resize,size:8},{path:/x,url:https://h/x,text:'a:b'}]",
         {"A": [{"name": "Resize", "size": 8}, {"path": "/x", "url": "https://h/x", "text": "a:b"}],
          "B": {"C": 2}}),
        ('config.A=[C:foo,"x:y"]', {"A": ["C:foo", "x:y"], "B": {"C": 2}}),
        ("config.A=[[res5,[AvgPool2d,[[7,7],1,0]]]]",
         {"A": [["res5", ["AvgPool2d", [[7, 7], 1, 0]]]], "B": {"C": 2}}),
    ],
)  # fmt: skip
def test_overrides_as_on_vissls_command_line(
    override: str, wanted: dict[str, object], tmp_path: Path
) -> None:
    text = "# @package _global_\nconfig:\n  A: 1\n  B:\n    C: 2\n"
    assert compose_text(tmp_path, text, override).tree.plain() == wanted


def test_null_takes_a_value_away(tmp_path: Path) -> None:
    text = "config:\n  A: 1\n  B:\n  C: null\n"
    source = compose_text(tmp_path, text, "config.A=null", "config.C=3")
    assert source.tree.plain() == {"C": 3}
    assert set(source.nulls) == {("A",), ("B",)}


def test_values_know_where_they_were_given(tmp_path: Path) -> None:
    source = compose_text(tmp_path, "config:\n  A: 1\n  B: 2\n", "config.A=3")
    places = {key: str(source.tree.find((key,)).origin) for key in "AB"}  # type: ignore[union-attr]
    assert places == {"A": "command line", "B": f"{tmp_path}/vissl.yaml:3"}


def test_overlays_are_found_where_vissls_configurations_are() -> None:
    source = compose(ROTNET, ["+config/pretrain/rotnet/optimization=8gpu_ep35"])
    assert [path.name for path in source.files] == ["rotnet_8gpu_resnet.yaml", "8gpu_ep35.yaml"]
    fault = refusal(ROTNET, "+config/pretrain/rotnet/optimization=8gpu_ep36")
    assert "no file config/pretrain/rotnet/optimization/8gpu_ep36.yaml" in fault
    assert "the first argument" in refusal(ROTNET, "config=pretrain/rotnet/rotnet_8gpu_resnet")


def test_values_count_whatever_overlay_follows_them() -> None:
    """Hydra lays every overlay before any value, wherever it stands on the command line."""
    overlay = "+config/pretrain/rotnet/optimization=8gpu_ep35"
    for overrides in (["config.OPTIMIZER.num_epochs=10", overlay],
                      [overlay, "config.OPTIMIZER.num_epochs=10"]):  # fmt: skip
        optimizer = compose(ROTNET, overrides).tree.plain()["OPTIMIZER"]
        assert optimizer["num_epochs"] == 10
        assert optimizer["param_schedulers"]["lr"]["milestones"] == [10, 20]  # the overlay's


def test_what_is_not_there_cannot_be_taken_away(tmp_path: Path) -> None:
    text = "config:\n  A: 1\n  B: null\n"
    fault = refused(tmp_path, text, "~config.NUM_CLUSTER")
    assert fault == "~config.NUM_CLUSTER: there is no such key to take away"
    assert compose_text(tmp_path, text, "~config.B").nulls == {}


def test_a_configuration_named_as_vissl_names_it_is_told_as_a_path(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name = "pretrain/rotnet/rotnet_8gpu_resnet"
    monkeypatch.chdir(CONFIGS.parents[1])
    for typed in (name, f"config={name}", f"configs/config/{name}"):
        with pytest.raises(MissingInputError) as caught:
            compose(Path(typed), [])
        assert caught.value.faults == (
            f"{typed}: no such file; did you mean configs/config/{name}.yaml?",
        )
    with pytest.raises(MissingInputError, match=r"a path to its file: configs/config/x/y\.yaml"):
        compose(Path("config=x/y"), [])


def test_anchors_and_merge_keys(tmp_path: Path) -> None:
    text = """
config:
  DATA:
    TRAIN: &images {SIZE: 224, FLIP: true}
    TEST:
      <<: *images
      FLIP: false
"""
    assert compose_text(tmp_path, text).tree.plain()["DATA"] == {
        "TRAIN": {"SIZE": 224, "FLIP": True},
        "TEST": {"SIZE": 224, "FLIP": False},
    }
    conversion = convert(STEP1_AT_HEAD, [WEIGHTS])  # it has an anchor
    assert conversion.run_file.data.val == "imagenet1k_folder/val"


def test_interpolations_are_resolved(tmp_path: Path) -> None:
    text = """
config:
  A: {SIZE: 224, NAME: "run-${config.A.SIZE}", SAME: "${.SIZE}", UP: "${..B}"}
  B: ${config.C}
  C: [1, "${config.A.SIZE}"]
"""
    assert compose_text(tmp_path, text, "config.A.SIZE=64").tree.plain() == {
        "A": {"SIZE": 64, "NAME": "run-64", "SAME": 64, "UP": [1, 64]},
        "B": [1, 64],
        "C": [1, 64],
    }


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        ("${oc.env:HOME}", "config.A: ${oc.env:HOME} asks the machine"),
        ("${env:HOME}", "give the value itself: config.A=VALUE"),
        ("${config.NOWHERE}", "${config.NOWHERE} names nothing that the file"),
        ("${config.A}", "config.A: ${config.A} leads back to itself"),
        ("${config.B}", "leads back to itself"),
        ("x${config", "want a `${...}` that is closed"),
        ("${config.${config.Z}}", "${config.Z} names nothing"),
        ("???", "??? marks a value that must be given; add config.A=VALUE"),
    ],
)
def test_interpolations_that_cannot_be_resolved_are_refused(
    value: str, wanted: str, tmp_path: Path
) -> None:
    fault = refused(tmp_path, f'config:\n  A: "{value}"\n  B: "${{config.A}}"\n')
    assert wanted in fault
    assert "vissl.yaml:" in fault


@pytest.mark.parametrize(
    "tag", ["!!python/object/apply:os.system", "!!python/name:os.system", "!custom", "!!set"]
)
def test_tags_are_refused_and_nothing_is_run(tag: str, tmp_path: Path) -> None:
    mark = tmp_path / "was-run"
    fault = refused(tmp_path, f"config:\n  A: {tag} ['touch {mark}']\n")
    assert "config.A: got the tag" in fault
    assert "leave it out" in fault
    assert not mark.exists()
    assert "got the tag" in refused(tmp_path, "config: {}\nengine_name: x\n",
                                    f"config.A=[{tag} ['touch {mark}']]")  # fmt: skip
    assert not mark.exists()


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", "no map of keys"),
        ("- 1\n", "no map of keys"),
        ("config: 3\n", "`config` holds no keys"),
        ("config: {A: 1\n", "not YAML"),
        ("config:\n  A: 1\n  A: 2\n", "given twice"),
        ("config:\n  A: [1, null]\n", "config.A[1]: got nothing (null)"),
        ("defaults: [{config: x}]\nconfig: {A: 1}\n", "give them as VISSL's command line does"),
        ("config: {A: &a [*a]}\n", "would contain itself"),
    ],
)
def test_files_that_are_no_configurations(text: str, wanted: str, tmp_path: Path) -> None:
    assert wanted in refused(tmp_path, text)


@pytest.mark.parametrize(
    ("override", "wanted"),
    [
        ("config.A", "want KEY=VALUE as VISSL's command line has it"),
        ("config.A=1,2", "a sweep over several values"),
        ("config.L.0=2", "Hydra cannot override an item of a list; give config.L whole"),
        ("config.A=[1", "not YAML"),
        ("config.A=[null]", "got nothing (null)"),
    ],
)
def test_overrides_that_are_none(override: str, wanted: str, tmp_path: Path) -> None:
    assert wanted in refused(tmp_path, "config:\n  A: 1\n  L: [1]\n", override)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    assert "no such file" in refusal(tmp_path / "nowhere.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    assert "not UTF-8 text" in refusal(tmp_path / "binary.yaml")
    assert "Is a directory" in refusal(tmp_path)


def test_a_billion_laughs_are_refused(tmp_path: Path) -> None:
    lines = ["config:", "  a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"  a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    assert "more than 100000 values" in refused(tmp_path, "\n".join(lines))


def test_a_step_1_file_with_other_line_ends(tmp_path: Path) -> None:
    path = tmp_path / "crlf.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + STEP1.read_bytes().replace(b"\n", b"\r\n"))
    assert convert(path, [WEIGHTS]).run_file.cluster.num_clusters == 16000
