"""Toy-sized features in a folder of the test's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import data, measure
from benchmarks.data import Data, open_features

TOY = Data("relu", 900, 96)


@pytest.fixture(scope="session")
def toy_features(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of 900 x 96 synthetic features."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data, "FOLDER", tmp_path_factory.mktemp("features"))
        return open_features(TOY)


@pytest.fixture
def toy_folders(tmp_path: Path, toy_features: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let features, outcomes and results be the test's; return the folder of results."""
    monkeypatch.setattr(data, "FOLDER", toy_features.parent)
    monkeypatch.setattr(measure, "OUTCOMES", tmp_path / "outcomes")
    return tmp_path / "results"
