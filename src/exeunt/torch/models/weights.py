"""A network's weights as safetensors: tensors only, nothing that could run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from exeunt._files import atomic_path
from exeunt.errors import ArtefactError, require

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

__all__ = ["load_weights", "save_weights"]


def save_weights(network: nn.Module, path: Path) -> None:
    """Write all parameters and buffers to `path`, atomically; shared tensors are written once."""
    safetensors = require("safetensors.torch", extra="torch")
    with atomic_path(path) as temporary:
        temporary.touch()
        usual = temporary.stat().st_mode  # safetensors makes files that only their owner may read
        safetensors.save_model(network, str(temporary))
        temporary.chmod(usual)


def load_weights(network: nn.Module, path: Path) -> None:
    """Read weights into a network of the same shape, in place. Raises ArtefactError if they do not fit."""
    safetensors = require("safetensors.torch", extra="torch")
    try:
        safetensors.load_model(network, str(path))
    except Exception as error:  # safetensors raises its own error type, torch a RuntimeError
        raise ArtefactError(f"{path} does not fit this network: {error}") from error
