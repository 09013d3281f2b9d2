"""A partition's order is fixed once, and edits are refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clusterfit.artifacts.dataset import Samples, read_fingerprint, read_samples, write_samples
from clusterfit.artifacts.files import write_array, write_json
from clusterfit.errors import InvalidDataError, MissingInputError

SAMPLES = Samples(("t/a/1.png", "t/a/2.png", "t/b/1.png"), np.array([0, 0, 1]), ("a", "b"))
NAMES = st.text(
    st.characters(exclude_categories=["Cc", "Cs"]), min_size=1
)  # what a listing lets in


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(NAMES, unique=True), st.booleans(), st.data())
def test_samples_come_back_as_they_were(
    tmp_path: Path, names: list[str], is_labelled: bool, data: st.DataObject
) -> None:
    labels = None
    if is_labelled and names:
        count = len(names)
        values = data.draw(st.lists(st.integers(0, 2**40), min_size=count, max_size=count))
        labels = np.array(values, np.int64)
    samples = Samples(tuple(names), labels, ("übel", "b"))
    write_samples(tmp_path, samples)
    back = read_samples(tmp_path)
    assert back.paths == samples.paths
    assert back.class_names == samples.class_names
    assert back.fingerprint == samples.fingerprint == read_fingerprint(tmp_path)
    if labels is None:
        assert back.labels is None
    else:
        assert back.labels is not None
        np.testing.assert_array_equal(back.labels, labels)


def test_order_paths_and_labels_belong_to_the_fingerprint() -> None:
    labels = np.array([0, 1, 1])
    variants = [
        SAMPLES,
        Samples(SAMPLES.paths[::-1], SAMPLES.labels, SAMPLES.class_names),
        Samples(SAMPLES.paths[:2], SAMPLES.labels, SAMPLES.class_names),
        Samples(SAMPLES.paths, labels, SAMPLES.class_names),
        Samples(SAMPLES.paths, None, ()),
        Samples(("t/a/1.pngt/a/2.png", "t/b/1.png"), None, ()),
    ]
    assert len({samples.fingerprint for samples in variants}) == len(variants)
    narrow = Samples(SAMPLES.paths, np.array([0, 0, 1], np.uint8), SAMPLES.class_names)
    assert narrow.fingerprint == SAMPLES.fingerprint, "whatever width their labels came in"


def test_a_rewritten_partition_keeps_no_labels_of_the_old_one(tmp_path: Path) -> None:
    write_samples(tmp_path, SAMPLES)
    write_samples(tmp_path, Samples(SAMPLES.paths, None, ()))
    assert read_samples(tmp_path).labels is None
    assert not (tmp_path / "labels.npy").exists()


def edit(path: Path, old: str, new: str) -> None:
    path.write_text(path.read_text().replace(old, new))


def test_edited_samples_and_labels_are_refused(tmp_path: Path) -> None:
    edits: dict[str, Callable[[], object]] = {
        "renamed": lambda: edit(tmp_path / "samples.txt", "a/2", "a/3"),
        "swapped": lambda: (tmp_path / "samples.txt").write_text(
            "t/a/2.png\nt/a/1.png\nt/b/1.png\n"
        ),
        "added": lambda: edit(tmp_path / "samples.txt", "t/b/1.png\n", "t/b/1.png\nt/b/2.png\n"),
        "cut": lambda: edit(tmp_path / "samples.txt", "b/1.png\n", "b/1.p"),
        "not text": lambda: (tmp_path / "samples.txt").write_bytes(b"\xff\n"),
        "gone": lambda: (tmp_path / "samples.txt").unlink(),
        "relabelled": lambda: write_array(tmp_path / "labels.npy", np.array([0, 1, 1])),
        "no labels": lambda: (tmp_path / "labels.npy").unlink(),
        "wide labels": lambda: write_array(tmp_path / "labels.npy", np.array([[0, 0, 1]])),
        "other labels": lambda: write_array(tmp_path / "labels.npy", np.array([0.0, 0.0, 1.0])),
        "no names": lambda: edit(tmp_path / "dataset.json", '"class_names": [', '"x": ['),
        "numbers for names": lambda: write_json(
            tmp_path / "dataset.json",
            {"class_names": 3, "labelled": True, "fingerprint": SAMPLES.fingerprint},
        ),
        "no record": lambda: (tmp_path / "dataset.json").write_text("{}"),
    }
    for name, make_edit in edits.items():
        write_samples(tmp_path, SAMPLES)
        make_edit()
        with pytest.raises(InvalidDataError) as caught:
            read_samples(tmp_path)
        assert str(tmp_path) in str(caught.value), name


def test_a_partition_that_was_never_listed_is_missing(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError):
        read_samples(tmp_path)
    with pytest.raises(MissingInputError):
        read_fingerprint(tmp_path)


def test_the_record_is_written_last(tmp_path: Path) -> None:
    """A listing that was cut short is one that has not happened."""
    write_samples(tmp_path, SAMPLES)
    seen: list[set[str]] = []

    def watch() -> None:
        seen.append({path.name for path in tmp_path.iterdir() if not path.name.startswith(".")})

    write_samples(tmp_path, SAMPLES, watch)
    assert all("dataset.json" not in names for names in seen)
    assert json.loads((tmp_path / "dataset.json").read_text())["num_samples"] == 3
