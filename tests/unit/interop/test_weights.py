"""Weights of other projects reach the backbone bit for bit, or the model is left as it was."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision import models

from clusterfit.config.sections.inputs import Weights
from clusterfit.errors import InvalidDataError, MissingInputError
from clusterfit.interop.head import find_head
from clusterfit.interop.report import LoadReport
from clusterfit.interop.weights import load_backbone_weights, read_state_dict

Save = Callable[[object], Path]
BuildNet = Callable[..., nn.Module]
LayOut = Callable[..., dict[str, Any]]


def load(model: nn.Module, path: Path, **settings: Any) -> LoadReport:
    weights = Weights.model_validate({"from": "path", "path": "some/file", **settings})
    return load_backbone_weights(model, path, weights)


def refusal_of(model: nn.Module, path: Path, **settings: Any) -> str:
    """Return why a load was refused, having seen that the model did not change."""
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(InvalidDataError) as caught:
        load(model, path, **settings)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    (fault,) = caught.value.faults
    assert "\n" not in fault
    return fault


def backbone_outputs(model: nn.Module, images: Tensor) -> Tensor:
    """Forward pass up to the head."""
    bare = nn.Sequential(*[child for name, child in model.named_children() if name != "fc"])
    outputs: Tensor = bare(images)
    assert outputs.isfinite().all()
    return outputs


def equal_outputs(one: nn.Module, other: nn.Module, images: Tensor) -> bool:
    """Tell whether two networks give the same bits, which must be numbers."""
    outputs: Tensor = one(images)
    assert outputs.isfinite().all()
    return torch.equal(outputs, other(images))


def test_torchvision_round_trip(net18: BuildNet, tmp_path: Path, images: Tensor) -> None:
    theirs = net18(1)
    torch.save(theirs.state_dict(), tmp_path / "plain.pth")
    save_file(theirs.state_dict(), tmp_path / "plain.safetensors")
    for name in ("plain.pth", "plain.safetensors"):
        ours = net18(2)
        assert not equal_outputs(ours, theirs, images)
        report = load(ours, tmp_path / name)
        assert equal_outputs(ours, theirs, images)
        assert report.head_is_loaded
        assert report.num_backbone_loaded == report.num_backbone_wanted == 100
        assert (report.missing, report.unused, report.skipped, report.mismatched) == ((),) * 4


@pytest.mark.parametrize(
    "trunk_prefix",
    ["_feature_blocks.", "base_model._feature_blocks.", "trunk._feature_blocks.",
     "trunk.base_model._feature_blocks.", ""],
)  # fmt: skip
@pytest.mark.parametrize("state_dict_key", ["", "classy_state_dict"])
def test_vissl_round_trip(
    small_net: BuildNet,
    save: Save,
    vissl_checkpoint: LayOut,
    images: Tensor,
    trunk_prefix: str,
    state_dict_key: str,
) -> None:
    theirs, ours = small_net(1), small_net(2)
    path = save(vissl_checkpoint(theirs, trunk_prefix))
    assert not equal_outputs(ours, theirs, images)
    report = load(ours, path, stateDictKey=state_dict_key)
    assert equal_outputs(ours, theirs, images)
    assert report.found_at == "classy_state_dict.base_model.model"
    assert report.reason == "VISSL's layout of trunk and heads"
    assert report.loaded_fraction == 1
    assert report.head_is_loaded
    assert report.notes == ()


def test_a_head_of_another_size_is_left_alone(
    small_net: BuildNet, save: Save, vissl_checkpoint: LayOut, images: Tensor
) -> None:
    theirs = small_net(1, num_classes=4)
    for content in (vissl_checkpoint(theirs), theirs.state_dict()):
        ours = small_net(2)
        head_before = ours.get_parameter("fc.weight").clone()
        report = load(ours, save(content))
        assert torch.equal(backbone_outputs(ours, images), backbone_outputs(theirs, images))
        assert torch.equal(ours.get_parameter("fc.weight"), head_before)
        assert not report.head_is_loaded
        assert report.mismatched == ("fc.weight", "fc.bias")
        assert report.loaded_fraction == 1
        assert "head not loaded" in report.summary


def test_a_head_is_loaded_whole_or_not_at_all(small_net: BuildNet, save: Save) -> None:
    state = small_net(1).state_dict()
    del state["fc.bias"]
    ours = small_net(2)
    head_before = ours.get_parameter("fc.weight").clone()
    report = load(ours, save(state))
    assert torch.equal(ours.get_parameter("fc.weight"), head_before)
    assert report.mismatched == ("fc.weight",)
    assert report.missing == ("fc.bias",)


def test_the_documented_weights_init_of_vissl(
    small_net: BuildNet, save: Save, vissl_checkpoint: LayOut, images: Tensor
) -> None:
    """Each of the three kinds of STATE_DICT_KEY_NAME and each documented APPEND_PREFIX.

    Source: docs/source/evaluations/load_models.rst of VISSL.
    """
    theirs = small_net(1)
    plain = theirs.state_dict()
    blocks = {f"_feature_blocks.{key}": value for key, value in plain.items()}
    cases: list[tuple[object, dict[str, str]]] = [
        (vissl_checkpoint(theirs), {"stateDictKey": "classy_state_dict"}),
        (plain, {"appendPrefix": "trunk.base_model._feature_blocks."}),
        (plain, {"appendPrefix": "trunk._feature_blocks."}),
        (blocks, {"appendPrefix": "trunk."}),
        (blocks, {"appendPrefix": "trunk.base_model."}),
        ({"your_key_name": plain}, {"stateDictKey": "your_key_name",
                                    "appendPrefix": "trunk._feature_blocks."}),
        ({"state_dict": {f"module.base_encoder.{key}": value for key, value in plain.items()}},
         {"stateDictKey": "state_dict", "removePrefix": "module.base_encoder.",
          "appendPrefix": "trunk.base_model._feature_blocks."}),
    ]  # fmt: skip
    for content, settings in cases:
        ours = small_net(2)
        report = load(ours, save(content), skipLayers=("num_batches_tracked",), **settings)
        assert equal_outputs(ours, theirs, images), settings
        assert report.skipped == ("bn1.num_batches_tracked",)
        assert report.notes == ()


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_wrappers_of_ddp_and_compile(small_net: BuildNet, save: Save, prefix: str) -> None:
    theirs, ours = small_net(1), small_net(2)
    state = OrderedDict((prefix + key, value) for key, value in theirs.state_dict().items())
    report = load(ours, save({"epoch": 3, "best": torch.tensor(76.0), "state_dict": state}))
    assert report.found_at == "state_dict"
    assert all(
        torch.equal(value, theirs.state_dict()[key]) for key, value in ours.state_dict().items()
    )


def test_a_prefix_is_cut_from_the_keys_that_have_it_and_the_others_stay(
    small_net: BuildNet, save: Save
) -> None:
    """As VISSL's replace_module_prefix, which leaves keys without the prefix as they are."""
    theirs, ours = small_net(1), small_net(2)
    state = theirs.state_dict()
    mixed = {f"enc.{key}" if key.startswith("conv1") else key: state[key] for key in state}
    report = load(ours, save(mixed), removePrefix="enc.")
    assert report.loaded_fraction == 1
    assert report.unused == ()


def test_skipped_layers_are_words_in_the_models_keys(small_net: BuildNet, save: Save) -> None:
    path = save({f"module.{key}": value for key, value in small_net(1).state_dict().items()})
    cases = {
        "conv1": ("conv1.weight", "layer1.0.conv1.weight"),
        "_feature_blocks.conv1": ("conv1.weight",),
        "trunk.base_model._feature_blocks.layer1": ("layer1.0.conv1.weight",),
    }
    for word, skipped in cases.items():
        ours = small_net(2)
        before = {key: ours.state_dict()[key].clone() for key in skipped}
        report = load(ours, path, skipLayers=(word,))
        assert report.skipped == skipped
        assert all(torch.equal(ours.state_dict()[key], before[key]) for key in skipped)
        assert report.loaded_fraction == 1
        assert report.unused == ()
    report = load(
        small_net(2),
        path,
        skipLayers=(
            "module.conv1",
            "num_batches_tracked",
        ),
    )
    assert report.notes == ("skipLayers: 'module.conv1' is in no key of the model",)
    for word in ("heads", "fc."):
        ours = small_net(2)
        report = load(ours, path, skipLayers=(word,))
        assert report.skipped == ("fc.weight", "fc.bias")
        assert not report.head_is_loaded
        assert not torch.equal(
            ours.get_parameter("fc.weight"), small_net(1).get_parameter("fc.weight")
        )
    assert "skipLayers leaves nothing" in refusal_of(small_net(2), path, skipLayers=("trunk",))
    report = load(small_net(2), path, skipLayers=("trunk._feature_blocks.bn1",))
    assert report.head_is_loaded


def test_settings_without_effect_are_noted(
    small_net: BuildNet, save: Save, vissl_checkpoint: LayOut
) -> None:
    report = load(small_net(2), save(small_net(1).state_dict()), removePrefix="model.")
    assert report.notes == ("removePrefix 'model.' has no effect: no key begins with it",)
    path = save(vissl_checkpoint(small_net(1)))
    damaging = "trunk._feature_blocks.layer1."
    report = load(small_net(2), path, stateDictKey="classy_state_dict", removePrefix=damaging)
    assert "as in VISSL" in report.notes[0]
    assert report.loaded_fraction == 1


def test_nothing_matches_and_the_prefix_that_would_help_is_computed(
    small_net: BuildNet, save: Save
) -> None:
    state = small_net(1).state_dict()
    moco = {f"module.encoder_q.{key}": value for key, value in state.items()}
    moco |= {f"module.encoder_k.{key}": value for key, value in list(state.items())[:4]}
    message = refusal_of(small_net(2), save({"state_dict": moco}))
    assert "none of the 6 backbone tensors is in it" in message
    assert "module.encoder_q.conv1.weight" in message
    assert "removePrefix: module.encoder_q. would match 6 of 6" in message
    report = load(small_net(2), save({"state_dict": moco}), removePrefix="module.encoder_q.")
    assert report.loaded_fraction == 1
    assert len(report.unused) == 4

    inner = nn.Module()
    inner.add_module("body", small_net(2))
    message = refusal_of(inner, save({f"net.{key}": value for key, value in state.items()}))
    assert "removePrefix: net. and appendPrefix: body. would match 6 of 6" in message


def test_a_prefix_is_suggested_by_shapes_too(small_net: BuildNet, save: Save) -> None:
    state = small_net(1).state_dict()
    wide = {f"wide.{key}": torch.cat([value, value]) for key, value in state.items() if value.ndim}
    good = {f"good.{key}": value for key, value in state.items()}
    assert "removePrefix: good. would" in refusal_of(small_net(2), save({**wide, **good}))
    few = {f"few.{key}": value for key, value in list(state.items())[:3]}
    assert "no prefix would make most" in refusal_of(small_net(2), save(few))


def test_a_models_own_keys_are_never_stripped(small_net: BuildNet, save: Save) -> None:
    ours = nn.Module()
    ours.add_module("module", small_net(2))
    ours.add_module("conv1", nn.Conv2d(3, 4, 3, bias=False))
    state = {f"module.{key}": value for key, value in small_net(1).state_dict().items()}
    path = save({**state, "conv1.weight": torch.zeros(4, 3, 3, 3)})
    report = load(ours, path)
    assert report.loaded_fraction == 1
    assert torch.equal(ours.get_parameter("module.conv1.weight"), state["module.conv1.weight"])
    assert not ours.get_parameter("conv1.weight").any()


def test_a_larger_networks_weights_are_refused(small_net: BuildNet, save: Save) -> None:
    """A ResNet-101's file has every tensor of a ResNet-50, with the same shapes."""
    larger = small_net(1)
    layer1 = larger.get_submodule("layer1")
    layer1.add_module("1", nn.Conv2d(8, 8, 3))
    path = save({f"module.{key}": value for key, value in larger.state_dict().items()})
    message = refusal_of(small_net(2), path)
    assert "the model uses only 6 of the 8 tensors" in message
    assert "module.layer1.1.weight" in message
    report = load(small_net(2), path, minLoadedFraction=0.75)
    assert "2 tensors of the file's are for the backbone's layers" in report.notes[0]


def test_what_profilers_and_projectors_leave_is_no_larger_network(
    small_net: BuildNet, save: Save
) -> None:
    state = small_net(1).state_dict()
    state |= {f"{name}.total_ops": torch.tensor(1.0) for name in ("conv1", "bn1", "layer1.0.conv1")}
    state |= {"fc.0.weight": torch.ones(8, 8), "fc.2.weight": torch.ones(8, 8)}
    report = load(small_net(2), save(state))
    assert report.loaded_fraction == 1
    assert report.notes == ()


def test_another_networks_weights(small_net: BuildNet, net18: BuildNet, save: Save) -> None:
    message = refusal_of(small_net(2), save({"blocks.0.attn.qkv.weight": torch.ones(3, 3)}))
    assert "these are another network's weights" in message
    assert "conv1.weight" in message
    message = refusal_of(small_net(2), save(net18(1).state_dict()))
    assert "conv1.weight has another shape than the model's conv1.weight" in message
    assert "64x3x7x7 in the file, 4x3x3x3 in the model; so have 5 more" in message


def test_too_little_of_the_backbone(small_net: BuildNet, save: Save) -> None:
    state = small_net(1).state_dict()
    del state["conv1.weight"], state["bn1.num_batches_tracked"]
    path = save(state)
    message = refusal_of(small_net(2), path)
    assert "only 5 of 6 backbone tensors (83.3%)" in message
    assert "minLoadedFraction: 0.9" in message
    assert "no prefix would make most of them match" in message
    report = load(small_net(2), path, minLoadedFraction=0.8)
    assert report.notes == ("1 tensors are not in the file and stay as they were: conv1.weight",)
    assert report.missing == ("conv1.weight", "bn1.num_batches_tracked")
    assert report.loaded_fraction == pytest.approx(5 / 6)
    # A head alone is nothing of the backbone, whatever fraction is asked for.
    head = {key: value for key, value in state.items() if key.startswith("fc.")}
    assert "none of the 6" in refusal_of(small_net(2), save(head), minLoadedFraction=0.0)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_values_that_are_not_finite(small_net: BuildNet, save: Save, value: float) -> None:
    state = small_net(1).state_dict()
    state["layer1.0.conv1.weight"][3, 1, 0, 0] = value
    path = save({f"module.{key}": entry for key, entry in state.items()})
    message = refusal_of(small_net(2), path)
    assert "module.layer1.0.conv1.weight has 1 of 288 values that are not finite" in message
    load(small_net(2), path, skipLayers=("layer1",))  # What is left out may hold anything.


@pytest.mark.filterwarnings("ignore:Validating sparse tensor invariants")
def test_numbers_of_other_types(small_net: BuildNet, save: Save) -> None:
    state = small_net(1).state_dict()
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        ours = small_net(2)
        load(ours, save({key: value.to(dtype) for key, value in state.items()}))
        assert torch.equal(
            ours.get_parameter("conv1.weight"), state["conv1.weight"].to(dtype).float()
        )
    message = refusal_of(small_net(2), save({**state, "conv1.weight": state["conv1.weight"].int()}))
    assert "conv1.weight is torch.int32" in message
    big = {**state, "conv1.weight": state["conv1.weight"].double() * 1e300}
    assert "not finite" in refusal_of(small_net(2), save(big))
    sparse = {**state, "conv1.weight": state["conv1.weight"].to_sparse()}
    assert "torch.sparse_coo" in refusal_of(small_net(2), save(sparse))
    meta = {**state, "conv1.weight": state["conv1.weight"].to("meta")}
    assert "meta" in refusal_of(small_net(2), save(meta))


def test_two_keys_that_mean_one(small_net: BuildNet, save: Save) -> None:
    state = small_net(1).state_dict()
    both = {**state, **{f"module.{key}": value for key, value in state.items()}}
    message = refusal_of(small_net(2), save(both))
    assert "conv1.weight and module.conv1.weight both mean conv1.weight (and 8 more" in message


def test_a_missing_file(small_net: BuildNet, tmp_path: Path) -> None:
    with pytest.raises(MissingInputError):
        load(small_net(0), tmp_path / "nowhere.pth")


def test_the_report_accounts_for_every_tensor(small_net: BuildNet, save: Save) -> None:
    state = small_net(1, num_classes=4).state_dict()
    del state["bn1.num_batches_tracked"]
    state["projector.weight"] = torch.ones(2, 2)
    ours = small_net(2)
    report = load(ours, save(state), skipLayers=("running",))
    parts = (report.loaded, report.missing, report.skipped, report.mismatched)
    assert sorted(key for part in parts for key in part) == sorted(ours.state_dict())
    assert report.unused == ("projector.weight",)
    assert report.summary == (
        "torch zip file, state dict at the top level (its entries are tensors): 4 of 4 backbone "
        "tensors loaded (100.0%), head not loaded, 1 missing, 2 skipped, 1 unused"
    )


def test_read_state_dict_says_where_and_why(small_net: BuildNet, save: Save) -> None:
    found = read_state_dict(save({"net": {"a.b": small_net(1).state_dict()}}), "net.a.b")
    assert (found.found_at, found.reason) == ("net.a.b", "named by stateDictKey")
    assert "conv1.weight" in found.tensors


@pytest.mark.parametrize(
    "name",
    ["alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "efficientnet_v2_s", "googlenet",
     "inception_v3", "maxvit_t", "mnasnet0_5", "mobilenet_v2", "mobilenet_v3_small",
     "regnet_y_400mf", "resnet50", "resnext50_32x4d", "shufflenet_v2_x0_5", "squeezenet1_1",
     "swin_t", "swin_v2_t", "vgg11", "vgg11_bn", "vit_b_32", "wide_resnet50_2"],
)  # fmt: skip
def test_the_head_of_every_family_is_found(name: str) -> None:
    settings = {"init_weights": False} if name in {"googlenet", "inception_v3"} else {}
    with torch.device("cpu" if name.startswith("regnet") else "meta"):  # It reads values to build.
        model = models.get_model(name, num_classes=7, **settings)
    head = model.get_submodule(find_head(model))
    assert next(head.parameters()).shape[0] == 7


def test_a_backbone_without_a_head_has_none(net18: BuildNet) -> None:
    model = net18(0)
    model.fc = nn.Identity()
    assert find_head(model) == ""
