"""The state dict is found where training scripts put it, and ambiguity is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from clusterfit.errors import InvalidDataError
from clusterfit.interop.checkpoint import Checkpoint
from clusterfit.interop.locate import StateDict, locate_state_dict

MODEL = {"conv1.weight": torch.ones(2, 3), "fc.bias": torch.ones(2)}
OPTIMIZER = {"state": {0: {"momentum_buffer": torch.ones(2)}}, "param_groups": [{"lr": 0.1}]}


def locate(content: object, key: str = "") -> StateDict:
    return locate_state_dict(Checkpoint(Path("a.pth"), "torch zip", content), key)


def refusal_of(content: object, key: str = "") -> str:
    with pytest.raises(InvalidDataError) as caught:
        locate(content, key)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("content", "found_at"),
    [
        (MODEL, "the top level"),
        ({"state_dict": MODEL, "optimizer": OPTIMIZER, "epoch": 9}, "state_dict"),
        ({"best_acc1": torch.tensor(76.0), "state_dict": MODEL}, "state_dict"),
        ({"queue": torch.ones(4, 9), "model": MODEL}, "model"),
        ({"model": {"state_dict": MODEL}}, "model.state_dict"),
        ({"model_state_dict": MODEL, "optimizer_state_dict": {"a": torch.ones(1)}},
         "model_state_dict"),
        ({"epoch": torch.tensor(3), "generator": MODEL}, "generator"),
        ({"my_net": MODEL, "optimizer": {"momentum": torch.ones(3)}}, "my_net"),
        ({"trunk": MODEL, "heads": {}}, "the top level"),
        ({"base_model": {"model": {"trunk": MODEL, "heads": [{"clf.0.bias": torch.ones(1)}]}}},
         "base_model.model"),
        ({"scale": torch.tensor(1.0)}, "the top level"),
    ],
)  # fmt: skip
def test_where_it_is(content: object, found_at: str) -> None:
    found = locate(content)
    assert found.found_at == found_at
    assert {"conv1.weight", "trunk.conv1.weight", "scale"} & set(found.tensors)


def test_vissl_heads_come_along_under_their_name() -> None:
    for heads in ({"0.clf.0.bias": torch.ones(1)}, [{"clf.0.bias": torch.ones(1)}]):
        found = locate({"trunk": MODEL, "heads": heads})
        assert set(found.tensors) == {"trunk.conv1.weight", "trunk.fc.bias", "heads.0.clf.0.bias"}


def test_other_candidates_are_noted() -> None:
    found = locate({"state_dict": MODEL, "state_dict_ema": MODEL})
    assert found.found_at == "state_dict"
    assert found.notes == ("also in the file, not used: state_dict_ema (stateDictKey chooses)",)
    assert locate({**MODEL, "epoch": 3}).notes == ("1 entries beside the tensors were left alone",)


def test_several_unknown_candidates_are_refused_by_name() -> None:
    message = refusal_of({"run": {"student": MODEL, "teacher": MODEL}, "epoch": 1})
    assert "several state dicts at run: student, teacher" in message
    assert "stateDictKey: run.student" in message
    assert locate({"student": MODEL, "teacher": MODEL}, "teacher").found_at == "teacher"


def test_a_key_that_leads_nowhere() -> None:
    message = refusal_of({"state_dict": MODEL}, "model")
    assert (
        message
        == "a.pth: stateDictKey 'model' is not in the file: the top level holds the keys state_dict"
    )
    assert "state_dict holds the keys conv1.weight, fc.bias" in refusal_of(
        {"state_dict": MODEL}, "state_dict.x"
    )
    assert "holds a Tensor, no state dict" in refusal_of(MODEL, "conv1.weight")


def test_keys_that_hold_dots_themselves() -> None:
    assert locate({"a.b": {"c": MODEL}, "a": {"b": {}}}, "a.b.c").found_at == "a.b.c"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([MODEL], "holds a list, no state dict"),
        (torch.ones(3), "holds a Tensor"),
        ({}, "holds nothing"),
        ({"epoch": 3, "optimizer": OPTIMIZER}, "holds the keys epoch, optimizer"),
        ({"type": "shard_list", "shards": ["a", "b"]}, "type shard_list, with weights in other"),
        ({"classy_state_dict": {"base_model": {"model": {"trunk": {"a": "x.torch"}}}}},
         "a VISSL checkpoint without tensors"),
    ],
)  # fmt: skip
def test_what_holds_no_state_dict(content: object, said: str) -> None:
    assert said in refusal_of(content)


def test_a_dict_that_contains_itself() -> None:
    content: dict[str, object] = {"weights": MODEL}
    content["state_dict"] = content
    assert "nested too deeply" in refusal_of(content)
