"""Write k8s/manifests: the example run files as objects, for people who only have kubectl.

Run: .venv/bin/python scripts/write_manifests.py [--check]
"""

from __future__ import annotations

import sys
from pathlib import Path

from clusterfit.launch.helm import HelmLibrary
from clusterfit.launch.manifests import write_manifests
from clusterfit.launch.render import render_run
from clusterfit.launch.submission import GPUS_FROM_FILE, load_submission

ROOT = Path(__file__).parents[1]
TARGET = ROOT / "k8s" / "manifests"
NAMESPACE = "clusterfit"
EXAMPLES = {
    **{
        f"imagenet-{step}-{gpus}gpu": ("imagenet", step, gpus)
        for step in ("step1", "step2", "pipeline")
        for gpus in (1, 8, 32)
    },
    "rotnet-pipeline-32gpu": ("rotnet", "pipeline", 32),
    "digits-pipeline": ("digits", "pipeline", GPUS_FROM_FILE),
}


def render_examples() -> dict[Path, str]:
    """Return what every file is to hold."""
    return {
        TARGET / f"{name}.yaml": write_manifests(
            render_run(
                HelmLibrary(),
                load_submission(step, [ROOT / "examples" / f"{example}.yaml"], (), gpus),
                NAMESPACE,
            ).manifests
        )
        for name, (example, step, gpus) in EXAMPLES.items()
    }


def main() -> int:
    """Write the files, or with --check name those that differ."""
    fresh = render_examples()
    surplus = set(TARGET.glob("*.yaml")) - fresh.keys()
    if sys.argv[1:] == ["--check"]:
        stale = [
            path for path, text in fresh.items() if not path.exists() or path.read_text() != text
        ]
        for path in sorted([*stale, *surplus]):
            print(
                f"{path.relative_to(ROOT)}: not what the chart renders; run {Path(__file__).name}"
            )
        return 1 if stale or surplus else 0
    TARGET.mkdir(parents=True, exist_ok=True)
    for path in surplus:
        path.unlink()
    for path, text in fresh.items():
        path.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
