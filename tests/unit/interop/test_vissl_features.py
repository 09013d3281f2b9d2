"""VISSL's feature chunks come back in the data set's order, and mixed runs are noticed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from clusterfit.errors import InvalidDataError, MissingInputError
from clusterfit.interop.vissl_features import VisslFeatures, list_feature_layers

NUM_SAMPLES, FEATURE_DIM = 41, 6


def make_features(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((NUM_SAMPLES, FEATURE_DIM)).astype(np.float32)


def write_run(
    folder: Path,
    features: np.ndarray,
    num_ranks: int = 3,
    rows_per_chunk: int = 5,
    dtype: type[np.floating] = np.float32,
    seed: int = 0,
) -> None:
    """Write features as VISSL does: a shuffled, padded sampler, then chunks sorted by index."""
    folder.mkdir(exist_ok=True)
    order = np.random.default_rng(seed).permutation(len(features))
    padded = np.concatenate([order, order[: -len(order) % num_ranks]])
    for rank in range(num_ranks):
        mine = padded[rank::num_ranks]
        for number in range(-(-len(mine) // rows_per_chunk)):
            rows = np.sort(mine[number * rows_per_chunk : (number + 1) * rows_per_chunk])
            stem = folder / f"rank{rank}_chunk{number}_train_res5avg"
            np.save(f"{stem}_features.npy", features[rows].astype(dtype))
            np.save(f"{stem}_inds.npy", rows)
            np.save(f"{stem}_targets.npy", (rows * 10).reshape(-1, 1))


def open_run(folder: Path, num_samples: int | None = NUM_SAMPLES) -> VisslFeatures:
    return VisslFeatures(folder, "train", "res5avg", num_samples)


def refusal_of(folder: Path, num_samples: int | None = NUM_SAMPLES) -> str:
    with pytest.raises(InvalidDataError) as caught:
        open_run(folder, num_samples)
    return str(caught.value)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize(("num_ranks", "rows_per_chunk"), [(1, 100), (1, 7), (3, 5), (7, 2)])
def test_rows_come_in_the_data_sets_order(
    tmp_path: Path, dtype: type[np.floating], num_ranks: int, rows_per_chunk: int
) -> None:
    features = make_features()
    write_run(tmp_path / "run", features, num_ranks, rows_per_chunk, dtype)
    for num_samples in (NUM_SAMPLES, None):
        run = open_run(tmp_path / "run", num_samples)
        assert (run.num_samples, run.feature_dim) == (NUM_SAMPLES, FEATURE_DIM)
        assert run.num_duplicates == -NUM_SAMPLES % num_ranks
        wanted = features.astype(dtype).astype(np.float32)
        got = np.concatenate([run.read(np.arange(start, start + 1)) for start in range(10)])
        assert got.dtype == np.float32
        np.testing.assert_array_equal(got, wanted[:10])
        np.testing.assert_array_equal(run.read(np.arange(7, NUM_SAMPLES)), wanted[7:])
        targets = run.read_targets()
        assert targets is not None
        np.testing.assert_array_equal(targets, np.arange(NUM_SAMPLES) * 10)


def test_maps_are_flattened_and_targets_may_be_absent(tmp_path: Path) -> None:
    features = np.random.default_rng(0).random((4, 2, 3, 3)).astype(np.float32)
    np.save(tmp_path / "rank0_chunk0_test_res5_features.npy", features)
    np.save(tmp_path / "rank0_chunk0_test_res5_inds.npy", np.array([3, 1, 0, 2]))
    run = VisslFeatures(tmp_path, "TEST", "res5")
    np.testing.assert_array_equal(run.read(np.arange(0, 4)), features[[2, 1, 3, 0]].reshape(4, 18))
    assert run.read_targets() is None


def test_one_file_a_rank_as_vissl_wrote_until_2021(tmp_path: Path) -> None:
    features = make_features()
    write_run(tmp_path, features, rows_per_chunk=100)
    for path in tmp_path.iterdir():
        path.rename(path.with_name(path.name.replace("_chunk0", "")))
    assert list_feature_layers(tmp_path, "train") == ["res5avg"]
    run = open_run(tmp_path)
    np.testing.assert_array_equal(run.read(np.arange(NUM_SAMPLES)), features)
    assert all(path.exists() for path in run.files)
    write_run(tmp_path, features, rows_per_chunk=100)
    assert "they are of several versions of VISSL" in refusal_of(tmp_path)


def test_a_smaller_run_over_a_larger_one_is_noticed(tmp_path: Path) -> None:
    """Four ranks write over a run of eight: the chunks of ranks 4 to 7 stay."""
    write_run(tmp_path, make_features(0), num_ranks=8)
    write_run(tmp_path, make_features(1), num_ranks=4, seed=1)
    assert "chunks of several runs are mixed" in refusal_of(tmp_path)


def test_fewer_chunks_over_more_are_noticed(tmp_path: Path) -> None:
    write_run(tmp_path, make_features(0), num_ranks=2, rows_per_chunk=3)
    write_run(tmp_path, make_features(0), num_ranks=2, rows_per_chunk=20)
    assert "chunks of several runs are mixed" in refusal_of(tmp_path)


def test_one_differing_duplicate_is_enough(tmp_path: Path) -> None:
    write_run(tmp_path, make_features(), num_ranks=3)
    open_run(tmp_path)
    for path in sorted(tmp_path.glob("rank2_*_inds.npy")):
        indices = np.load(path)
        features_path = path.with_name(path.name.replace("_inds", "_features"))
        np.save(features_path, make_features(5)[indices])
    message = refusal_of(tmp_path)
    assert "has different features in rank" in message


def test_rounding_is_no_difference(tmp_path: Path) -> None:
    write_run(tmp_path, make_features(), num_ranks=3)
    for path in tmp_path.glob("rank2_*_features.npy"):
        np.save(path, np.load(path) * np.float32(1.001))
    open_run(tmp_path)


def test_other_shapes_or_types_are_mixed_runs(tmp_path: Path) -> None:
    write_run(tmp_path, make_features())
    path = tmp_path / "rank1_chunk1_train_res5avg_features.npy"
    original = np.load(path)
    for other in (original[:, :4], original.astype(np.float64)):
        np.save(path, other)
        assert "are mixed; remove those of the older run" in refusal_of(tmp_path)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ("remove rank1_chunk0", "chunk 0 of rank 1 missing"),
        ("remove rank0_", "rank 0 missing"),
        ("remove rank2_chunk2", "images have no features"),
    ],
)
def test_missing_chunks(tmp_path: Path, damage: str, said: str) -> None:
    write_run(tmp_path, make_features())
    for path in tmp_path.glob(f"{damage.removeprefix('remove ')}*"):
        path.unlink()
    assert said in refusal_of(tmp_path)


def test_another_data_set(tmp_path: Path) -> None:
    write_run(tmp_path, make_features())
    assert "the data set has 40: they are of another data set" in refusal_of(tmp_path, 40)
    assert "1 of 42 images have no features, the first is image 41" in refusal_of(tmp_path, 42)


def test_damaged_arrays(tmp_path: Path) -> None:
    write_run(tmp_path, make_features())
    stem = tmp_path / "rank1_chunk1_train_res5avg"
    indices = np.load(f"{stem}_inds.npy")
    np.save(f"{stem}_inds.npy", indices[:-1])
    assert "5 rows, but rank1_chunk1_train_res5avg_inds.npy has 4" in refusal_of(tmp_path)
    np.save(f"{stem}_inds.npy", indices.astype(np.float32))
    assert "want integers" in refusal_of(tmp_path)
    np.save(f"{stem}_inds.npy", np.array([None] * 5), allow_pickle=True)
    assert "_inds.npy" in refusal_of(tmp_path)
    np.save(f"{stem}_inds.npy", indices)
    targets = np.load(f"{stem}_targets.npy")
    for wrong in (targets[0, 0], targets.astype(str)):
        np.save(f"{stem}_targets.npy", wrong)
        assert "_targets.npy: " in refusal_of(tmp_path)
    np.save(f"{stem}_targets.npy", targets)
    np.save(f"{stem}_features.npy", np.zeros((5, 6), np.int64))
    assert "want floats of shape (n, D)" in refusal_of(tmp_path)
    path = Path(f"{stem}_features.npy")
    path.write_bytes(path.read_bytes()[:-8])
    assert str(path) in refusal_of(tmp_path)


def test_values_that_are_not_finite_are_named_by_image(tmp_path: Path) -> None:
    features = make_features()
    features[17, 2] = np.nan
    write_run(tmp_path, features)
    run = open_run(tmp_path)
    run.read(np.arange(0, 17))
    with pytest.raises(InvalidDataError, match="the features of image 17 are not all finite"):
        run.read(np.arange(10, 30))


def test_many_labels_an_image(tmp_path: Path) -> None:
    write_run(tmp_path, make_features())
    for path in tmp_path.glob("*_targets.npy"):
        np.save(path, np.zeros((len(np.load(path)), 20)))
    with pytest.raises(InvalidDataError, match="20 labels an image, want one"):
        open_run(tmp_path).read_targets()


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match="no such folder"):
        open_run(tmp_path / "nowhere")
    with pytest.raises(MissingInputError, match="it has no features"):
        open_run(tmp_path)
    write_run(tmp_path, make_features())
    with pytest.raises(MissingInputError, match="there are features of train_res5avg"):
        VisslFeatures(tmp_path, "train", "res4")


def test_a_rank_that_had_no_images_has_written_no_rows(tmp_path: Path) -> None:
    write_run(tmp_path, make_features(), num_ranks=1)
    stem = tmp_path / "rank1_chunk0_train_res5avg"
    np.save(f"{stem}_features.npy", np.zeros((0, FEATURE_DIM), np.float32))
    np.save(f"{stem}_inds.npy", np.zeros(0, np.int64))
    assert open_run(tmp_path).num_samples == NUM_SAMPLES
