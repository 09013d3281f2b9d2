"""Measure, judge and write: `python -m benchmarks --help`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from typing import Final

from benchmarks import distributed, gpu, larger_than_memory
from benchmarks.cases import CASES, Case
from benchmarks.loading_table import LOADING
from benchmarks.measure import Results, judge_outcomes, measure

_OTHERS: Final[Mapping[str, tuple[Case, Callable[[int], None]]]] = {
    "distributed": (distributed.CASE, distributed.measure_distributed),
    "memory": (larger_than_memory.CASE, larger_than_memory.measure_memory),
    "gpu": (gpu.CASE, gpu.measure_gpu),
}
_COMMON: Final = {case.name: case for case in CASES}
NAMES: Final = (*_COMMON, *_OTHERS, LOADING)


def main() -> None:
    """Do what the first argument says."""
    parser = argparse.ArgumentParser("python -m benchmarks", description=__doc__)
    actions = parser.add_argument
    actions(
        "action",
        choices=["list", "run", "measure", "judge", "compare", "options", "write", "check"],
        help="run: measure, judge and write; compare: synthetic features with real ones; "
        "options: what relaxation and candidates are worth; "
        "check: whether docs/benchmarks.md is what the results say",
    )
    parser.add_argument("--cases", default=",".join(NAMES), help="comma-separated")
    parser.add_argument("--sides", default="", help="of the common cases, comma-separated")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--fresh", action="store_true", help="forget what was measured before")
    arguments = parser.parse_args()
    chosen = [name for name in arguments.cases.split(",") if name]
    if unknown := sorted(set(chosen) - set(NAMES)):
        parser.error(f"--cases: got {', '.join(unknown)}, want some of {', '.join(NAMES)}")
    if arguments.rounds < 1:
        parser.error(f"--rounds: got {arguments.rounds}, want >= 1")
    sides = frozenset(side for side in arguments.sides.split(",") if side)
    match arguments.action:
        case "list":
            _list()
        case "compare":
            from benchmarks.likeness import compare_features

            compare_features()
        case "options":
            from benchmarks.options import compare_options

            compare_options(chosen)
        case "write" | "check":
            sys.exit(_report(arguments.action))
        case action:
            for name in chosen:
                _take(name, action, arguments.rounds, sides, arguments.fresh)
            if action == "run":
                _report("write")


def _take(name: str, action: str, num_rounds: int, sides: frozenset[str], is_fresh: bool) -> None:
    if is_fresh:
        Results(name).path.unlink(missing_ok=True)
    if name == LOADING:  # it has no outcome to judge
        if action in {"run", "measure"}:
            from benchmarks.loading import measure_loading

            measure_loading(num_rounds)
        return
    if action in {"run", "measure"}:
        if name in _COMMON:
            measure(_COMMON[name], num_rounds, sides)
        else:
            _OTHERS[name][1](num_rounds)
    if action in {"run", "judge"} and Results(name).path.exists():
        judge_outcomes(_COMMON.get(name) or _OTHERS[name][0])


def _list() -> None:
    for name in (*_COMMON, *_OTHERS):
        case = _COMMON.get(name) or _OTHERS[name][0]
        print(f"{name}: {case.data.name}, K={case.num_clusters}")
        for side in case.sides:
            print(f"    {side.name}: " + "; ".join(attempt.label for attempt in side.attempts))
    print(f"{LOADING}: what becomes of a JPEG file before a network sees it")


def _report(action: str) -> int:
    from benchmarks.report import find_stale, write

    if action == "write":
        write()
        return 0
    stale = find_stale()
    for path in stale:
        print(f"{path}: not what benchmarks/results say; run python -m benchmarks write")
    return 1 if stale else 0


if __name__ == "__main__":
    main()
