"""docs/benchmarks.md and its plots, from the committed results: the same bytes each time."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from benchmarks import pages
from benchmarks.analysis import (
    TARGET_SIDE,
    find_targets,
    list_rows,
    trace_iterations,
    trace_points,
)
from benchmarks.cases import OURS
from benchmarks.gpu_tables import build_gpu
from benchmarks.loading_table import LOADING, build_loading
from benchmarks.measure import RESULTS
from benchmarks.plots import draw_lines, draw_time_to_objective
from benchmarks.scale_section import describe_scale
from benchmarks.settings import BEST
from benchmarks.tables import FIT_CASES, SECTIONS, Content, show_row, table

ROOT: Final = Path(__file__).parents[1]
PAGE: Final = ROOT / "docs" / "benchmarks.md"
IMAGES: Final = ROOT / "docs" / "images"

QUIET_CORES: Final = 0.2
"""As much as other processes may keep busy without a word about it on the page."""


def render(results: Path = RESULTS) -> dict[Path, str]:
    """Return what each file of the report is to hold."""
    contents = {p.stem: json.loads(p.read_text(encoding="utf-8")) for p in results.glob("*.json")}
    files: dict[Path, str] = {}
    sections = [pages.INTRODUCTION, _compare_data(contents), _describe_machines(contents)]
    sections += [_section(contents, name, build) for name, build in SECTIONS.items()]
    sections.append(_section(contents, "gpu", build_gpu))
    sections.append(_section(contents, LOADING, build_loading))
    sections.append(describe_scale())
    if "data" in contents:
        files |= _plot_data(contents["data"])
    for name in FIT_CASES:
        if name in contents:
            path = IMAGES / f"benchmarks-{name}.svg"
            files[path] = _plot_fit(contents[name])
    files[PAGE] = "\n\n".join(section.strip() for section in sections if section) + "\n"
    return files


def _section(contents: Mapping[str, Content], name: str, build: Callable[[Content], str]) -> str:
    head = pages.HEADS[name]
    command = f"    make bench CASES={name}"
    if name not in contents:
        return "\n\n".join([head.strip(), command, "Not measured yet."])
    parts = [head.strip(), command, _warn_of_load(contents[name]), build(contents[name])]
    parts.append(pages.REMARKS.get(name, "").strip())
    return "\n\n".join(part for part in parts if part)


def _warn_of_load(content: Content) -> str:
    rows = list_rows([r for r in content["records"] if "setting" in r])
    most = max((row.foreign_cores for row in rows), default=0.0)
    if most <= QUIET_CORES:
        return ""
    return (
        f"**Measured on a busy machine**: other processes kept up to {most:.1f} cores busy (median "
        "of a side's rounds). Times are too long and ratios uncertain; these numbers are to be "
        "replaced by a run on a quiet machine."
    )


def _describe_machines(contents: Mapping[str, Content]) -> str:
    lines = []
    seen: dict[str, list[str]] = {}
    for name, content in sorted(contents.items()):
        if "machine" in content:
            machine, versions = content["machine"], content["versions"]
            text = (
                f"{machine['processor']}; {machine['cores']} cores"
                f"{' of a virtual machine' if machine['virtual'] else ''}, "
                f"{machine['memory_gib']:g} GiB; {', '.join(machine['instructions'])}; "
                f"{machine['system']}; "
                + ", ".join(f"{k} {v}" for k, v in versions.items() if k != "clusterfit")
            )
            seen.setdefault(text, []).append(name)
    for text, names in seen.items():
        lines.append(f"- {', '.join(names)}: {text}")
    return "## Machine and versions\n\n" + "\n".join(lines)


def _plot_data(content: Content) -> dict[Path, str]:
    features = content["features"]
    spectra = {
        name: [(i + 1, v) for i, v in enumerate(f["spectrum"])] for name, f in features.items()
    }
    sizes = {name: [(i + 1, s) for i, s in enumerate(f["sizes"])] for name, f in features.items()}
    return {
        IMAGES / "benchmarks-spectrum.svg": draw_lines(
            spectra, "principal axis", "fraction of the variance", "Spectra", has_log_x=True
        ),
        IMAGES / "benchmarks-sizes.svg": draw_lines(
            sizes, "cluster, the largest first", "rows", "Sizes of 256 clusters", has_log_x=False
        ),
    }


def _plot_fit(content: Content) -> str:
    rows = list_rows(content["records"])
    targets = find_targets(rows)
    num_rows, dim, num_clusters = content["shape"]
    curves = {
        show_row(row): trace_iterations(row, targets)
        if row.side == TARGET_SIDE
        else trace_points(row, targets)
        for row in rows
        if row.setting == BEST or row.side.startswith(OURS)
    }
    title = f"{content['data'].split('-')[0]} features, {num_rows:,} x {dim}, K = {num_clusters:,}"
    return draw_time_to_objective(curves, 1.0, title)


def _compare_data(contents: Mapping[str, Content]) -> str:
    if "data" not in contents:
        return ""
    features = contents["data"]["features"]
    names = list(features)
    words = {
        "zeros": "entries that are 0",
        "mean_norm": "norm of the mean row",
        "variance_1": "variance along the first principal axis",
        "variance_16": "along the first 16",
        "variance_64": "along the first 64",
        "slope": "slope of the spectrum, axes 8 to 256 (log-log)",
        "imbalance": "imbalance of 256 clusters (1: all of one size)",
        "explained": "variance that 256 clusters explain",
    }
    lines = [[text, *(f"{features[n][key]:.2f}" for n in names)] for key, text in words.items()]
    images = (
        "![Spectrum](images/benchmarks-spectrum.svg)\n\n"
        "![Cluster sizes](images/benchmarks-sizes.svg)"
    )
    return table(["", *names], lines) + "\n\n" + images


def write() -> None:
    """Write the page and its plots, and remove plots that it no longer has."""
    fresh = render()
    for path in _list_surplus(fresh):
        path.unlink()
    for path, text in fresh.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def find_stale() -> list[str]:
    """Return the files of the report that differ from what the results say."""
    fresh = render()
    stale = [p for p, text in fresh.items() if not p.exists() or p.read_text("utf-8") != text]
    return sorted(str(path.relative_to(ROOT)) for path in [*stale, *_list_surplus(fresh)])


def _list_surplus(fresh: Mapping[Path, str]) -> list[Path]:
    return [path for path in IMAGES.glob("benchmarks-*.svg") if path not in fresh]
