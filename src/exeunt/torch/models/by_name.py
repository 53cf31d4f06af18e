"""Building a classifier from its name: torchvision, timm, Hugging Face, or a function of the user's."""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from exeunt._hub import check_download, hub_access
from exeunt.errors import ExeuntError, InputError, one_line, require
from exeunt.torch.memory import bounded_memory
from exeunt.torch.models import hugging_face
from exeunt.torch.models.hugging_face import EVERY_PART, BuiltModel
from exeunt.torch.models.spec import FORMS, ModelSpec, runs_custom_code
from exeunt.torch.models.weights import load_weights_file
from exeunt.torch.processes import seeded

__all__ = [
    "PRETRAINED",
    "brings_weights",
    "build_model",
    "build_model_and_report",
    "check_model",
    "rebuild_model",
    "save_model_config",
]

PRETRAINED = "pretrained"
_CONFIG_FOLDER = "model"  # in the run folder


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
    "package.module:factory", a function that returns a module and may take `n_classes` or `num_classes`. Keyword
    arguments follow a question mark: "timm:vit_tiny_patch16_224?img_size=64&depth=6" (not for "hf:").
    `n_classes`: width of the classifier; by default the architecture's own.
    `weights`: a file (safetensors, or a state dict saved by torch), or "pretrained" for those that the library or
    hub offers; by default random, drawn from `seed`. "hf:" models are the exception: they come with their weights.
    `trained`: refuse a model any part of which would stay random, as far as that is known: a user's function is called
    again under another seed, and what then differs is random.

    Raises InputError for a name that does not exist, weights that do not fit, a model that cannot be built or takes
    more memory than there is; MissingExtra for a library that is not installed.
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
    parsed, pretrained = ModelSpec.parse(spec), weights == PRETRAINED
    build = {"torchvision": _torchvision, "timm": _timm, "hf": _hugging_face}.get(parsed.kind, _custom)
    if pretrained and build is _custom:
        raise InputError(f"there are no pretrained weights for {spec!r}: give weights a file")
    built = _built(build, parsed, n_classes, pretrained, seed)
    if weights is not None and not pretrained:
        load_weights_file(built.model, Path(weights))
        built = BuiltModel(built.model)
    elif trained and runs_custom_code(spec):
        again = _built(build, parsed, n_classes, pretrained, seed + 1)
        built = BuiltModel(built.model, _random_part(built.model, again.model))
    if trained and built.random:
        raise InputError(
            f"{built.random} of {spec!r} would have random weights, and heads alone cannot make up for that: "
            "give trained weights (--weights FILE, or pretrained), or train the whole network (--mode joint)"
        )
    built.model.eval()
    return built


def _built(
    build: Callable[[ModelSpec, int | None, bool], BuiltModel],
    spec: ModelSpec,
    n_classes: int | None,
    pretrained: bool,
    seed: int,
) -> BuiltModel:
    """Call one of the functions that build models; raises InputError with the reason if that fails."""
    memory = bounded_memory(f"the network {spec.text!r}")
    with _failures_told(spec), seeded(seed, torch.device("cpu")), memory:
        return build(spec, n_classes, pretrained)


@contextmanager
def _failures_told(spec: ModelSpec) -> Iterator[None]:
    """Raise InputError with the reason for whatever a library, or the user's code, raises."""
    try:
        yield
    except ExeuntError:
        raise
    except (Exception, SystemExit) as error:  # a module that is a script may even exit
        raise InputError(f"{spec.text!r} cannot be built: {one_line(error)}") from error


def _random_part(model: nn.Module, again: nn.Module) -> str:
    """Return in words which weights differ between two models of the same function, "" for none."""
    others = again.state_dict()
    known = {name: value for name, value in model.state_dict().items() if value.ndim > 1}
    random = [name for name, value in known.items() if name in others and not _same(value, others[name])]
    if not random:
        return ""
    return EVERY_PART if len(random) == len(known) else f"a part ({', '.join(random[:3])})"


def _same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.shape == b.shape and bool(((a == b) | (a.isnan() & b.isnan())).all())


def check_model(spec: str, weights: str | Path | None) -> None:
    """Raise what `build_model` would for a name that does not exist or a file that is missing, without building it."""
    parsed = ModelSpec.parse(spec)
    if parsed.kind == "torchvision":
        _check_name(parsed.name, require("torchvision.models", extra="torch").list_models(), "torchvision")
    elif parsed.kind == "timm":
        _check_timm_name(parsed.name)
    elif parsed.kind == "hf":
        hugging_face.check(parsed.name)
    else:
        with _failures_told(parsed):
            _factory(parsed)
    if weights not in (None, PRETRAINED) and not Path(str(weights)).is_file():
        raise InputError(f"there is no weights file {weights}")


def save_model_config(spec: str, model: nn.Module, folder: Path) -> None:
    """Write to a run folder what `rebuild_model` needs besides the name: for "hf:" models the configuration."""
    if spec.startswith("hf:"):
        hugging_face.save_config(model, folder / _CONFIG_FOLDER)


def rebuild_model(spec: str, *, n_classes: int, folder: Path, new_classifier: bool = False) -> nn.Module:
    """Rebuild a run folder's model with random weights, in eval mode. Neither a hub nor other files are read.

    `new_classifier`: the model had no trained classifier when it was built.
    Raises ArtefactError if what `save_model_config` wrote is missing from `folder`.
    """
    if not spec.startswith("hf:"):
        return build_model(spec, n_classes=n_classes)
    with seeded(0, torch.device("cpu")):
        return hugging_face.rebuild(folder / _CONFIG_FOLDER, new_classifier=new_classifier).eval()


def brings_weights(spec: str) -> bool:
    """Return whether a model comes with trained weights by default: Hugging Face models do, if they have any."""
    parsed = ModelSpec.parse(spec)
    return parsed.kind == "hf" and hugging_face.brings_weights(parsed.name)


def _hugging_face(spec: ModelSpec, n_classes: int | None, pretrained: bool) -> BuiltModel:
    return hugging_face.build(spec.name, n_classes, pretrained)


def _torchvision(spec: ModelSpec, n_classes: int | None, pretrained: bool) -> BuiltModel:
    models = require("torchvision.models", extra="torch")
    _check_name(spec.name, models.list_models(), "torchvision")
    if pretrained:
        url = models.get_model_weights(spec.name).DEFAULT.url
        kept = Path(torch.hub.get_dir(), "checkpoints", url.rpartition("/")[2])
        check_download(url, kept, f"the weights of {spec.name!r}")
        model: nn.Module = models.get_model(spec.name, weights="DEFAULT", **spec.options)
        _check_classes(model, n_classes, spec.name)
        return BuiltModel(model)
    # Without "init_weights" these old architectures warn that the default will change.
    options = {} if n_classes is None else {"num_classes": n_classes}
    if spec.name in ("googlenet", "inception_v3"):
        options |= {"init_weights": True, "aux_logits": False}
    return BuiltModel(models.get_model(spec.name, weights=None, **options, **spec.options), EVERY_PART)


def _check_classes(model: nn.Module, n_classes: int | None, name: str) -> None:
    last = [layer for layer in model.modules() if isinstance(layer, (nn.Linear, nn.Conv2d))][-1]
    width = last.out_features if isinstance(last, nn.Linear) else last.out_channels
    if n_classes not in (None, width):
        raise InputError(
            f"the pretrained weights of {name!r} answer with {width} classes, the data has {n_classes}: "
            "leave weights out, or give a file trained on this data"
        )


def _timm(spec: ModelSpec, n_classes: int | None, pretrained: bool) -> BuiltModel:
    timm = _check_timm_name(spec.name)
    options = {} if n_classes is None else {"num_classes": n_classes}
    if not pretrained:
        return BuiltModel(timm.create_model(spec.name, **options, **spec.options), EVERY_PART)
    with hub_access(spec.name, f"the weights of {spec.name!r} cannot be loaded"):
        model: Any = timm.create_model(spec.name, pretrained=True, **options, **spec.options)
    width = model.pretrained_cfg["num_classes"]
    if n_classes in (None, width):
        return BuiltModel(model)
    new = [name for name, module in model.named_modules() if name and module is model.get_classifier()]
    random = f"the classifier (the pretrained one has {width} classes, not {n_classes})"
    return BuiltModel(model, new_classifier=new[0]) if new else BuiltModel(model, random)


def _custom(spec: ModelSpec, n_classes: int | None, pretrained: bool) -> BuiltModel:  # noqa: ARG001 - as the others
    factory = _factory(spec)
    takes = inspect.signature(factory).parameters
    classes = (
        {}
        if n_classes is None
        else {name: n_classes for name in ("n_classes", "num_classes") if name in takes}
    )
    model = factory(**classes, **spec.options)
    if not isinstance(model, nn.Module):
        raise InputError(f"{spec.kind}:{spec.name} must return a torch.nn.Module, got {type(model).__name__}")
    return BuiltModel(model, "" if runs_custom_code(spec.text) else EVERY_PART)


def _factory(spec: ModelSpec) -> Callable[..., Any]:
    """Return the function that a model is made by. Raises InputError, with the names that there are, without one."""
    try:
        module = importlib.import_module(spec.kind)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{spec.kind}.".startswith(f"{error.name}."):
            raise  # of a package that the module itself imports
        here = Path(f"{error.name}.py").is_file() or Path(error.name).is_dir()
        raise InputError(
            f"there is no module {error.name!r} to import; "
            + ("`python -m exeunt` finds those in this folder" if here else f"a model is written {FORMS}")
        ) from error
    factory: Callable[..., Any] | None = getattr(module, spec.name, None)
    if factory is None or not callable(factory):
        known = [name for name, value in vars(module).items() if _is_its_own(value, module)]
        close = difflib.get_close_matches(spec.name, known, n=3) or known[:5]
        listed = f"; it has {', '.join(close)}" if close else ""
        raise InputError(f"module {spec.kind!r} has no function {spec.name!r}{listed}")
    return factory


def _is_its_own(value: Any, module: ModuleType) -> bool:
    """Return whether a value is a public function that a module defines."""
    return inspect.isfunction(value) and value.__module__ == module.__name__ and value.__name__[0] != "_"


def _check_timm_name(name: str) -> Any:
    """Return the library timm. Raises InputError if it has no such model."""
    timm = require("timm", extra="timm")
    if not timm.is_model(name):
        _check_name(name, timm.list_models(), "timm")
    return timm


def _check_name(name: str, known: list[str], library: str) -> None:
    if name not in known:
        close = difflib.get_close_matches(name, known, n=5) or known[:5]
        raise InputError(f"{library} has no model {name!r}; the nearest names are: {', '.join(close)}")
