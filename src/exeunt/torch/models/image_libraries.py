"""Networks of torchvision and timm: how they are built, and how images were prepared for their pretrained weights."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import torch
from torch import nn

from exeunt._support.hub import check_download, hub_access
from exeunt.data import Preprocess
from exeunt.errors import InputError, require
from exeunt.torch.models.weights import EVERY_PART, BuiltModel

_MODES = {"center": "crop", "squash": "stretch", "border": "pad"}  # timm's words and ours


def check_torchvision(name: str) -> Any:
    """Return `torchvision.models`. Raises InputError if it has no such model."""
    models = require("torchvision.models", extra="torch")
    _check_name(name, models.list_models(), "torchvision")
    return models


def check_timm(name: str) -> Any:
    """Return the library timm. Raises InputError if it has no such model."""
    timm = require("timm", extra="timm")
    if not timm.is_model(name):
        _check_name(name, timm.list_models(), "timm")
    return timm


def _check_name(name: str, known: list[str], library: str) -> None:
    if name not in known:
        close = difflib.get_close_matches(name, known, n=5) or known[:5]
        raise InputError(f"{library} has no model {name!r}; the nearest names are: {', '.join(close)}")


def build_torchvision(name: str, n_classes: int | None, pretrained: bool, **options: Any) -> BuiltModel:
    """Build a network of torchvision. Raises InputError for pretrained weights with another number of classes."""
    models = check_torchvision(name)
    if not pretrained:
        more: dict[str, Any] = {} if n_classes is None else {"num_classes": n_classes}
        if name in ("googlenet", "inception_v3"):
            # Without "init_weights" these old architectures warn that the default will change.
            more |= {"init_weights": True, "aux_logits": False}
        return BuiltModel(models.get_model(name, weights=None, **more, **options), EVERY_PART)
    url = models.get_model_weights(name).DEFAULT.url
    local_copy = Path(torch.hub.get_dir(), "checkpoints", url.rpartition("/")[2])
    check_download(url, local_copy, f"the weights of {name!r}")
    model: nn.Module = models.get_model(name, weights="DEFAULT", **options)
    last = [layer for layer in model.modules() if isinstance(layer, (nn.Linear, nn.Conv2d))][-1]
    width = last.out_features if isinstance(last, nn.Linear) else last.out_channels
    if n_classes not in (None, width):
        raise InputError(
            f"the pretrained weights of {name!r} answer with {width} classes, the data has {n_classes}: "
            "leave weights out, or give a file trained on this data"
        )
    return BuiltModel(model)


def build_timm(name: str, n_classes: int | None, pretrained: bool, **options: Any) -> BuiltModel:
    """Build a network of timm. Pretrained weights for another number of classes get a new classifier."""
    timm = check_timm(name)
    more = {} if n_classes is None else {"num_classes": n_classes}
    if not pretrained:
        return BuiltModel(timm.create_model(name, **more, **options), EVERY_PART)
    with hub_access(name, f"the weights of {name!r} cannot be loaded"):
        model: Any = timm.create_model(name, pretrained=True, **more, **options)
    width = model.pretrained_cfg["num_classes"]
    if n_classes in (None, width):
        return BuiltModel(model)
    new = [path for path, module in model.named_modules() if path and module is model.get_classifier()]
    random = f"the classifier (the pretrained one has {width} classes, not {n_classes})"
    return BuiltModel(model, new_classifier=new[0]) if new else BuiltModel(model, random)


def torchvision_classes(name: str) -> list[str] | None:
    """Return the names of the classes of a network's pretrained weights, in order; None where there are none."""
    categories = check_torchvision(name).get_model_weights(name).DEFAULT.meta.get("categories")
    return None if categories is None else list(categories)


def library_preprocess(spec: str) -> Preprocess | None:
    """Return size, crop, interpolation, mean and std with which a model's pretrained weights were tested.

    `spec`: "torchvision:NAME" or "timm:NAME"; None for others, and where the library does not say.
    """
    kind, _, rest = spec.partition(":")
    prepare = {"torchvision": _torchvision_preprocess, "timm": _timm_preprocess}.get(kind)
    return None if prepare is None else prepare(rest.partition("?")[0])


def _torchvision_preprocess(name: str) -> Preprocess | None:
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


def _timm_preprocess(name: str) -> Preprocess | None:
    timm = require("timm", extra="timm")
    config = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
    if config is None:
        return None
    _, height, width = config.input_size
    return Preprocess(
        size=(height, width),
        mode=_MODES.get(config.crop_mode, "crop"),
        crop_share=min(1.0, config.crop_pct),
        interpolation=config.interpolation,
        mean=tuple(config.mean),
        std=tuple(config.std),
    )
