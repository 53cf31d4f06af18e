"""Making a classifier from its name: torchvision, timm, Hugging Face, or a function of your own."""

from __future__ import annotations

import difflib
import importlib
import inspect
import pickle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from exeunt.errors import ArtefactError, InputError, require
from exeunt.torch.models import hugging_face
from exeunt.torch.models.hugging_face import ALL, Made
from exeunt.torch.processes import seeded

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "brings_weights",
    "build_model",
    "is_own_code",
    "keep_model",
    "make_model",
    "read_weights",
    "rebuild_model",
]

PRETRAINED = "pretrained"
_KEPT = "model"  # folder of a run folder
_LIBRARIES = ("torchvision", "timm", "hf")
_FORMS = "torchvision:NAME, timm:NAME, hf:NAME_OR_FOLDER or package.module:factory"
_OWN_FACTORIES = tuple(f"exeunt.zoo:{name}" for name in ("digits", "resnet18", "resnet20", "resnet56"))


def build_model(
    spec: str,
    *,
    n_classes: int | None = None,
    weights: str | Path | None = None,
    trained: bool = False,
    seed: int = 0,
) -> nn.Module:
    """Make the classifier that `spec` names, in eval mode. See `make_model`, which tells what of it is random."""
    return make_model(spec, n_classes=n_classes, weights=weights, trained=trained, seed=seed).model


def make_model(
    spec: str,
    *,
    n_classes: int | None = None,
    weights: str | Path | None = None,
    trained: bool = False,
    seed: int = 0,
) -> Made:
    """Make the classifier that `spec` names, in eval mode, and say which part of it has random weights, if any.

    `spec`: "torchvision:NAME", "timm:NAME", "hf:NAME_OR_FOLDER" (image or sequence classification), or
    "package.module:factory", a function that returns a module and may take `n_classes`.
    `n_classes`: width of the classifier; default the architecture's own.
    `weights`: a file (safetensors, or a state dict saved by torch), or "pretrained" for those that the
    library or hub offers; default random weights drawn from `seed`, "hf:" models with trained weights
    excepted: they come with theirs.
    `trained`: refuse a model any part of which would stay random, as far as that can be told: what a function
    of somebody's own returns is taken to be trained.

    Raises InputError for a name that does not exist or weights that do not fit, MissingExtra for a library
    that is not installed.
    """
    kind, separator, name = spec.partition(":")
    if not separator or not kind or not name:
        raise InputError(f"model {spec!r} is not understood: write {_FORMS}")
    pretrained = weights == PRETRAINED
    makers = {"torchvision": _torchvision, "timm": _timm, "hf": hugging_face.make}
    with seeded(seed, torch.device("cpu")):
        made = makers[kind](name, n_classes, pretrained) if kind in makers else _own(kind, name, n_classes)
    if pretrained and kind not in makers:
        raise InputError(f"there are no pretrained weights for {spec!r}: give weights a file")
    if weights is not None and not pretrained:
        _load(made.model, Path(weights))
        made = Made(made.model)
    elif trained and made.random:
        raise InputError(
            f"{made.random} of {spec!r} would have random weights, and heads alone cannot make up for that: "
            "give trained weights (--weights FILE, or pretrained), or train the whole network (--mode joint)"
        )
    made.model.eval()
    return made


def keep_model(spec: str, model: nn.Module, folder: Path) -> None:
    """Write to a run folder what it takes to make the model again besides its name: of "hf:" the configuration."""
    if spec.startswith("hf:"):
        hugging_face.save_config(model, folder / _KEPT)


def rebuild_model(spec: str, *, n_classes: int, folder: Path) -> nn.Module:
    """Make a run folder's model again, in eval mode and without its weights; no hub is asked and no file outside read.

    Raises ArtefactError if what `keep_model` wrote is missing from the run folder's `folder`.
    """
    if not spec.startswith("hf:"):
        return build_model(spec, n_classes=n_classes)
    with seeded(0, torch.device("cpu")):
        return hugging_face.rebuild(folder / _KEPT).eval()


def is_own_code(spec: str) -> bool:
    """Return whether making the model calls anything but the known libraries and this package's networks."""
    return spec.partition(":")[0] not in _LIBRARIES and spec not in _OWN_FACTORIES


def brings_weights(spec: str) -> bool:
    """Return whether a model comes with trained weights unasked: Hugging Face models do, if there are any."""
    kind, _, name = spec.partition(":")
    return kind == "hf" and hugging_face.brings_weights(name)


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read named tensors from a safetensors file or a state dict saved by torch. Nothing is executed.

    A state dict may lie under the key "state_dict" or "model", and its names may start with "module.".
    Raises InputError when there is no such file, ArtefactError when it holds no named tensors.
    """
    if not path.is_file():
        raise InputError(f"there is no weights file {path}")
    if path.suffix == ".safetensors":
        content: Any = _read_safetensors(path)
    else:
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
        except (RuntimeError, EOFError, pickle.UnpicklingError, ValueError, KeyError) as error:
            raise ArtefactError(
                f"{path} is no file of weights alone ({type(error).__name__}): save the model's "
                "state_dict(), as safetensors or with torch.save"
            ) from error
    for key in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not all(isinstance(v, Tensor) for v in content.values()):
        raise ArtefactError(f"{path} holds no named tensors: save the model's state_dict()")
    if content and all(name.startswith("module.") for name in content):
        content = {name.removeprefix("module."): value for name, value in content.items()}
    return dict(content)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    safetensors = require("safetensors", extra="torch")
    load_file = require("safetensors.torch", extra="torch").load_file
    try:
        content: dict[str, Tensor] = load_file(str(path))
    except safetensors.SafetensorError as error:
        raise ArtefactError(f"{path} is damaged or no safetensors file: {error}") from error
    return dict(content)


def _load(model: nn.Module, path: Path) -> None:
    """Load weights into the model, in place; every name and shape must agree."""
    weights = read_weights(path)
    own = model.state_dict()
    counters = {name for name in own if name.endswith("num_batches_tracked")}
    missing = [name for name in own if name not in weights and name not in counters]
    extra = [name for name in weights if name not in own]
    wrong = [
        f"{name} has shape {tuple(weights[name].shape)}, the model's is {tuple(own[name].shape)}"
        for name in own
        if name in weights and weights[name].shape != own[name].shape
    ]
    problems = [f"lacks {_some(missing)}"] if missing else []
    problems += [f"has {_some(extra)}, which the model does not"] if extra else []
    problems += wrong[:3]
    if problems:
        raise InputError(
            f"{path} does not fit this model: it {'; '.join(problems)}. Use the architecture and n_classes "
            "that it was trained with"
        )
    model.load_state_dict(weights, strict=False)


def _torchvision(name: str, n_classes: int | None, pretrained: bool) -> Made:
    models = require("torchvision.models", extra="torch")
    _check_name(name, models.list_models(), "torchvision")
    if pretrained:
        model: nn.Module = models.get_model(name, weights="DEFAULT")
        return Made(_check_classes(model, n_classes, name))
    # "init_weights" is only what old architectures warn about; random weights are asked for here.
    options = {} if n_classes is None else {"num_classes": n_classes}
    if name in ("googlenet", "inception_v3"):
        options |= {"init_weights": True, "aux_logits": False}
    return Made(models.get_model(name, weights=None, **options), ALL)


def _check_classes(model: nn.Module, n_classes: int | None, name: str) -> nn.Module:
    last = [layer for layer in model.modules() if isinstance(layer, (nn.Linear, nn.Conv2d))][-1]
    width = last.out_features if isinstance(last, nn.Linear) else last.out_channels
    if n_classes not in (None, width):
        raise InputError(
            f"the pretrained weights of {name!r} answer with {width} classes, the data has {n_classes}: "
            "leave weights out, or give a file trained on this data"
        )
    return model


def _timm(name: str, n_classes: int | None, pretrained: bool) -> Made:
    timm = require("timm", extra="timm")
    if not timm.is_model(name):
        _check_name(name, timm.list_models(), "timm")
    options = {} if n_classes is None else {"num_classes": n_classes}
    model: Any = timm.create_model(name, pretrained=pretrained, **options)
    if not pretrained:
        return Made(model, ALL)
    width = model.pretrained_cfg["num_classes"]
    fits = n_classes in (None, width)
    return Made(
        model, "" if fits else f"the classifier (the pretrained one has {width} classes, not {n_classes})"
    )


def _own(module_name: str, factory_name: str, n_classes: int | None) -> Made:
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
    return Made(model, "" if is_own_code(f"{module_name}:{factory_name}") else ALL)


def _check_name(name: str, known: list[str], library: str) -> None:
    if name not in known:
        close = difflib.get_close_matches(name, known, n=5) or known[:5]
        raise InputError(f"{library} has no model {name!r}; the nearest names are: {', '.join(close)}")


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
