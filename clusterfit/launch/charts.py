"""Where the charts are: inside the installed package, or beside it in a checkout."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import clusterfit

RUN_CHART: Final = "clusterfit"
"""One submission of a run."""

STORAGE_CHART: Final = "clusterfit-storage"
"""The shared claim."""

OLDEST_KUBERNETES: Final = "1.29.0"
"""The least that the charts' kubeVersion takes."""


def find_chart(name: str) -> Path:
    """Return the folder of a chart.

    Helm reads charts from a folder, so the package must lie on a file system, as pip puts it.
    """
    package = Path(clusterfit.__file__).parent
    for charts in (package / "charts", package.parent / "charts"):
        if (charts / name / "Chart.yaml").is_file():
            return charts / name
    raise FileNotFoundError(f"chart {name} is missing from {package}: the package is incomplete")
