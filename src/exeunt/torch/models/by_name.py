"""Building a classifier from its name: torchvision, timm, Hugging Face, or a function of the user's."""

from __future__ import annotations

import difflib
import importlib
import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from exeunt.errors import InputError, require
from exeunt.torch.models import hugging_face
from exeunt.torch.models.hugging_face import EVERY_PART, BuiltModel
from exeunt.torch.models.weights import load_weights_file
from exeunt.torch.processes import seeded

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "PRETRAINED",
    "brings_weights",
    "build_model",
    "build_model_and_report",
    "current_spec",
    "rebuild_model",
    "runs_custom_code",
    "save_model_config",
]

PRETRAINED = "pretrained"
_CONFIG_FOLDER = "model"  # in the run folder
_LIBRARIES = ("torchvision", "timm", "hf")
_FORMS = "torchvision:NAME, timm:NAME, hf:NAME_OR_FOLDER or package.module:factory"
_OUR_FACTORIES = tuple(f"exeunt.zoo:{name}" for name in ("digits", "resnet18", "resnet20", "resnet56"))


def build_model(
    spec: str,
    *,
    n_classes: int | None = None,
    weights: str | Path | None = None,
    trained: bool = False,
    seed: int = 0,
) -> nn.Module:
    """Build the classifier that `spec` names, in eval mode.

    `spec`: "torchvision:NAME", "timm:NAME", "hf:NAME_OR_FOLDER" (image or sequence classification), or
    "package.module:factory", a function that returns a module and may take `n_classes`.
    `n_classes`: width of the classifier; by default the architecture's own.
    `weights`: a file (safetensors, or a state dict saved by torch), or "pretrained" for those that the library or
    hub offers; by default random, drawn from `seed`. "hf:" models are the exception: they come with their weights.
    `trained`: refuse a model any part of which would stay random, as far as that is known: models from the user's
    functions are taken to be trained.

    Raises InputError for a name that does not exist or weights that do not fit, MissingExtra for a library
    that is not installed.
    """
    return build_model_and_report(
        spec, n_classes=n_classes, weights=weights, trained=trained, seed=seed
    ).model


def build_model_and_report(
    spec: str,
    *,
    n_classes: int | None = None,
    weights: str | Path | None = None,
    trained: bool = False,
    seed: int = 0,
) -> BuiltModel:
    """Build a model as `build_model` does, and report which part of it has random weights."""
    kind, separator, name = spec.partition(":")
    if not separator or not kind or not name:
        raise InputError(f"model {spec!r} is not understood: write {_FORMS}")
    pretrained = weights == PRETRAINED
    builders = {"torchvision": _torchvision, "timm": _timm, "hf": hugging_face.build}
    with seeded(seed, torch.device("cpu")):
        built = (
            builders[kind](name, n_classes, pretrained)
            if kind in builders
            else _custom(kind, name, n_classes)
        )
    if pretrained and kind not in builders:
        raise InputError(f"there are no pretrained weights for {spec!r}: give weights a file")
    if weights is not None and not pretrained:
        load_weights_file(built.model, Path(weights))
        built = BuiltModel(built.model)
    elif trained and built.random:
        raise InputError(
            f"{built.random} of {spec!r} would have random weights, and heads alone cannot make up for that: "
            "give trained weights (--weights FILE, or pretrained), or train the whole network (--mode joint)"
        )
    built.model.eval()
    return built


def save_model_config(spec: str, model: nn.Module, folder: Path) -> None:
    """Write to a run folder what `rebuild_model` needs besides the name: for "hf:" models the configuration."""
    if spec.startswith("hf:"):
        hugging_face.save_config(model, folder / _CONFIG_FOLDER)


def rebuild_model(spec: str, *, n_classes: int, folder: Path) -> nn.Module:
    """Rebuild a run folder's model with random weights, in eval mode. Neither a hub nor other files are read.

    Raises ArtefactError if what `save_model_config` wrote is missing from `folder`.
    """
    if not spec.startswith("hf:"):
        return build_model(spec, n_classes=n_classes)
    with seeded(0, torch.device("cpu")):
        return hugging_face.rebuild(folder / _CONFIG_FOLDER).eval()


def runs_custom_code(spec: str) -> bool:
    """Return whether building the model calls code other than the known libraries and this package's networks."""
    return spec.partition(":")[0] not in _LIBRARIES and spec not in _OUR_FACTORIES


def current_spec(spec: str) -> str:
    """Return a model's name as it is written today: until 0.1 `exeunt.zoo` was `exeunt.torch.zoo`."""
    old = "exeunt.torch.zoo:"
    return f"exeunt.zoo:{spec.removeprefix(old)}" if spec.startswith(old) else spec


def brings_weights(spec: str) -> bool:
    """Return whether a model comes with trained weights by default: Hugging Face models do, if they have any."""
    kind, _, name = spec.partition(":")
    return kind == "hf" and hugging_face.brings_weights(name)


def _torchvision(name: str, n_classes: int | None, pretrained: bool) -> BuiltModel:
    models = require("torchvision.models", extra="torch")
    _check_name(name, models.list_models(), "torchvision")
    if pretrained:
        model: nn.Module = models.get_model(name, weights="DEFAULT")
        _check_classes(model, n_classes, name)
        return BuiltModel(model)
    # Without "init_weights" these old architectures warn that the default will change.
    options = {} if n_classes is None else {"num_classes": n_classes}
    if name in ("googlenet", "inception_v3"):
        options |= {"init_weights": True, "aux_logits": False}
    return BuiltModel(models.get_model(name, weights=None, **options), EVERY_PART)


def _check_classes(model: nn.Module, n_classes: int | None, name: str) -> None:
    last = [layer for layer in model.modules() if isinstance(layer, (nn.Linear, nn.Conv2d))][-1]
    width = last.out_features if isinstance(last, nn.Linear) else last.out_channels
    if n_classes not in (None, width):
        raise InputError(
            f"the pretrained weights of {name!r} answer with {width} classes, the data has {n_classes}: "
            "leave weights out, or give a file trained on this data"
        )


def _timm(name: str, n_classes: int | None, pretrained: bool) -> BuiltModel:
    timm = require("timm", extra="timm")
    if not timm.is_model(name):
        _check_name(name, timm.list_models(), "timm")
    options = {} if n_classes is None else {"num_classes": n_classes}
    model: Any = timm.create_model(name, pretrained=pretrained, **options)
    if not pretrained:
        return BuiltModel(model, EVERY_PART)
    width = model.pretrained_cfg["num_classes"]
    fits = n_classes in (None, width)
    return BuiltModel(
        model, "" if fits else f"the classifier (the pretrained one has {width} classes, not {n_classes})"
    )


def _custom(module_name: str, factory_name: str, n_classes: int | None) -> BuiltModel:
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise InputError(
            f"there is no module {error.name!r} to import; a model is written {_FORMS}"
        ) from error
    factory = getattr(module, factory_name, None)
    if not callable(factory):
        raise InputError(f"module {module_name!r} has no function {factory_name!r}")
    takes = n_classes is not None and "n_classes" in inspect.signature(factory).parameters
    options: Mapping[str, Any] = {"n_classes": n_classes} if takes else {}
    model = factory(**options)
    if not isinstance(model, nn.Module):
        raise InputError(
            f"{module_name}:{factory_name} must return a torch.nn.Module, got {type(model).__name__}"
        )
    return BuiltModel(model, "" if runs_custom_code(f"{module_name}:{factory_name}") else EVERY_PART)


def _check_name(name: str, known: list[str], library: str) -> None:
    if name not in known:
        close = difflib.get_close_matches(name, known, n=5) or known[:5]
        raise InputError(f"{library} has no model {name!r}; the nearest names are: {', '.join(close)}")
