"""The file from which a broken-off training goes on, written after every epoch."""

from __future__ import annotations

import hashlib
import pickle
import zipfile
from typing import TYPE_CHECKING, Any

import torch

from exeunt._files import atomic_path
from exeunt.errors import ArtefactError, InputError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

__all__ = ["digest", "load_checkpoint", "save_checkpoint"]

_FORMAT = "exeunt-training-1"


def digest(state: Mapping[str, Tensor]) -> str:
    """Return a hash of named tensors: their names, types, shapes and every bit of their values."""
    hasher = hashlib.blake2b(digest_size=16)
    for name, value in sorted(state.items()):
        tensor = value.detach().cpu().contiguous()
        hasher.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        hasher.update(tensor.flatten().view(torch.uint8).numpy().data)
    return hasher.hexdigest()


def save_checkpoint(path: Path, arguments: Mapping[str, Any], state: Mapping[str, Any]) -> None:
    """Write `state` (tensors, numbers, strings, and containers of them) with the run's `arguments`."""
    with atomic_path(path) as temporary:
        torch.save({"format": _FORMAT, "arguments": dict(arguments), "state": dict(state)}, temporary)


def load_checkpoint(path: Path, arguments: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the state of an earlier run with the same arguments, or None when there is no such file.

    Raises InputError when the file was written by a run with other arguments, naming those that differ;
    ArtefactError when it is damaged or no checkpoint of ours. Nothing in the file is executed.
    """
    if not path.exists():
        return None
    if not zipfile.is_zipfile(path):
        raise ArtefactError(f"{path} is damaged or no checkpoint: delete it to start again")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError, OSError, ValueError, KeyError) as error:
        raise ArtefactError(f"{path} is damaged or no checkpoint: delete it to start again") from error
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise ArtefactError(f"{path} was not written by this version: delete it to start again")
    different = _differences(content["arguments"], arguments)
    if different:
        raise InputError(
            f"{path} belongs to a run with other arguments ({'; '.join(different)}): use these, or another "
            "checkpoint_dir"
        )
    state: dict[str, Any] = content["state"]
    return state


def _differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    missing = object()
    return [
        f"{name} was {then.get(name)!r} and is {now.get(name)!r}"
        for name in {**then, **now}
        if then.get(name, missing) != now.get(name, missing)
    ]
