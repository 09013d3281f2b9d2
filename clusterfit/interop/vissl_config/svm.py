"""VISSL's SVMs on features (tools/train_svm.py) -> our evaluate stage with the protocol `svm`."""

from __future__ import annotations

from typing import Any, Final

from clusterfit.interop.vissl_config.evaluation import read_backbone, read_pooled_layers
from clusterfit.interop.vissl_config.reading import Reading

_COSTS: Final = "SVM.costs"
_FIXED: Final[dict[str, tuple[Any, str]]] = {
    "SVM.normalize": (True, "rows always have unit length"),
    "SVM.loss": ("squared_hinge", "the loss is the squared hinge"),
    "SVM.penalty": ("l2", "the penalty is L2"),
    "SVM.dual": (True, "the dual is solved, whose optimum is the same"),
    "SVM.cls_list": ([], "every class is judged"),
}
"""What is not a setting here: the only value, and what is said of others."""


def read_svm(reading: Reading, model: str, weights: str) -> None:
    """Set the network that is judged, the layers that get SVMs, and how these are chosen.

    Args:
        reading: The configuration.
        model: torchvision's name of the network.
        weights: Its weights file below the storage root; empty: random weights.
    """
    reading.set("evaluate.protocols", ["svm"], f"{_COSTS}.costs_list")
    read_backbone(reading, model, weights)
    read_pooled_layers(reading)
    reading.carry(f"{_COSTS}.costs_list", "evaluate.svm.costs", _list_costs(reading))
    for key in ("base", "power_range"):
        if reading.is_given(f"{_COSTS}.{key}"):
            reading.judge(f"{_COSTS}.{key}", "evaluate.svm.costs")
    for key, setting in (("max_iter", "maxIterations"), ("cross_val_folds", "folds")):
        reading.integer(f"SVM.{key}")
        reading.carry(f"SVM.{key}", f"evaluate.svm.{setting}")
    for key, (only, said) in _FIXED.items():
        if reading.is_given(key):
            reading.judge(key, said, "" if reading.get(key) == only else "not a setting here")


def _list_costs(reading: Reading) -> list[float]:
    """Return all costs: those that are listed, and powers of a base from one exponent to another.

    Source: `_get_costs_list` in vissl/utils/svm_utils/svm_trainer.py.
    """
    costs = [float(cost) for cost in reading.sequence(f"{_COSTS}.costs_list")]
    base = reading.number(f"{_COSTS}.base")
    if base > 0:
        exponents = reading.sequence(f"{_COSTS}.power_range")
        if len(exponents) != 2 or not all(isinstance(exponent, int) for exponent in exponents):
            raise reading.fault(f"{_COSTS}.power_range", "two whole numbers")
        costs += [float(base**exponent) for exponent in range(*exponents)]
    return costs
