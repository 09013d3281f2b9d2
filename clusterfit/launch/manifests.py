"""Manifests as plain dicts: read from YAML, put in order, written so that every reader agrees."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final

import yaml

Manifest = dict[str, Any]

_ORDER: Final = (
    "Namespace", "ServiceAccount", "Role", "RoleBinding", "NetworkPolicy", "PersistentVolumeClaim",
    "ConfigMap", "PyTorchJob", "Job",
)  # fmt: skip
"""What others refer to comes first; anything else stands last."""

_PLAIN = re.compile(r"[A-Za-z/][-A-Za-z0-9_./]*")
_AMBIGUOUS = re.compile(r"(y|n|yes|no|on|off|true|false|null)", re.IGNORECASE)


def read_manifests(text: str) -> list[Manifest]:
    """Return the objects of a YAML stream, in its order."""
    return [document for document in yaml.load_all(text, Loader=yaml.CSafeLoader) if document]


def sort_manifests(manifests: Iterable[Manifest], stages: Iterable[str]) -> list[Manifest]:
    """Return objects in the order in which they may be created; stages in the run's order."""
    order = list(stages)

    def position(manifest: Manifest) -> tuple[int, int, str, str]:
        kind = manifest["kind"]
        stage = manifest["metadata"].get("labels", {}).get("clusterfit.dev/stage", "")
        is_stage = stage in order
        return (
            # A clustering Job stands among the other stages, whatever its kind.
            _ORDER.index("PyTorchJob" if is_stage else kind) if kind in _ORDER else len(_ORDER),
            order.index(stage) if is_stage else len(order),
            kind,
            manifest["metadata"]["name"],
        )

    return sorted(manifests, key=position)


def write_manifests(manifests: Iterable[Manifest]) -> str:
    """Return objects as one YAML stream, the same bytes for the same objects."""
    return "".join(f"---\n{write_manifest(manifest)}" for manifest in manifests)


def write_manifest(manifest: Manifest) -> str:
    """Return one object as YAML, with quotes where any reader might misread text."""
    text: str = yaml.dump(
        manifest, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1_000_000
    )
    return text


class _Dumper(yaml.SafeDumper):
    """PyYAML quotes what PyYAML would misread; Kubernetes' readers know more words for true."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - PyYAML's signature
        """Write everything out."""
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:  # noqa: ARG002
        """Indent lists below their key, as Kubernetes' own documentation does."""
        super().increase_indent(flow, False)


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = '"'
    if _PLAIN.fullmatch(text) and not _AMBIGUOUS.fullmatch(text):
        style = ""
    elif "\n" in text and text.replace("\n", "").isprintable() and not text.startswith((" ", "\n")):
        style = "|"
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)
