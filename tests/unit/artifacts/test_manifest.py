"""A manifest says what an artifact is, and names what differs from what is wanted."""

from __future__ import annotations

import copy
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from clusterfit.artifacts.manifest import (
    FileRecord,
    Identity,
    check_file,
    find_manifest,
    find_size_faults,
    is_finished,
    read_manifest,
    write_manifest,
)
from clusterfit.errors import InvalidDataError, MissingInputError

CONFIG = {"model": "resnet50", "seed": 0, "weights": {"from": "path", "skipLayers": ["fc"]}}
INPUTS = {"data.train": "d" * 64, "weights": "w" * 64}

TEXTS = st.text(max_size=4)
SCALARS = st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS
TREES = st.recursive(
    SCALARS, lambda child: st.lists(child) | st.dictionaries(TEXTS, child), max_leaves=4
)
CONFIGS = st.dictionaries(TEXTS, TREES, min_size=1, max_size=4)


def shuffle_keys(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: shuffle_keys(value[key]) for key in reversed(value)}
    return [shuffle_keys(item) for item in value] if isinstance(value, list) else value


@given(CONFIGS)
def test_the_order_of_keys_does_not_change_a_fingerprint(config: dict[str, Any]) -> None:
    there = Identity("train", config, INPUTS).fingerprint
    assert Identity("train", shuffle_keys(config), shuffle_keys(INPUTS)).fingerprint == there


@given(CONFIGS)
def test_a_fingerprint_survives_being_written_as_json(config: dict[str, Any]) -> None:
    back = json.loads(json.dumps(config))
    assert Identity("s", back, {}).fingerprint == Identity("s", config, {}).fingerprint


@given(CONFIGS, st.data())
def test_any_change_of_the_config_changes_the_fingerprint(
    config: dict[str, Any], data: st.DataObject
) -> None:
    changed = copy.deepcopy(config)
    key = data.draw(st.sampled_from(sorted(config)))
    changed[key] = data.draw(TREES)
    assume(json.dumps(changed, sort_keys=True) != json.dumps(config, sort_keys=True))
    assert Identity("s", changed, {}).fingerprint != Identity("s", config, {}).fingerprint
    del changed[key]
    assert Identity("s", changed, {}).fingerprint != Identity("s", config, {}).fingerprint


def test_stage_and_inputs_belong_to_the_fingerprint() -> None:
    identities = [
        Identity("train", CONFIG, INPUTS),
        Identity("pretext", CONFIG, INPUTS),
        Identity("train", CONFIG, INPUTS | {"weights": "v" * 64}),
        Identity("train", CONFIG, {"data.train": "d" * 64}),
        Identity("train", CONFIG | INPUTS, {}),
        Identity("train", {}, {}),
    ]
    assert len({identity.fingerprint for identity in identities}) == len(identities)


def test_a_fingerprint_is_the_sha256_of_canonical_json() -> None:
    """Written down by hand: another value would redo every finished stage of every user."""
    text = '[1,"s",{"a":[1,2.0],"b":"\\u00fc"},{"x":"y"}]'
    identity = Identity("s", {"b": "ü", "a": [1, 2.0]}, {"x": "y"})
    assert identity.fingerprint == hashlib.sha256(text.encode()).hexdigest()


def test_numbers_that_are_none_have_no_fingerprint() -> None:
    with pytest.raises(ValueError, match="Out of range"):
        _ = Identity("s", {"rate": float("nan")}, {}).fingerprint


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    """Write an artifact of two files, one of them in a folder."""
    (tmp_path / "train").mkdir()
    (tmp_path / "a.bin").write_bytes(b"12345")
    (tmp_path / "train" / "b.bin").write_bytes(b"")
    files = ["a.bin", "train/b.bin"]
    write_manifest(tmp_path, Identity("s", CONFIG, INPUTS), files, {"count": 3}, {"numpy": "2"})
    return tmp_path


def test_a_manifest_comes_back_with_sizes_and_hashes(finished: Path) -> None:
    manifest = read_manifest(finished)
    assert manifest == find_manifest(finished)
    assert (manifest.stage, manifest.config, manifest.inputs) == ("s", CONFIG, INPUTS)
    assert (manifest.results, manifest.versions) == ({"count": 3}, {"numpy": "2"})
    assert [(record.path, record.size) for record in manifest.files] == [
        ("a.bin", 5),
        ("train/b.bin", 0),
    ]
    assert manifest.files[0].sha256 == hashlib.sha256(b"12345").hexdigest()
    assert is_finished(finished, Identity("s", CONFIG, INPUTS))


def test_without_a_manifest_nothing_is_finished(tmp_path: Path) -> None:
    assert find_manifest(tmp_path) is None
    assert not is_finished(tmp_path, Identity("s", CONFIG, INPUTS))
    with pytest.raises(MissingInputError):
        read_manifest(tmp_path)


def test_who_knows_a_files_record_need_not_have_it_hashed(tmp_path: Path) -> None:
    (tmp_path / "named").write_bytes(b"12345")
    record = FileRecord("told", 7, "a" * 64)
    write_manifest(tmp_path, Identity("s", {}, {}), [record, "named"], {}, {})
    told, named = read_manifest(tmp_path).files
    assert told == record
    assert (named.path, named.size) == ("named", 5)


def test_a_manifest_cannot_vouch_for_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_manifest(tmp_path, Identity("s", {}, {}), ["none"], {}, {})
    assert find_manifest(tmp_path) is None


@pytest.mark.parametrize(
    ("config", "inputs", "expected"),
    [
        ({"model": "resnet18"}, {}, 's.model was "resnet50", now "resnet18"'),
        ({"seed": 1}, {}, "s.seed was 0, now 1"),
        (
            {"weights": {"from": "path", "skipLayers": []}},
            {},
            's.weights.skipLayers was ["fc"], now []',
        ),
        ({"added": True}, {}, "s.added was null, now true"),
        ({}, {"weights": "v" * 64}, f"s.inputs.weights was {'w' * 12}, now {'v' * 12}"),
    ],
)
def test_a_difference_names_the_key_and_both_values(
    finished: Path, config: dict[str, Any], inputs: dict[str, str], expected: str
) -> None:
    wanted = Identity("s", CONFIG | config, INPUTS | inputs)
    with pytest.raises(InvalidDataError) as caught:
        is_finished(finished, wanted)
    [fault] = caught.value.faults
    assert f": made with other settings: {expected}. Give the run another name" in fault


def test_several_differences_are_all_named(finished: Path) -> None:
    with pytest.raises(InvalidDataError, match=r"s\.model was .*; s\.seed was 0, now 2; "):
        is_finished(finished, Identity("s", {"model": "m", "seed": 2, "weights": {}}, INPUTS))


def test_missing_and_resized_files_are_faults_and_unfinish_the_stage(finished: Path) -> None:
    (finished / "a.bin").write_bytes(b"1234")
    (finished / "train" / "b.bin").unlink()
    assert list(find_size_faults(finished, read_manifest(finished))) == [
        f"{finished / 'a.bin'}: 4 bytes, the manifest says 5",
        f"{finished / 'train/b.bin'}: missing",
    ]
    assert not is_finished(finished, Identity("s", CONFIG, INPUTS))


@pytest.mark.parametrize(
    "change",
    [
        {"format_version": 2},
        {"format_version": None},
        {"files": [{"path": "a.bin"}]},
        {"files": 3},
        {"files": [3]},
        {"files": [{"path": 3, "size": 5, "sha256": "a"}]},
        {"files": [{"path": "../a.bin\0", "size": 5, "sha256": "a"}]},
        {"files": [{"path": "a.bin", "size": -5, "sha256": "a"}]},
        {"files": [{"path": "a.bin", "size": "5", "sha256": "a"}]},
        {"config": None},
        {"inputs": {"weights": 3}},
        {"results": []},
        {"somebody": "else's"},
        {"stage": "another"},
        {"config": {"seed": 1}},
        {"inputs": {}},
        {"fingerprint": "f" * 64},
    ],
)
def test_a_manifest_that_is_not_ours_is_refused(finished: Path, change: dict[str, Any]) -> None:
    path = finished / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(InvalidDataError, match=r"manifest\.json: "):
        read_manifest(finished)


def test_a_single_wrong_bit_in_a_file_is_seen_before_it_is_used(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "numbers"
    path.parent.mkdir()
    path.write_bytes(bytes(100))
    (tmp_path / "other").write_bytes(bytes(100))
    manifest = write_manifest(tmp_path, Identity("s", {}, {}), ["folder/numbers"], {}, {})
    assert check_file(tmp_path, manifest, path) == path
    path.write_bytes(bytes(99) + b"\1")
    with pytest.raises(InvalidDataError, match=r"numbers: content differs .* run stage s again"):
        check_file(tmp_path, manifest, path)
    path.unlink()
    with pytest.raises(MissingInputError, match=r"numbers: No such file .* run stage s again"):
        check_file(tmp_path, manifest, path)
    with pytest.raises(InvalidDataError, match="other: content differs"):
        check_file(tmp_path, manifest, tmp_path / "other")  # equal, but nobody vouches for it
