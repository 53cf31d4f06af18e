"""Trained weights: their files, which parts of a model have none, and whether their classes are those of the data.

Reading a file of weights executes no code.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from exeunt._support.files import atomic_path, system_error
from exeunt._support.text import listed
from exeunt.errors import ArtefactError, InputError, require

EVERY_PART = "every part"
# Names of classes without meaning: LABEL_0, plain numbers, WordNet ids (whose order is ImageNet's own).
_GENERIC = re.compile(r"(label_)?\d+|n\d{8}")


class BuiltModel(NamedTuple):
    """A model, and which part of it is not trained.

    `random`: in words, the part that has random weights, "" for none. `new_classifier`: name of the module that is a
    new classifier behind a trained network; the rest is then not `random`. An encoder has no classifier at all.
    """

    model: nn.Module
    random: str = ""
    new_classifier: str = ""


def random_part(model: nn.Module, again: nn.Module) -> str:
    """Return in words which weights differ between two models of the same function, "" for none."""

    def same(a: Tensor, b: Tensor) -> bool:
        return a.shape == b.shape and bool(((a == b) | (a.isnan() & b.isnan())).all())

    others = again.state_dict()
    known = {name: tensor for name, tensor in model.state_dict().items() if tensor.ndim > 1}
    random = [name for name, tensor in known.items() if name in others and not same(tensor, others[name])]
    if not random:
        return ""
    return EVERY_PART if len(random) == len(known) else f"a part ({', '.join(random[:3])})"


def save_weights(network: nn.Module, path: Path) -> None:
    """Write all parameters and buffers to `path`, atomically; shared tensors are written once."""
    safetensors = require("safetensors.torch", extra="torch")
    with atomic_path(path) as temporary:
        temporary.touch()
        usual = temporary.stat().st_mode  # safetensors makes files that only their owner can read
        try:
            safetensors.save_model(network, str(temporary))
        except require("safetensors", extra="torch").SafetensorError as error:
            raise system_error(error) or OSError(str(error)) from error
        temporary.chmod(usual)


def load_weights(network: nn.Module, path: Path) -> None:
    """Load what `save_weights` wrote into a network of the same shape. Raises ArtefactError if it does not fit."""
    safetensors = require("safetensors.torch", extra="torch")
    try:
        safetensors.load_model(network, str(path))
    except Exception as error:  # an error of safetensors, or a RuntimeError of torch
        raise ArtefactError(f"{path} does not fit this network: {error}") from error


def load_weights_file(model: nn.Module, path: Path) -> None:
    """Load a file that `read_weights` reads into a model. Raises InputError unless all names and shapes agree."""
    weights = read_weights(path)
    own = model.state_dict()
    missing = [name for name in own if name not in weights and not name.endswith("num_batches_tracked")]
    extra = [name for name in weights if name not in own]
    wrong = [
        f"{name} has shape {tuple(weights[name].shape)}, the model's is {tuple(own[name].shape)}"
        for name in own
        if name in weights and weights[name].shape != own[name].shape
    ]
    problems = [f"lacks {listed(missing, 3)}"] if missing else []
    problems += [f"has {listed(extra, 3)}, which the model does not"] if extra else []
    problems += wrong[:3]
    if problems:
        raise InputError(
            f"{path} does not fit this model: it {'; '.join(problems)}. Use the architecture and n_classes "
            "that it was trained with"
        )
    model.load_state_dict(weights, strict=False)


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return the named tensors of a safetensors file, or of a state dict saved by torch.

    The state dict may be under the key "state_dict" or "model", and its names may start with "module.".
    Raises InputError if there is no such file, ArtefactError if it holds no named tensors.
    """
    if not path.is_file():
        raise InputError(f"there is no weights file {path}")
    damaged = require("safetensors", extra="torch").SafetensorError
    try:
        if path.suffix == ".safetensors":
            content: Any = require("safetensors.torch", extra="torch").load_file(str(path))
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (damaged, RuntimeError, EOFError, pickle.UnpicklingError, ValueError, KeyError) as error:
        raise ArtefactError(
            f"{path} is damaged or holds more than weights ({type(error).__name__}): save the model's "
            "state_dict(), as safetensors or with torch.save"
        ) from error
    for key in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not all(isinstance(v, Tensor) for v in content.values()):
        raise ArtefactError(f"{path} holds no named tensors: save the model's state_dict()")
    if content and all(name.startswith("module.") for name in content):
        content = {name.removeprefix("module."): tensor for name, tensor in content.items()}
    return dict(content)


def classes_of_weights(model: nn.Module, path: Path) -> int | None:
    """Return how many classes a file's weights have, for a model whose last linear layer is the classifier, or None."""
    last = [name for name, layer in model.named_modules() if isinstance(layer, (nn.Linear, nn.Conv2d))][-1:]
    weight = read_weights(path).get(f"{last[0]}.weight") if last else None
    return None if weight is None else len(weight)


def check_class_order(model: Sequence[str] | None, data: Sequence[str] | None) -> None:
    """Raise InputError, showing both orders, if the model and the data name their classes differently.

    Case does not count, nor do synonyms after a comma. Nothing is compared if either has no names, or names without
    meaning (LABEL_0, 3, n01440764).
    """
    if not model or not data or is_generic(model) or is_generic(data):
        return
    of_model, of_data = ([_bare(name) for name in names] for names in (model, data))
    if of_model == of_data:
        return
    first = next((i for i, pair in enumerate(zip(of_model, of_data, strict=False)) if len(set(pair)) > 1), 0)
    raise InputError(
        f"the model and the data use the same number for different classes, first {first}: "
        f"the model's order is {listed(model, 10)}; the data's is {listed(data, 10)}. Rename the data's "
        "classes so that their order is the model's, or train from weights without these names"
    )


def is_generic(names: Sequence[str]) -> bool:
    """Return whether names of classes are without meaning."""
    return all(_GENERIC.fullmatch(name.strip().lower()) for name in names)


def _bare(name: str) -> str:
    return re.sub(r"[\s_-]+", " ", name.split(",")[0]).strip().casefold()
