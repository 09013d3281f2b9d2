"""The run file that an import writes: each value with the key of VISSL's that it comes from."""

from __future__ import annotations

import textwrap
from typing import Final

from clusterfit.config.provenance import KeyPath
from clusterfit.config.writer import format_yaml
from clusterfit.interop.vissl_config.reading import Outcome, Reading
from clusterfit.interop.vissl_config.source import Source

_WIDTH: Final = 96

_FIXED: Final = {
    "extract.dtype": "as VISSL writes them; float16 takes half the space",
    "cluster.init": "as faiss starts; without engine and init: clusterfit's own engine",
    "platform.stages.cluster.processesPerNode": "faiss drives a node's GPUs from one process",
    "cluster.normalize": "VISSL always divides rows by their L2 norm",
}
"""Why a setting is what it is where no key of VISSL's says so."""


def format_run_file(reading: Reading, source: Source, purpose: str) -> str:
    """Return the text of a run file, with its reasons as comments."""
    files = " + ".join(file.name for file in source.files)
    overrides = "".join(f"\n#   {override}" for override in source.overrides)
    head = (
        f"# From VISSL's {files} ({purpose})"
        + (f", with{overrides}\n" if overrides else ".\n")
        + "# What is not given here keeps clusterfit's default; to see every value:\n"
        "#   clusterfit config show --origin -f FILE\n\n"
    )

    said: set[str] = set()

    def explain_once(path: KeyPath) -> list[str]:
        """Return why a setting differs, unless the settings before it had the same reason."""
        verdict = reading.reason_for(".".join(map(str, path)))
        if verdict is None or not verdict.reason or verdict.reason in said:
            return []
        said.add(verdict.reason)
        sentence = f"{verdict.reason[0].upper()}{verdict.reason[1:]}."
        return textwrap.wrap(sentence, _WIDTH - 4 - 2 * len(path), break_on_hyphens=False)

    def above(path: KeyPath) -> list[str]:
        if len(path) == 1 and path[0] in {
            "data", "inputs", "pretext", "extract", "cluster", "train", "evaluate", "platform",
        }:  # fmt: skip
            return ["", *explain_once(path)]
        return explain_once(path)

    def beside(path: KeyPath) -> str:
        ours = ".".join(map(str, path))
        verdict = reading.reason_for(ours)
        if verdict is None:
            return _FIXED.get(ours, "")
        if verdict.outcome is Outcome.DEFAULT:
            return f"VISSL's default of {verdict.key.partition(':')[0]}"
        return verdict.key

    return head + format_yaml(reading.run_file().plain(), above=above, beside=beside)
