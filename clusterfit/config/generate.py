"""Everything that is generated from the tree, and the command that writes or checks it.

`python -m clusterfit.config.generate` writes the files; with `--check` it only says, with exit
code 1, which ones differ from what would be written.
"""

from __future__ import annotations

import argparse
import difflib
import sys
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from clusterfit.config.provenance import KeyPath
from clusterfit.config.reference import build_reference
from clusterfit.config.schema import (
    build_values_schema,
    default_values,
    find_schema,
    format_schema,
    walk_leaves,
)
from clusterfit.config.wording import describe_wanted
from clusterfit.config.writer import format_yaml

_COMMENT_WIDTH: Final = 96
_VALUES_HEAD: Final = """\
# Every setting and its default. A run file is laid over this file: helm install -f run.yaml.
# Generated from clusterfit/config by `python -m clusterfit.config.generate`: do not edit.
"""


def build_values() -> str:
    """Return the chart's values.yaml: every default, each below its documentation."""
    text = _VALUES_HEAD
    for leaf in walk_leaves():
        if not leaf.has_default:
            wanted = describe_wanted(leaf.schema)
            comment = [*_comment_above(leaf.path), f"Must be given: {wanted}."]
            text += "\n" + "".join(f"# {line}\n" for line in comment)
            text += f"# {leaf.path[-1]}:\n"
    return text + format_yaml(default_values(), above=_comment_above_spaced)


def build_values_schema_text() -> str:
    """Return the chart's values.schema.json."""
    return format_schema(build_values_schema())


GENERATED_FILES: Final[dict[str, Callable[[], str]]] = {
    "charts/clusterfit/values.yaml": build_values,
    "charts/clusterfit/values.schema.json": build_values_schema_text,
    "docs/reference/run-file.md": build_reference,
}
"""Paths from the repository's root, and what each file holds."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the generated files, or check them; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m clusterfit.config.generate",
        description="Write the files that are generated from the run file's tree.",
    )
    parser.add_argument("--check", action="store_true", help="only say which files are stale")
    parser.add_argument(
        "--root", type=Path, default=Path.cwd(), help="the repository (default: this folder)"
    )
    options = parser.parse_args(arguments)
    stale = 0
    for name, build in GENERATED_FILES.items():
        path = options.root / name
        fresh = build().encode()
        if options.check:
            stale += _report_difference(name, path, fresh)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(fresh)
    if stale:
        sys.stderr.write("run `python -m clusterfit.config.generate` and commit what it writes\n")
    return 1 if stale else 0


def _report_difference(name: str, path: Path, fresh: bytes) -> bool:
    """Print how a file differs from its fresh text; return whether it does."""
    found = path.read_bytes() if path.is_file() else b""
    if found == fresh:
        return False
    difference = difflib.unified_diff(
        found.decode(errors="replace").splitlines(keepends=True),
        fresh.decode().splitlines(keepends=True),
        f"{name} (as it is)",
        f"{name} (as generated)",
    )
    sys.stderr.writelines(difference)
    return True


def _comment_above_spaced(path: KeyPath) -> list[str]:
    """Set sections of the top apart by an empty line."""
    return ["", *_comment_above(path)] if len(path) == 1 else _comment_above(path)


def _comment_above(path: KeyPath) -> list[str]:
    schema = find_schema(path)
    description = schema.get("description", "") if schema else ""
    return textwrap.wrap(description, _COMMENT_WIDTH - 2 * len(path))


if __name__ == "__main__":
    sys.exit(main())
