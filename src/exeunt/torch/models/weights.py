"""Files of weights: those of a run folder, and those that users bring. Reading one executes no code."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from exeunt._files import atomic_path, system_error
from exeunt.errors import ArtefactError, InputError, require

if TYPE_CHECKING:
    from torch import nn

__all__ = ["load_weights", "load_weights_file", "read_weights", "save_weights"]


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
    counters = {name for name in own if name.endswith("num_batches_tracked")}
    missing = [name for name in own if name not in weights and name not in counters]
    extra = [name for name in weights if name not in own]
    wrong = [
        f"{name} has shape {tuple(weights[name].shape)}, the model's is {tuple(own[name].shape)}"
        for name in own
        if name in weights and weights[name].shape != own[name].shape
    ]
    problems = [f"lacks {_shortened(missing)}"] if missing else []
    problems += [f"has {_shortened(extra)}, which the model does not"] if extra else []
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
                f"{path} is damaged or holds more than weights ({type(error).__name__}): save the model's "
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


def _shortened(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
