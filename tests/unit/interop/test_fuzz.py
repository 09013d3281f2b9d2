"""Weight files with wrong bytes: they load or are refused with 65, and nothing in them runs."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from clusterfit.config.sections.inputs import Weights
from clusterfit.errors import InvalidDataError
from clusterfit.interop.weights import load_backbone_weights
from tests.chance import damage, draw_cases, find_own_error

pytestmark = [
    pytest.mark.campaign,
    pytest.mark.filterwarnings("ignore:Detected pickle protocol:UserWarning"),
    pytest.mark.filterwarnings("ignore:Defining your `__torch_function__`:UserWarning"),
]

WEIGHTS = Weights(source="path", path="weights")


def _build_model() -> torch.nn.Module:
    model = torch.nn.Sequential()
    model.add_module("conv1", torch.nn.Conv2d(3, 8, 3))
    model.add_module("bn1", torch.nn.BatchNorm2d(8))
    model.add_module("fc", torch.nn.Linear(8, 2))
    return model


class _Runs:
    """What a pickle asks to be called: it leaves a file where it is."""

    def __init__(self, trace: Path) -> None:
        self._trace = trace

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self._trace,)


def test_damaged_weights_load_or_are_refused_and_nothing_runs(tmp_path: Path) -> None:
    model = _build_model()
    state = model.state_dict()
    trunk = {f"_feature_blocks.{key}": value for key, value in state.items()}
    vissl = {"classy_state_dict": {"base_model": {"model": {"trunk": trunk, "heads": {}}}}}
    trace = tmp_path / "trace"
    save_file(state, tmp_path / "a.safetensors")
    torch.save(state, tmp_path / "zip.pt")
    torch.save(state, tmp_path / "legacy.pt", _use_new_zipfile_serialization=False)
    torch.save({**vissl, "args": argparse.Namespace(lr=1)}, tmp_path / "vissl.pt")
    torch.save({"state_dict": state, "evil": _Runs(trace)}, tmp_path / "evil.pt")
    originals = {path: path.read_bytes() for path in sorted(tmp_path.iterdir())}
    num_loaded = num_refused = 0
    for label, chance in draw_cases("weights", 2500):
        path = chance.choice(list(originals))
        damaged = tmp_path / f"damaged{path.suffix}"
        damaged.write_bytes(damage(originals[path], chance))
        error = find_own_error(
            f"{label}, {path.name}", partial(load_backbone_weights, model, damaged, WEIGHTS)
        )
        assert error is None or isinstance(error, InvalidDataError), f"{label}, {path.name}"
        assert not trace.exists(), f"{label}, {path.name}: code was run"
        num_loaded += error is None
        num_refused += error is not None
    assert min(num_loaded, num_refused) > 100
    for value in model.state_dict().values():
        assert torch.isfinite(value).all()
