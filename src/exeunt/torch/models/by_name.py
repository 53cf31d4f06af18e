"""Building a classifier from its name: torchvision, timm, Hugging Face, or a function of the user's."""

from __future__ import annotations

import ast
import difflib
import importlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from exeunt.errors import ExeuntError, InputError, one_line
from exeunt.torch.devices import seeded
from exeunt.torch.models import hugging_face, image_libraries
from exeunt.torch.models.weights import (
    EVERY_PART,
    BuiltModel,
    classes_of_weights,
    load_weights_file,
    random_part,
)

PRETRAINED = "pretrained"
_FORMS = "torchvision:NAME, timm:NAME, hf:NAME_OR_FOLDER or package.module:factory"
_LIBRARIES: dict[str, tuple[Callable[[str], Any], Callable[..., BuiltModel]]] = {
    "torchvision": (image_libraries.check_torchvision, image_libraries.build_torchvision),
    "timm": (image_libraries.check_timm, image_libraries.build_timm),
    "hf": (hugging_face.read_config, hugging_face.build),
}
"""By kind of name: the function that checks it, and the one that builds the model."""
_OUR_FACTORIES = tuple(
    f"exeunt.zoo:{name}" for name in ("digits", "resnet8_wide", "resnet18", "resnet20", "resnet56")
)
_DECIDED_ELSEWHERE = {
    **dict.fromkeys(("num_classes", "n_classes"), "the data say how many classes there are"),
    **dict.fromkeys(("pretrained", "weights"), "--weights says so"),
}
_CONFIG_FOLDER = "model"  # in the run folder


@dataclass(frozen=True)
class ModelSpec:
    """A model's name: the library or the module of a function (`kind`), the `name` there, and keyword arguments.

    `text`: the whole name as it was written.
    """

    text: str
    kind: str
    name: str
    options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> ModelSpec:
        """Take "KIND:NAME?ARGUMENT=VALUE&..." apart; a value is a Python literal, else a string.

        "hf:" models take no arguments. Arguments of a library's models must be numbers, because run folders bring them
        and a library may do anything with a string, such as open a path.
        Raises InputError for anything else.
        """
        kind, separator, rest = text.partition(":")
        name, question, query = (rest, "", "") if kind == "hf" else rest.partition("?")
        if not separator or not kind or not name:
            raise InputError(f"model {text!r} is not understood: write {_FORMS}")
        options = dict(_argument(text, part) for part in query.split("&")) if question else {}
        for option, argument in options.items():
            if option in _DECIDED_ELSEWHERE:
                raise InputError(f"leave {option} out of {text!r}: {_DECIDED_ELSEWHERE[option]}")
            if kind in _LIBRARIES and not _is_numeric(argument):
                raise InputError(
                    f"arguments of {kind} models must be numbers, got {option}={argument!r} in {text!r}"
                )
        return cls(text, kind, name, options)


def _argument(text: str, part: str) -> tuple[str, Any]:
    name, equals, text_value = part.partition("=")
    if not equals or not name.isidentifier():
        raise InputError(
            f"arguments of a model are written NAME?ARGUMENT=VALUE&ARGUMENT=VALUE, got {part!r} in {text!r}"
        )
    if text_value.lower() in ("true", "false"):
        return name, text_value.lower() == "true"
    try:
        return name, ast.literal_eval(text_value)
    except (ValueError, SyntaxError):
        return name, text_value


def _is_numeric(argument: Any) -> bool:
    """Return whether a value is a number, True, False, None, or a tuple or list of these."""
    if isinstance(argument, (tuple, list)):
        return all(_is_numeric(part) for part in argument)
    return argument is None or isinstance(argument, (bool, int, float))


def runs_custom_code(spec: str) -> bool:
    """Return whether building the model calls code other than the known libraries and this package's networks."""
    parsed = ModelSpec.parse(spec)
    return parsed.kind not in _LIBRARIES and f"{parsed.kind}:{parsed.name}" not in _OUR_FACTORIES


def build_model(spec: str, **options: Any) -> nn.Module:
    """Build the classifier that `spec` names, in eval mode; for the options see `build_model_and_report`."""
    return build_model_and_report(spec, **options).model


def build_model_and_report(
    spec: str,
    *,
    n_classes: int | None = None,
    weights: str | Path | None = None,
    trained: bool = False,
    seed: int = 0,
) -> BuiltModel:
    """Build the classifier that `spec` names, in eval mode, and report which part of it has random weights.

    `spec`: "torchvision:NAME", "timm:NAME", "hf:NAME_OR_FOLDER" (image or sequence classification), or
    "package.module:factory", a function that returns a module and may take `n_classes` or `num_classes`. Keyword
    arguments follow a question mark: "timm:vit_tiny_patch16_224?img_size=64&depth=6" (not for "hf:").
    `n_classes`: width of the classifier; by default that of the weights in a file, else the architecture's own.
    `weights`: a file (safetensors, or a state dict saved by torch), or "pretrained" for those that the library or
    hub offers; by default random, drawn from `seed`. "hf:" models are the exception: they come with their weights.
    `trained`: refuse a model that is known to have a random part. A user's function is called twice, with two seeds:
    the weights that differ are random.

    Raises InputError for a name that does not exist, weights that do not fit, or a model that cannot be built;
    MissingExtra for a library that is not installed.
    """
    parsed, pretrained = ModelSpec.parse(spec), weights == PRETRAINED
    if pretrained and parsed.kind not in _LIBRARIES:
        raise InputError(f"there are no pretrained weights for {spec!r}: give weights a file")
    built = _built(parsed, n_classes, pretrained, seed)
    if weights is not None and not pretrained:
        if n_classes is None and (width := classes_of_weights(built.model, Path(weights))) is not None:
            built = _built(parsed, width, pretrained, seed)
        load_weights_file(built.model, Path(weights))
        built = BuiltModel(built.model)
    elif trained and runs_custom_code(spec):
        again = _built(parsed, n_classes, pretrained, seed + 1)
        built = BuiltModel(built.model, random_part(built.model, again.model))
    if trained and built.random:
        raise InputError(
            f"{built.random} of {spec!r} would have random weights, and heads alone cannot make up for that: "
            "give trained weights (--weights FILE, or pretrained), or train the whole network on labels (--mode joint)"
        )
    built.model.eval()
    return built


def _built(spec: ModelSpec, n_classes: int | None, pretrained: bool, seed: int) -> BuiltModel:
    with _input_errors(spec), seeded(seed, torch.device("cpu")):
        if spec.kind not in _LIBRARIES:
            return _made_by_function(spec, n_classes)
        return _LIBRARIES[spec.kind][1](spec.name, n_classes, pretrained, **spec.options)


@contextmanager
def _input_errors(spec: ModelSpec) -> Iterator[None]:
    """Raise InputError with the reason for whatever a library, or the user's code, raises."""
    try:
        yield
    except ExeuntError:
        raise
    except (Exception, SystemExit) as error:  # a module that is a script may even exit
        raise InputError(f"{spec.text!r} cannot be built: {one_line(error)}") from error


def _made_by_function(spec: ModelSpec, n_classes: int | None) -> BuiltModel:
    factory = _factory(spec)
    takes = inspect.signature(factory).parameters
    classes = {name: n_classes for name in ("n_classes", "num_classes") if name in takes}
    model = factory(**({} if n_classes is None else classes), **spec.options)
    if not isinstance(model, nn.Module):
        raise InputError(f"{spec.kind}:{spec.name} must return a torch.nn.Module, got {type(model).__name__}")
    return BuiltModel(model, "" if runs_custom_code(spec.text) else EVERY_PART)


def _factory(spec: ModelSpec) -> Callable[..., Any]:
    """Return the function that makes a model. Raises InputError, with the names that there are, without one."""
    try:
        module = importlib.import_module(spec.kind)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{spec.kind}.".startswith(f"{error.name}."):
            raise  # of a package that the module itself imports
        here = Path(f"{error.name}.py").is_file() or Path(error.name).is_dir()
        raise InputError(
            f"there is no module {error.name!r} to import; "
            + ("`python -m exeunt` finds those in this folder" if here else f"a model is written {_FORMS}")
        ) from error
    factory: Callable[..., Any] | None = getattr(module, spec.name, None)
    if factory is None or not callable(factory):
        own = [function for function in vars(module).values() if inspect.isfunction(function)]
        known = [
            function.__name__
            for function in own
            if function.__module__ == spec.kind and function.__name__[0] != "_"
        ]
        close = difflib.get_close_matches(spec.name, known, n=3) or known[:5]
        listed = f"; it has {', '.join(close)}" if close else ""
        raise InputError(f"module {spec.kind!r} has no function {spec.name!r}{listed}")
    return factory


def check_model(spec: str, weights: str | Path | None) -> None:
    """Raise what `build_model` would for a name that does not exist or a file that is missing, without building it."""
    parsed = ModelSpec.parse(spec)
    if parsed.kind in _LIBRARIES:
        _LIBRARIES[parsed.kind][0](parsed.name)
    else:
        with _input_errors(parsed):
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


def known_class_names(spec: str, model: Any, *, pretrained: bool) -> list[str] | None:
    """Return a trained model's names of its classes, in order (of Hugging Face LABEL_0, ... without names), or None.

    `pretrained`: whether the weights are those that the library offers.
    """
    parsed = ModelSpec.parse(spec)
    if parsed.kind == "hf":
        return [str(name) for _, name in sorted(model.config.id2label.items())]
    if parsed.kind == "torchvision" and pretrained:
        return image_libraries.torchvision_classes(parsed.name)
    return None
