"""A run file that every test may change, and the real Helm to render it with."""

from __future__ import annotations

import pytest

from clusterfit.launch.charts import RUN_CHART, find_chart
from clusterfit.launch.helm import HelmLibrary, Values
from clusterfit.launch.manifests import Manifest, read_manifests

from .rendering import Render


@pytest.fixture
def values() -> Values:
    return {
        "formatVersion": 1,
        "name": "digits",
        "stages": ["pretext", "extract", "cluster", "train"],
        "platform": {"gpus": 16, "gpusPerNode": 8},
    }


@pytest.fixture(scope="session")
def helm() -> HelmLibrary:
    return HelmLibrary()


@pytest.fixture(scope="session")
def render(helm: HelmLibrary) -> Render:
    """Render raw values, as bare Helm does: nothing of ours has looked at them."""

    def render_values(values: Values, release: str = "release") -> list[Manifest]:
        text = helm.render(find_chart(RUN_CHART), release, "somewhere", values)
        return read_manifests(text)

    return render_values
