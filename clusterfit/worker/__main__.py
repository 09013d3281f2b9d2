"""`python -m clusterfit.worker STAGE`: what a pod, or `clusterfit run`, starts."""

from __future__ import annotations

import os
import sys

from clusterfit.worker.entry.nproc import limit_threads

limit_threads(os.environ)

from clusterfit.worker.entry.main import main  # noqa: E402 - it loads numpy

sys.exit(main())
