"""VISSL's lists of transforms -> the views of our stages.

A transform that has no counterpart is left out, and is said so: which images a network sees is
then not the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from clusterfit.config.showing import show_value
from clusterfit.interop.vissl_config.reading import Reading

_NO_JITTER: Final = [0, 0, 0, 0]
_JITTER: Final = ("brightness", "contrast", "saturation", "hue")

Transform = dict[str, Any]
Rule = Callable[[Reading, str, Transform, str], None]
"""Gets the reading, the key, the transform and the section; passes a verdict on the key."""


def read_center_view(reading: Reading, partition: str, section: str) -> None:
    """Translate the transforms of an extraction or evaluation into resize and centre crop."""
    _apply(reading, partition, section, _CENTER_VIEW)


def read_train_view(reading: Reading, section: str) -> None:
    """Translate step 2's augmentation."""
    names = {item.get("name") for item in _list_transforms(reading, "TRAIN")}
    if "ColorJitter" not in names:
        reading.set(f"{section}.colorJitter", _NO_JITTER)
    if "RandomHorizontalFlip" not in names:
        reading.set(f"{section}.horizontalFlip", False)
    _apply(reading, "TRAIN", section, _TRAIN_VIEW)


def read_heads_view(reading: Reading) -> None:
    """Translate the random crops that linear heads are trained on."""
    names = names_of_transforms(reading, "TRAIN")
    if "RandomHorizontalFlip" not in names:
        reading.set("evaluate.heads.horizontalFlip", False)
    _apply(reading, "TRAIN", "evaluate.heads", _HEADS_VIEW)


def read_svm_view(reading: Reading, partition: str) -> None:
    """Translate what SVMs see: the whole image scaled to a square, or a square of its middle."""
    is_cut = "CenterCrop" in names_of_transforms(reading, partition)
    reading.set("evaluate.svm.squash", not is_cut)
    _apply(reading, partition, "evaluate", _CENTER_VIEW if is_cut else _SQUASHED_VIEW)


def read_pretext_view(reading: Reading) -> None:
    """Translate RotNet's augmentation."""
    names = {item.get("name") for item in _list_transforms(reading, "TRAIN")}
    if "RandomHorizontalFlip" not in names:
        reading.set("pretext.horizontalFlip", False)
    _apply(reading, "TRAIN", "pretext", _PRETEXT_VIEW)


def names_of_transforms(reading: Reading, partition: str) -> list[str]:
    """Return the names of a partition's transforms."""
    return [str(item.get("name")) for item in _list_transforms(reading, partition)]


def _list_transforms(reading: Reading, partition: str) -> list[Transform]:
    name = f"DATA.{partition}.TRANSFORMS"
    items = reading.get_items(name)
    for number, item in enumerate(items):
        if not isinstance(item, dict) or not isinstance(item.get("name"), str):
            raise reading.fault(f"{name}[{number}]", "a transform with its name")
    return items


def _apply(reading: Reading, partition: str, section: str, rules: dict[str, Rule]) -> None:
    for number, item in enumerate(_list_transforms(reading, partition)):
        key = f"DATA.{partition}.TRANSFORMS[{number}]"
        rule = rules.get(item["name"])
        if rule is None:
            reading.judge(
                key,
                change=f"{item['name']} is left out: there is no such transform here",
            )  # fmt: skip
        else:
            rule(reading, key, item, section)


def _pixels(reading: Reading, key: str, item: Transform) -> int:
    size = item.get("size")
    if isinstance(size, list) and len(set(map(str, size))) == 1:
        size = size[0]
    if isinstance(size, bool) or not isinstance(size, int):
        raise reading.fault(key, f"{item['name']} with one size in pixels")
    return size


def _others(item: Transform, *known: str) -> str:
    """Say which parameters of a transform are not taken over."""
    rest = [f"{key}={show_value(item[key])}" for key in item if key not in {"name", *known}]
    return f"{item['name']}: {', '.join(rest)} not taken over" if rest else ""


def _resize(reading: Reading, key: str, item: Transform, section: str) -> None:
    reading.carry(
        key, f"{section}.resizePixels", _pixels(reading, key, item), _others(item, "size")
    )


def _resize_to_square(reading: Reading, key: str, item: Transform, section: str) -> None:
    """Of two in a row, the first scales the short side, the second both sides to one length."""
    pixels = _pixels(reading, key, item)
    setting = "cropPixels" if isinstance(item["size"], list) else "resizePixels"
    reading.carry(key, f"{section}.{setting}", pixels, _others(item, "size"))


def _center_crop(reading: Reading, key: str, item: Transform, section: str) -> None:
    reading.carry(key, f"{section}.cropPixels", _pixels(reading, key, item), _others(item, "size"))


def _random_crop(reading: Reading, key: str, item: Transform, section: str) -> None:
    reading.carry(
        key, f"{section}.cropPixels", _pixels(reading, key, item),
        "a crop from the middle: features of a RandomCrop are others each time they are extracted",
    )  # fmt: skip


def _normalize(reading: Reading, key: str, item: Transform, section: str) -> None:
    del section  # all stages of a run see images alike
    for theirs in ("mean", "std"):
        value = item.get(theirs)
        if not isinstance(value, list) or len(value) != 3:
            raise reading.fault(key, "Normalize with a mean and a std of three numbers each")
        reading.set(f"data.{theirs}", value, key)
    reading.judge(key, "data.mean, data.std", _others(item, "mean", "std"))


def _always(reading: Reading, key: str, item: Transform, section: str) -> None:
    del section
    reading.judge(key, f"{item['name']}: always done")


def _random_resized_crop(reading: Reading, key: str, item: Transform, section: str) -> None:
    change = _set_scale(reading, key, item, section)
    reading.carry(key, f"{section}.cropPixels", _pixels(reading, key, item), change)


def _crop_for_heads(reading: Reading, key: str, item: Transform, section: str) -> None:
    """As above; the size is that of the images that the heads are judged on."""
    change = _set_scale(reading, key, item, section)
    size = _pixels(reading, key, item)
    judged = [
        other.get("size")
        for other in reading.get_items("DATA.TEST.TRANSFORMS")
        if "Crop" in other["name"]
    ]
    if judged and judged[0] != size:
        change = f"crops of {judged[0]} pixels, as the test images have"
    reading.judge(key, f"{section}.cropMinScale, evaluate.cropPixels", change)


def _set_scale(reading: Reading, key: str, item: Transform, section: str) -> str:
    """Set the smallest area of a RandomResizedCrop; return what of it is not taken over."""
    scale = item.get("scale", [0.08, 1])
    if not isinstance(scale, list) or len(scale) != 2:
        raise reading.fault(key, "RandomResizedCrop with a scale of two fractions")
    reading.set(f"{section}.cropMinScale", scale[0], key)
    if scale[1] != 1:
        return f"areas of {scale[0]} to 1 of the image, not to {scale[1]}"
    return _others(item, "size", "scale")


def _color_jitter(reading: Reading, key: str, item: Transform, section: str) -> None:
    changes = [_others(item, *_JITTER)]
    strengths = []
    for name in _JITTER:
        value, middle = item.get(name, 0), 0 if name == "hue" else 1
        if isinstance(value, list) and len(value) == 2:
            low, high = value
            value = round((high - low) / 2, 6)
            if abs((high + low) / 2 - middle) > 1e-9:
                changes.append(f"{name} {low}..{high} becomes {middle - value}..{middle + value}")
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise reading.fault(key, f"ColorJitter with {name} as a number or a range")
        strengths.append(value)
    reading.carry(key, f"{section}.colorJitter", strengths, "; ".join(filter(None, changes)))


def _flip(reading: Reading, key: str, item: Transform, section: str) -> None:
    change = _others(item, "p")
    if item.get("p", 0.5) != 0.5:
        change = f"with a probability of 0.5, not {item['p']}"
    reading.carry(key, f"{section}.horizontalFlip", True, change)


def _rotation(reading: Reading, key: str, item: Transform, section: str) -> None:
    del section
    if item.get("num_angles", 4) != 4:
        raise reading.fault(key, "ImgRotatePil with num_angles 4")
    reading.judge(
        key, "pretext: four rotations",
        "each image is seen in all four rotations in one step, where VISSL draws one: batches of "
        "the same images, four times the work and the signal in an epoch; the square is cut "
        "before it is turned, so that no black border tells the angle",
    )  # fmt: skip


def _pretext_crop(reading: Reading, key: str, item: Transform, section: str) -> None:
    reading.carry(
        key, f"{section}.cropPixels", _pixels(reading, key, item),
        "a random square of the image resized to 8/7 of it, not of random area and aspect",
    )  # fmt: skip


def _pretext_flip(reading: Reading, key: str, item: Transform, section: str) -> None:
    del item  # at whatever probability
    reading.carry(
        key, f"{section}.horizontalFlip", True,
        "mirrored before it is turned: mirrored after, as in this list, an image turned by 90 "
        "degrees is a mirrored one turned by 270, and the two cannot be told apart",
    )  # fmt: skip


_COMMON: Final[dict[str, Rule]] = {"ToTensor": _always, "Normalize": _normalize}
_CENTER_VIEW: Final[dict[str, Rule]] = _COMMON | {
    "Resize": _resize,
    "CenterCrop": _center_crop,
    "RandomCrop": _random_crop,
}
_SQUASHED_VIEW: Final[dict[str, Rule]] = _COMMON | {"Resize": _resize_to_square}
_TRAIN_VIEW: Final[dict[str, Rule]] = _COMMON | {
    "RandomResizedCrop": _random_resized_crop,
    "ColorJitter": _color_jitter,
    "RandomHorizontalFlip": _flip,
}
_HEADS_VIEW: Final[dict[str, Rule]] = _COMMON | {
    "RandomResizedCrop": _crop_for_heads,
    "RandomHorizontalFlip": _flip,
}
_PRETEXT_VIEW: Final[dict[str, Rule]] = _COMMON | {
    "ImgRotatePil": _rotation,
    "RandomResizedCrop": _pretext_crop,
    "RandomHorizontalFlip": _pretext_flip,
}
