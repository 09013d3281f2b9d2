"""Rows come back in the data set's order, from however many parts they lie in."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from clusterfit.artifacts.files import compute_sha256
from clusterfit.artifacts.part import check_part, part_name, read_part_header, write_part
from clusterfit.artifacts.parts import FeatureTable
from clusterfit.errors import InvalidDataError, MissingInputError

WritePartition = Callable[[list[np.ndarray], list[np.ndarray]], Path]

DIM = 3


def make_parts(sizes: list[int]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return features and rising sample indices with gaps, as if every third image were broken."""
    num_rows = sum(sizes)
    rows = np.random.default_rng(num_rows).normal(size=(num_rows, DIM)).astype(np.float32)
    indices = np.arange(num_rows) * 3 // 2
    cuts = np.cumsum(sizes)[:-1]
    features = [
        part if len(part) else np.empty((0, 0), np.float32) for part in np.split(rows, cuts)
    ]
    return features, np.split(indices, cuts)


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40
)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=6), st.data())
@example([0], None)
@example([0, 4, 0, 0, 3, 0], None)
def test_any_range_of_rows_equals_that_of_the_concatenated_parts(
    write_partition: WritePartition, sizes: list[int], data: st.DataObject | None
) -> None:
    features, indices = make_parts(sizes)
    table = FeatureTable(write_partition(features, indices))
    expected = np.concatenate([part for part in features if len(part)] or [np.empty((0, 0))])
    num_rows = sum(sizes)
    assert (table.num_rows, table.num_samples) == (num_rows, 1000)
    assert table.feature_dim == (DIM if num_rows else 0)
    np.testing.assert_array_equal(table.sample_indices, np.concatenate(indices))
    if data is None:
        start, stop, step = 0, num_rows, 2
    else:
        start = data.draw(st.integers(0, num_rows))
        stop = data.draw(st.integers(start, num_rows))
        step = data.draw(st.integers(1, 7))
    np.testing.assert_array_equal(table.read_rows(start, stop), expected[start:stop])
    chunks = list(table.chunks(start, stop, step))
    assert [first for first, _ in chunks] == list(range(start, stop, step))
    for first, rows in chunks:
        np.testing.assert_array_equal(rows, expected[first : min(first + step, stop)])


def test_rows_of_half_precision_are_read_as_float32(write_partition: WritePartition) -> None:
    rows = np.array([[1.5, -2.25]], np.float16)
    table = FeatureTable(write_partition([rows], [np.array([4])]))
    read = table.read_rows(0, 1)
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, [[1.5, -2.25]])
    assert (table.data_fingerprint, len(table.fingerprint)) == ("d" * 64, 64)


@pytest.mark.parametrize(("start", "stop"), [(0, 6), (-1, 3), (6, 7)])
def test_rows_that_are_not_there_are_no_rows_of_others(
    write_partition: WritePartition, start: int, stop: int
) -> None:
    table = FeatureTable(write_partition(*make_parts([2, 3])))
    with pytest.raises(IndexError):
        table.read_rows(start, stop)


@pytest.mark.parametrize("indices", [[[0, 1], [1, 2]], [[2, 3], [0, 1]], [[1, 0], [2, 3]]])
def test_parts_that_overlap_or_are_out_of_order_are_refused(
    write_partition: WritePartition, indices: list[list[int]]
) -> None:
    folder = write_partition([np.zeros((2, DIM), np.float32)] * 2, [np.array(i) for i in indices])
    with pytest.raises(InvalidDataError, match="overlap or are out of order"):
        FeatureTable(folder)


def test_a_partition_is_only_opened_when_it_is_finished_and_whole(
    write_partition: WritePartition, tmp_path: Path
) -> None:
    with pytest.raises(MissingInputError):
        FeatureTable(tmp_path)
    folder = write_partition(*make_parts([4, 4]))
    second = folder / part_name(1)
    second.write_bytes(second.read_bytes()[:-1])
    with pytest.raises(InvalidDataError, match=r"part-00001\.safetensors: .*run extract again"):
        FeatureTable(folder)
    second.unlink()
    with pytest.raises(InvalidDataError, match=r"part-00001\.safetensors: missing"):
        FeatureTable(folder)


def test_a_part_that_is_damaged_at_its_recorded_size_is_refused_when_read(
    write_partition: WritePartition,
) -> None:
    folder = write_partition(*make_parts([4]))
    path = folder / part_name(0)
    path.write_bytes(b"\xff" * path.stat().st_size)
    with pytest.raises(InvalidDataError, match=r"part-00000\.safetensors: damaged"):
        FeatureTable(folder)


@pytest.mark.parametrize("indices", [[-1, 0], [999, 1000]])
def test_rows_of_images_that_the_partition_does_not_have_are_refused(
    write_partition: WritePartition, indices: list[int]
) -> None:
    folder = write_partition([np.ones((2, DIM), np.float32)], [np.array(indices)])
    with pytest.raises(InvalidDataError, match="parts overlap or are out of order"):
        FeatureTable(folder)


def test_a_part_of_another_width_is_refused(write_partition: WritePartition) -> None:
    wide, narrow = np.ones((1, DIM), np.float32), np.ones((1, DIM - 1), np.float32)
    folder = write_partition([wide, narrow], [np.array([0]), np.array([1])])
    with pytest.raises(InvalidDataError, match=r"part-00001\.safetensors: damaged"):
        FeatureTable(folder)


@pytest.mark.parametrize("count", [None, -1, 1.5, True, "3"])
def test_a_manifest_without_the_counts_of_features_is_refused(
    write_partition: WritePartition, count: object
) -> None:
    path = write_partition(*make_parts([4])) / "manifest.json"
    content = json.loads(path.read_text())
    content["results"]["num_samples"] = count
    path.write_text(json.dumps(content))
    with pytest.raises(InvalidDataError, match=r"results\.num_samples is .*, want a count"):
        FeatureTable(path.parent)


def test_a_header_says_what_is_in_a_part_without_reading_it(tmp_path: Path) -> None:
    path = tmp_path / part_name(0)
    excluded = {7: "truncated", 9: 'a "quoted" reason\nin two lines'}
    write_part(path, np.ones((2, 5), np.float16), np.array([6, 8]), "f" * 64, excluded)
    header = read_part_header(path)
    assert header is not None
    assert (header.num_rows, header.feature_dim, header.fingerprint) == (2, 5, "f" * 64)
    assert header.excluded == excluded


def test_equal_parts_are_equal_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        excluded = {3: "why", 1: "why not"} if name == "a" else {1: "why not", 3: "why"}
        write_part(tmp_path / name, np.ones((1, 2), np.float16), np.array([0]), "f", excluded)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_part_without_a_readable_image_has_no_rows_and_all_the_reasons(tmp_path: Path) -> None:
    path = tmp_path / part_name(0)
    write_part(path, np.empty((0, 0), np.float32), np.empty(0, np.int64), "f", {0: "a", 1: "b"})
    header = read_part_header(path)
    assert header is not None
    assert (header.num_rows, header.excluded) == (0, {0: "a", 1: "b"})


def test_a_part_that_was_cut_anywhere_or_grew_is_not_a_part(tmp_path: Path) -> None:
    path = tmp_path / part_name(0)
    write_part(path, np.ones((2, 5), np.float32), np.array([0, 1]), "f" * 64, {})
    whole = path.read_bytes()
    assert read_part_header(path) is not None
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        assert read_part_header(path) is None, f"cut to {size} bytes"
    path.write_bytes(whole + b"\0")
    assert read_part_header(path) is None
    path.write_bytes(bytes(len(whole)))
    assert read_part_header(path) is None, "zeros, as a crashed file system leaves them"
    assert read_part_header(tmp_path / "none") is None


@pytest.mark.parametrize("num_rows", [0, 7])
def test_who_writes_a_part_knows_its_record_and_who_reads_it_finds_the_same(
    tmp_path: Path, num_rows: int
) -> None:
    path = tmp_path / part_name(0)
    rows = np.random.default_rng(0).normal(size=(num_rows, 5)).astype(np.float16)
    record = write_part(path, rows, np.arange(num_rows), "f" * 64, {9: "why"})
    assert (record.path, record.size) == (path.name, path.stat().st_size)
    assert record.sha256 == compute_sha256(path)
    assert check_part(path) == record
    assert check_part(tmp_path / "none") is None


def test_a_single_wrong_bit_in_any_number_of_a_part_is_seen(tmp_path: Path) -> None:
    path = tmp_path / part_name(0)
    write_part(path, np.ones((2, 5), np.float32), np.array([0, 1]), "f" * 64, {})
    whole = path.read_bytes()
    num_bytes = 2 * (5 * 4 + 8)
    for position in range(len(whole) - num_bytes, len(whole)):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 4]) + whole[position + 1 :])
        assert read_part_header(path) is not None
        assert check_part(path) is None, position


def with_header(header: object) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"text, not a part at all",
        struct.pack("<Q", 2**63) + b"{}",
        with_header([]),
        with_header({}),
        with_header({"features": {"shape": [1, 1]}}),
        save({"features": np.ones((1, 1)), "sample_indices": np.zeros(1, np.int64)}),
        save(
            {"features": np.ones((1, 1)), "sample_indices": np.zeros(1, np.int64)},
            metadata={"clusterfit": '{"fingerprint": "f", "excluded": []}'},
        ),
        save(
            {"features": np.ones((1, 1), np.int16), "sample_indices": np.zeros(1, np.int64)},
            metadata={"clusterfit": '{"fingerprint": "f", "excluded": {}}'},
        ),
        save(
            {"features": np.ones((1, 1), np.float16), "sample_indices": np.zeros(1, np.uint64)},
            metadata={"clusterfit": '{"fingerprint": "f", "excluded": {}}'},
        ),
        with_header({"features": {"data_offsets": [0]}, "sample_indices": {"data_offsets": [0]}}),
        save(
            {"features": np.ones(1), "sample_indices": np.zeros(1, np.int64)},
            metadata={"clusterfit": '{"fingerprint": "f", "excluded": {}}'},
        ),
        save(
            {"features": np.ones((2, 1)), "sample_indices": np.zeros(1, np.int64)},
            metadata={"clusterfit": '{"fingerprint": "f", "excluded": {}}'},
        ),
    ],
)
def test_what_is_not_a_part_of_ours_is_none(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / part_name(0)
    path.write_bytes(content)
    assert read_part_header(path) is None
