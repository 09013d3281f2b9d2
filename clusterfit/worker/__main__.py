"""`python -m clusterfit.worker STAGE`: what a pod, or `clusterfit run`, starts."""

from __future__ import annotations

import sys

from clusterfit.worker.entry.main import main

sys.exit(main())
