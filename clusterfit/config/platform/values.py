"""Kinds of values as Kubernetes spells them."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge, Le
from pydantic import JsonValue, StringConstraints

from clusterfit.config.section import Wanted

DNS_LABEL = r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
_DNS_NAME = rf"{DNS_LABEL}(\.{DNS_LABEL})*"

DnsName = Annotated[
    str,
    StringConstraints(pattern=rf"^{_DNS_NAME}$", max_length=253),
    Wanted("the name of an object: lower-case letters, digits, `-` and `.`"),
]
"""The name of an object of Kubernetes."""
OptionalDnsName = Annotated[
    str,
    StringConstraints(pattern=rf"^({_DNS_NAME})?$", max_length=253),
    Wanted("the name of an object: lower-case letters, digits, `-` and `.`; or nothing"),
]
"""The same; empty where it is not given."""
QualifiedName = Annotated[
    str,
    StringConstraints(
        pattern=rf"^({_DNS_NAME}/)?[A-Za-z0-9]([-A-Za-z0-9_.]{{0,61}}[A-Za-z0-9])?$",
        max_length=317,
    ),
    Wanted("a name like nvidia.com/gpu: a domain, `/`, letters, digits, `-`, `_` and `.`"),
]
"""A key of a label or annotation, or the name of a resource: `nvidia.com/gpu`."""
OptionalTopologyLevel = Annotated[
    str,
    StringConstraints(pattern=rf"^({_DNS_NAME}(/[-A-Za-z0-9_.]+)?)?$", max_length=317),
    Wanted("the key of a node label, or nothing"),
]
"""A label of nodes that names a level: `topology.kubernetes.io/rack`; empty: none."""
LabelValue = Annotated[
    str,
    StringConstraints(pattern=r"^([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?$"),
    Wanted("at most 63 letters, digits, `-`, `_` and `.`, no line end"),
]
Quantity = Annotated[
    str,
    StringConstraints(pattern=r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?$"),
    Wanted('an amount in quotes, like "1", "500m" or "16Gi"'),
]
"""An amount as Kubernetes writes it: `1`, `500m`, `16Gi`."""
EnvName = Annotated[
    str,
    StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=253),
    Wanted("letters, digits and `_`, no digit first"),
]
NcclName = Annotated[
    str, StringConstraints(pattern=r"^NCCL_[A-Z0-9_]+$"), Wanted("a variable of NCCL's: NCCL_...")
]
UserId = Annotated[int, Ge(1), Le(2**31 - 1)]
KubernetesObject = dict[str, JsonValue]
