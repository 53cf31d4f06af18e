"""How the images were prepared that a library's pretrained weights were tested on."""

from __future__ import annotations

from exeunt.data import Preprocess
from exeunt.errors import require

__all__ = ["library_preprocess"]

_MODES = {"center": "crop", "squash": "stretch", "border": "pad"}  # timm's words and ours


def library_preprocess(spec: str) -> Preprocess | None:
    """Return size, crop, interpolation, mean and std that go with the pretrained weights of a model.

    `spec`: "torchvision:NAME" or "timm:NAME"; None for others, and where the library does not say.
    """
    kind, _, name = spec.partition(":")
    return {"torchvision": _torchvision, "timm": _timm}.get(kind, _unknown)(name)


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


def _unknown(_: str) -> None:
    return None
