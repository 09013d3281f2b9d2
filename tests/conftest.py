"""What all tests share: hypothesis draws the same examples each time and knows no deadline."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

from tests.chance import draw_seed

# Before torch is loaded. Tests run side by side on all cores: a thread that waits must not spin.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

settings.register_profile(
    "clusterfit",
    deadline=None,
    derandomize=True,
    database=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.load_profile("clusterfit")


def pytest_report_header() -> str:
    """Tell the seed of the campaigns; a new one is drawn before other processes are started."""
    return f"campaigns: CLUSTERFIT_CAMPAIGN_SEED={draw_seed()}"
