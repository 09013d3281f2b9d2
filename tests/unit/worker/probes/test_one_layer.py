"""Probes of frozen features against scikit-learn and numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from clusterfit.artifacts.dataset import Samples
from clusterfit.worker.context import Context
from clusterfit.worker.distenv import DistEnv
from clusterfit.worker.probes.features import LabelledFeatures
from clusterfit.worker.probes.images import LabelledImages
from clusterfit.worker.probes.logistic import probe_linear
from clusterfit.worker.probes.neighbors import vote_neighbors
from clusterfit.worker.probes.one_layer import choose_labelled

NUM_CLASSES = 4


def draw(seed: int, num_rows: int, spread: float) -> LabelledFeatures:
    """Return overlapping classes in ten dimensions of very different scales, one constant."""
    random = np.random.default_rng(seed)
    means = np.random.default_rng(0).normal(size=(NUM_CLASSES, 10))
    labels = random.integers(NUM_CLASSES, size=num_rows)
    rows = means[labels] + spread * random.normal(size=(num_rows, 10))
    rows = rows * 10.0 ** np.arange(-4, 6) + 1000 * 10.0 ** np.arange(-4, 6)
    rows[:, 3] = 7
    return LabelledFeatures(
        torch.from_numpy(rows.astype(np.float32)),
        torch.from_numpy(labels),
        torch.arange(num_rows),
    )


@pytest.mark.parametrize("l2_penalty", [1e-3, 1e-1])
def test_the_linear_probe_is_scikit_learns_logistic_regression(
    env: DistEnv, l2_penalty: float
) -> None:
    """scikit-learn minimises C * sum + norm / 2; ours is mean + l2 * norm / 2, so C = 1/(l2 n)."""
    train, val = draw(1, 300, 1.5), draw(2, 2000, 1.5)
    scaler = StandardScaler().fit(train.features.numpy().astype(np.float64))
    regression = LogisticRegression(C=1 / (l2_penalty * 300), max_iter=5000, tol=1e-8)
    regression.fit(scaler.transform(train.features.numpy().astype(np.float64)), train.labels)
    expected = regression.score(
        scaler.transform(val.features.numpy().astype(np.float64)), val.labels
    )
    accuracy = probe_linear(train, val, NUM_CLASSES, l2_penalty, env)
    assert 0.4 < expected < 0.9
    assert accuracy == pytest.approx(expected, abs=2 / 2000)


def test_a_class_without_rows_is_never_predicted(env: DistEnv) -> None:
    train, val = draw(1, 200, 0.3), draw(2, 200, 0.3)
    without = torch.nonzero(train.labels != 2).flatten()
    fewer = LabelledFeatures(train.features[without], train.labels[without], without)
    expected = float((val.labels != 2).float().mean())
    assert probe_linear(fewer, val, NUM_CLASSES, 1e-3, env) <= expected + 1e-9


def vote(
    train: LabelledFeatures, val: LabelledFeatures, neighbors: int, temperature: float
) -> float:
    """Return the accuracy of the same vote, in float64 and one query at a time."""
    rows, queries = (
        part.features.numpy().astype(np.float64)
        / np.linalg.norm(part.features.numpy().astype(np.float64), axis=1, keepdims=True)
        for part in (train, val)
    )
    labels = train.labels.numpy()
    hits = 0
    for query, label in zip(queries, val.labels.numpy(), strict=True):
        similarities = rows @ query
        nearest = np.argsort(-similarities)[:neighbors]
        weights = np.exp((similarities[nearest] - similarities.max()) / temperature)
        votes = np.bincount(labels[nearest], weights, minlength=NUM_CLASSES)
        hits += int(votes.argmax() == label)
    return hits / len(queries)


def directions(seed: int, num_rows: int) -> LabelledFeatures:
    features = draw(seed, num_rows, 1.5)
    scaled = (features.features / 10.0 ** torch.arange(-4, 6) - 1000) * torch.ones(10)
    scaled[:, 3] = 0
    return LabelledFeatures(scaled.float(), features.labels, features.sample_indices)


@pytest.mark.parametrize(
    ("neighbors", "temperature"), [(1, 0.07), (20, 0.07), (20, 1000.0), (20, 0.002), (500, 0.1)]
)
def test_the_neighbours_vote_as_numpy_counts_them(
    env: DistEnv, neighbors: int, temperature: float
) -> None:
    """500 neighbours are more than there are; at 0.002 exp(1 / temperature) is beyond float32."""
    train, val = directions(1, 300), directions(2, 1500)
    expected = vote(train, val, neighbors, temperature)
    accuracy = vote_neighbors(train, val, NUM_CLASSES, neighbors, temperature, env)
    assert 0.3 < expected < 0.9
    assert accuracy == pytest.approx(expected, abs=1.5 / 1500)


def test_labelled_images_are_drawn_among_those_that_can_be_read(context: Context) -> None:
    labels = np.array([0, 1] * 6)
    images = LabelledImages(context, "train", Samples(("x",) * 12, labels, ()))
    before = choose_labelled(images, 4, seed=1)
    assert np.bincount(labels[before]).tolist() == [4, 4]
    images.unreadable = dict.fromkeys(before[:5].tolist(), "why")
    chosen = choose_labelled(images, 4, seed=1)
    assert not {*chosen.tolist()} & {*images.unreadable}
    left = np.bincount(np.delete(labels, list(images.unreadable)), minlength=2)
    assert np.bincount(labels[chosen], minlength=2).tolist() == np.minimum(left, 4).tolist()
    assert torch.equal(chosen, choose_labelled(images, 4, seed=1))
