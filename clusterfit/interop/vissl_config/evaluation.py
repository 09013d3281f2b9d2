"""VISSL's linear evaluation -> our evaluate stage with the protocol `heads`."""

from __future__ import annotations

from typing import Any, Final

from clusterfit.interop.vissl_config.layers import list_pooled_layers, name_layer
from clusterfit.interop.vissl_config.reading import Reading

_MAP: Final = "MODEL.FEATURE_EVAL_SETTINGS.LINEAR_EVAL_FEAT_POOL_OPS_MAP"
_HEADS: Final = "MODEL.HEAD.PARAMS"
_SYNC: Final = "MODEL.SYNC_BN_CONFIG"


def read_heads(reading: Reading, model: str, weights: str) -> None:
    """Set the network that is judged, and the layers that get a linear head each.

    Args:
        reading: The configuration.
        model: torchvision's name of the network.
        weights: Its weights file below the storage root; empty: random weights.
    """
    reading.set("evaluate.protocols", ["heads"], _HEADS)
    read_backbone(reading, model, weights)
    read_pooled_layers(reading)
    if reading.is_given(_HEADS):
        kinds = {str(head[0]) for head in reading.sequence(_HEADS) if isinstance(head, list)}
        reading.judge(
            _HEADS, "evaluate.protocols: heads",
            "" if kinds <= {"eval_mlp"} else
            "each head is a batch norm and one linear layer (eval_mlp)",
        )  # fmt: skip
    _judge_batch_norm(reading)


def read_backbone(reading: Reading, model: str, weights: str) -> None:
    """Set the network that is judged, and how many images it sees at once."""
    backbone = {"label": model, "from": "path" if weights else "random", "model": model}
    if weights:
        backbone["path"] = weights
    reading.set("evaluate.backbones", [backbone], "MODEL.WEIGHTS_INIT.PARAMS_FILE")
    reading.carry("DATA.TEST.BATCHSIZE_PER_REPLICA", "evaluate.batchSizePerRank")


def read_pooled_layers(reading: Reading) -> None:
    """Set the layers that are judged, with their pooling."""
    changes = []
    layers: list[dict[str, Any]] = []
    for layer, operation in list_pooled_layers(reading) or [("res5avg", None)]:
        pooled, change = _translate_pooling(operation)
        layers.append({"layer": name_layer(reading, layer), **pooled})
        if change:
            changes.append(f"{layer}: {change}")
    reading.carry(_MAP, "evaluate.layers", layers, "; ".join(changes))


def _judge_batch_norm(reading: Reading) -> None:
    """Say how the heads' batch norms see the batch: the frozen network's see none."""
    if not reading.is_given(_SYNC):
        return
    processes = reading.integer("DISTRIBUTED.NUM_PROC_PER_NODE")
    world_size = processes * reading.integer("DISTRIBUTED.NUM_NODES")
    group_size = reading.integer(f"{_SYNC}.GROUP_SIZE")
    # Source: GROUP_SIZE in vissl/config/defaults.yaml; -1 is a machine, 0 all.
    seen = {-1: processes, 0: world_size}.get(group_size, group_size)
    if not reading.flag(f"{_SYNC}.CONVERT_BN_TO_SYNC_BN"):
        seen = 1
    change = f"over all {world_size} processes, not over {seen}" if seen < world_size else ""
    for key in ("CONVERT_BN_TO_SYNC_BN", "GROUP_SIZE", "SYNC_BN_TYPE"):
        if reading.is_given(f"{_SYNC}.{key}"):
            reading.judge(
                f"{_SYNC}.{key}", "the heads' batch norms see the global batch",
                change if key != "SYNC_BN_TYPE" else "",
            )  # fmt: skip


def _translate_pooling(operation: Any) -> tuple[dict[str, int], str]:
    """Return the kernel, stride and padding of a pooling, and what of it is not taken over."""
    if not isinstance(operation, list) or not operation or operation[0] == "Identity":
        return {}, ""
    name, arguments = operation[0], operation[1] if len(operation) > 1 else []
    is_square = name == "AvgPool2d" and arguments and len(set(_as_pair(arguments[0]))) == 1
    if not is_square:
        return {}, f"all of the layer is taken, not {name} {arguments} of it"
    stride, padding = [*arguments[1:3], *([1, 0][len(arguments) - 1 :])][:2]
    pooled = {"kernel": _as_pair(arguments[0])[0], "stride": stride, "padding": padding}
    return pooled, ""


def _as_pair(size: Any) -> list[Any]:
    return size if isinstance(size, list) else [size, size]
