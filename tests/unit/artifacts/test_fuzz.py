"""A run directory with wrong bytes: each reader gives what was written, or one of our errors."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from clusterfit.artifacts.dataset import Samples, read_fingerprint, read_samples, write_samples
from clusterfit.artifacts.layout import RunDirectory
from clusterfit.artifacts.manifest import Identity, is_finished, write_manifest
from clusterfit.artifacts.part import part_name, read_part_header, write_part
from clusterfit.artifacts.parts import FeatureTable
from clusterfit.artifacts.verify import find_faults, list_artifacts
from tests.chance import damage, draw_cases, find_own_error

pytestmark = pytest.mark.campaign

EXIT_CODES = {65, 66}
IDENTITY = Identity(
    "extract", {"layer": "l", "weights": {"keys": [1, 2]}}, {"data.train": "d" * 64}
)
NUM_SAMPLES = 20
ROWS = np.random.default_rng(0).normal(size=(NUM_SAMPLES, 4)).astype(np.float16)
PATHS = tuple(f"a/{number}.png" for number in range(NUM_SAMPLES))
LABELS = np.arange(NUM_SAMPLES) % 3


@pytest.fixture
def run(run_directory: RunDirectory) -> RunDirectory:
    """A listing, and two parts of features with their manifest."""
    write_samples(run_directory.data("train"), Samples(PATHS, LABELS, ("a", "b", "c")))
    folder = run_directory.features("l", "train")
    for number, indices in enumerate(np.split(np.arange(NUM_SAMPLES), 2)):
        path = folder / part_name(number)
        write_part(path, ROWS[indices], indices, IDENTITY.fingerprint, {})
    results = {"num_samples": NUM_SAMPLES, "num_rows": NUM_SAMPLES, "feature_dim": ROWS.shape[1]}
    write_manifest(folder, IDENTITY, [part_name(0), part_name(1)], results, {"numpy": "2"})
    return run_directory


def test_damaged_artifacts_are_refused_with_our_errors(run: RunDirectory) -> None:
    data, features = run.data("train"), run.features("l", "train")

    def check_samples() -> None:
        samples = read_samples(data)
        assert samples.paths == PATHS
        assert samples.labels is not None
        np.testing.assert_array_equal(samples.labels, LABELS)

    def check_features() -> None:
        table = FeatureTable(features)
        assert table.read_rows(0, table.num_rows).shape == (table.num_rows, table.feature_dim)
        assert table.num_rows <= table.num_samples

    readers: list[Callable[[], object]] = [
        check_samples,
        check_features,
        lambda: read_fingerprint(data),
        lambda: [read_part_header(features / part_name(number)) for number in range(2)],
        lambda: is_finished(features, IDENTITY),
        lambda: [artifact.size_bytes for artifact in list_artifacts(run)],
    ]
    originals = {path: path.read_bytes() for path in sorted(run.root.rglob("*")) if path.is_file()}
    num_refused = 0
    for label, chance in draw_cases("artifact", 4000):
        path = chance.choice(list(originals))
        is_json = path.suffix == ".json" and chance.random() < 0.5
        content = (
            _damage_json(originals[path], chance) if is_json else damage(originals[path], chance)
        )
        path.write_bytes(content)
        for read in readers:
            error = find_own_error(f"{label}, {path.name}", read)
            assert error is None or error.exit_code in EXIT_CODES, label
            num_refused += error is not None
        if path.suffix == ".safetensors" and content != originals[path]:
            assert list(find_faults(run)), f"{label}: verify does not see it"
        path.write_bytes(originals[path])
    assert num_refused > 1000
    assert list(find_faults(run)) == []


def _damage_json(content: bytes, chance: random.Random) -> bytes:
    """Return a JSON object with a value or two replaced or left out."""
    value = json.loads(content)
    places: list[tuple[Any, Any]] = []
    pending = [value]
    while pending:
        node = pending.pop()
        keys = list(node) if isinstance(node, dict) else range(len(node))
        places += [(node, key) for key in keys]
        pending += [node[key] for key in keys if isinstance(node[key], dict | list)]
    node, key = chance.choice(places)
    if isinstance(node, dict) and chance.random() < 0.3:
        del node[key]
    else:
        others: list[Any] = [None, -1, 1.5, "", [], {}, [[]], True, "../x", 10**30, "a\0b"]
        node[key] = chance.choice(others)
    return json.dumps(value).encode()
