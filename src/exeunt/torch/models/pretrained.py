"""What belongs to a library's pretrained weights: how images were prepared for them, and the order of their classes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from exeunt.data import Preprocess
from exeunt.errors import InputError, require
from exeunt.torch.models import hugging_face
from exeunt.torch.models.spec import ModelSpec

if TYPE_CHECKING:
    from torch import nn

__all__ = ["check_class_order", "known_class_names", "library_preprocess"]

_MODES = {"center": "crop", "squash": "stretch", "border": "pad"}  # timm's words and ours


def library_preprocess(spec: str) -> Preprocess | None:
    """Return size, crop, interpolation, mean and std with which a model's pretrained weights were tested.

    `spec`: "torchvision:NAME" or "timm:NAME"; None for others, and where the library does not say.
    """
    parsed = ModelSpec.parse(spec)
    prepare = {"torchvision": _torchvision, "timm": _timm}.get(parsed.kind)
    return None if prepare is None else prepare(parsed.name)


def _torchvision(name: str) -> Preprocess | None:
    models = require("torchvision.models", extra="torch")
    if name not in models.list_models():
        return None
    preset = models.get_model_weights(name).DEFAULT.transforms()
    if not hasattr(preset, "crop_size"):
        return None
    crop, resized = preset.crop_size[0], preset.resize_size[0]
    return Preprocess(
        size=(crop, crop),
        crop_share=min(1.0, crop / resized),
        interpolation=preset.interpolation.value,
        mean=tuple(preset.mean),
        std=tuple(preset.std),
    )


def _timm(name: str) -> Preprocess | None:
    timm = require("timm", extra="timm")
    given = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
    if given is None:
        return None
    _, height, width = given.input_size
    return Preprocess(
        size=(height, width),
        mode=_MODES.get(given.crop_mode, "crop"),
        crop_share=min(1.0, given.crop_pct),
        interpolation=given.interpolation,
        mean=tuple(given.mean),
        std=tuple(given.std),
    )


# Names without meaning: LABEL_0, plain numbers, WordNet ids (whose order is ImageNet's own).
_GENERIC = re.compile(r"(label_)?\d+|n\d{8}")
_SHOWN = 10


def known_class_names(spec: str, model: nn.Module, *, pretrained: bool) -> list[str] | None:
    """Return a trained model's names of its classes, in order, or None where it has none.

    `pretrained`: whether the weights are those that the library offers.
    """
    parsed = ModelSpec.parse(spec)
    if parsed.kind == "hf":
        return hugging_face.class_names(model)
    if parsed.kind == "torchvision" and pretrained:
        models = require("torchvision.models", extra="torch")
        categories = models.get_model_weights(parsed.name).DEFAULT.meta.get("categories")
        return None if categories is None else list(categories)
    return None


def check_class_order(model: Sequence[str] | None, data: Sequence[str] | None) -> None:
    """Raise InputError, showing both orders, if the model and the data name their classes differently.

    Case does not count, nor do synonyms after a comma. Nothing is compared where either has no names, or names
    without meaning (LABEL_0, 3, n01440764).
    """
    if not model or not data or _generic(model) or _generic(data):
        return
    of_model, of_data = ([_bare(name) for name in names] for names in (model, data))
    if of_model == of_data:
        return
    first = next((i for i, pair in enumerate(zip(of_model, of_data, strict=False)) if len(set(pair)) > 1), 0)
    raise InputError(
        f"the model and the data use the same number for different classes, first {first}: "
        f"the model's order is {_shortened(model)}; the data's is {_shortened(data)}. Rename the data's classes so "
        "that their order is the model's, or train from weights without these names"
    )


def _generic(names: Sequence[str]) -> bool:
    return all(_GENERIC.fullmatch(name.strip().lower()) for name in names)


def _bare(name: str) -> str:
    return re.sub(r"[\s_-]+", " ", name.split(",")[0]).strip().casefold()


def _shortened(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
