"""Measure, judge and write: `python -m benchmarks --help`."""

from __future__ import annotations

import argparse

from benchmarks.cases import CASES, find_case
from benchmarks.measure import Results, judge_outcomes, measure


def main() -> None:
    """Do one of list, run, measure, judge, write and check."""
    names = [case.name for case in CASES]
    parser = argparse.ArgumentParser("python -m benchmarks", description=__doc__)
    parser.add_argument("action", choices=["list", "run", "measure", "judge", "write", "check"])
    parser.add_argument("--cases", default=",".join(names), help="comma-separated")
    parser.add_argument("--sides", default="", help="comma-separated; all by default")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--fresh", action="store_true", help="forget what was measured before")
    arguments = parser.parse_args()
    chosen = [name for name in arguments.cases.split(",") if name]
    if unknown := sorted(set(chosen) - set(names)):
        parser.error(f"--cases: got {', '.join(unknown)}, want some of {', '.join(names)}")
    if arguments.action == "list":
        for case in CASES:
            print(f"{case.name:14} {case.data.name} K={case.num_clusters}: "
                  + ", ".join(side.name for side in case.sides))  # fmt: skip
        return
    sides = frozenset(side for side in arguments.sides.split(",") if side)
    for name in chosen:
        if arguments.fresh:
            Results(name).path.unlink(missing_ok=True)
        if arguments.action in {"run", "measure"}:
            measure(find_case(name), arguments.rounds, sides)
        if arguments.action in {"run", "judge"}:
            judge_outcomes(find_case(name))


if __name__ == "__main__":
    main()
