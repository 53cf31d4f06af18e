"""A batch's inputs as named tensors: read, padded, checked for finite values, and passed to a network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from exeunt.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Hashable

    from numpy.typing import NDArray

    from exeunt._arrays import Booleans
    from exeunt.torch.calls import Inputs

__all__ = [
    "Named",
    "arguments_of",
    "check_like",
    "finite_rows",
    "named_tensors",
    "numpy_logits",
    "padded",
    "size_key",
]

Named: TypeAlias = "dict[str, Tensor]"
"""Tensors by name, with one row per input; positional ones have the names "0", "1", ..."""


def named_tensors(inputs: Inputs, like: Tensor) -> Named:
    """Return a batch's inputs (NumPy arrays or tensors) by name, on the device of `like`; real numbers in its type.

    Raises InputError for anything that is no array, and for tensors with different numbers of rows.
    """
    if isinstance(inputs, Mapping):
        values = dict(sorted(inputs.items()))
    elif isinstance(inputs, (tuple, list)):
        values = {str(place): value for place, value in enumerate(inputs)}
    else:
        values = {"0": inputs}
    named = {name: _tensor(value, like) for name, value in values.items()}
    sizes = {name: tuple(tensor.shape) for name, tensor in named.items()}
    if not named or any(not size for size in sizes.values()) or len({size[0] for size in sizes.values()}) > 1:
        raise InputError(f"inputs must be tensors with one row per input, got shapes {sizes}")
    return named


def _tensor(value: Any, like: Tensor) -> Tensor:
    if isinstance(value, np.ndarray):
        value = torch.from_numpy(np.ascontiguousarray(value))
    if not isinstance(value, Tensor):
        raise InputError(f"inputs must be arrays or tensors, got {type(value).__name__}")
    return value.to(like.device, like.dtype if value.is_floating_point() else None, non_blocking=True)


def check_like(named: Named, example: Named) -> None:
    """Raise InputError for inputs that are not like those that the network was built for.

    There must not be more positional ones, and each must be of real numbers, or of whole ones, and have as many axes.
    """
    count = sum(name.isdigit() for name in named)
    if count > len(example):
        raise InputError(f"the network takes {len(example)} array(s), got {count}")
    alone = len(named) == len(example) == 1  # may be given by name or not
    for name, tensor in named.items():
        like = next(iter(example.values())) if alone else example.get(name, tensor)
        given = "the input" if name.isdigit() else name
        if tensor.is_floating_point() != like.is_floating_point():
            kind = "real" if like.is_floating_point() else "whole"
            raise InputError(
                f"{given} must be {kind} numbers ({_short(like)}), got {_short(tensor)}: prepare raw images or texts "
                "with runner.prepare"
            )
        if tensor.ndim != like.ndim:
            shape = ", ".join(map(str, like.shape[1:]))
            raise InputError(
                f"{given} must have {like.ndim} axes, as (n, {shape}), got shape {tuple(tensor.shape)}"
            )


def _short(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def arguments_of(named: Named) -> tuple[tuple[Tensor, ...], Named]:
    """Return the positional and the keyword arguments with which to call a network."""
    args = tuple(tensor for name, tensor in named.items() if name.isdigit())
    return args, {name: tensor for name, tensor in named.items() if not name.isdigit()}


def padded(named: Named, model: nn.Module) -> Named:
    """Return texts padded to a multiple of 8 tokens, above 64 tokens to one of 32.

    So there are few lengths, and rows of more batches can be joined. Texts are inputs with an "attention_mask"
    (n, t); every tensor of its shape is padded. Texts do not become longer than the model has positions for.
    """
    mask = named.get("attention_mask")
    if mask is None or mask.ndim != 2:
        return named
    tokens = mask.shape[1]
    multiple = 8 if tokens <= 64 else 32
    config = getattr(model, "config", None)
    most = getattr(config, "max_position_embeddings", None) or tokens
    more = max(0, min(-(-tokens // multiple) * multiple, most) - tokens)
    filler = {"input_ids": getattr(config, "pad_token_id", None) or 0}
    return {
        name: functional.pad(tensor, (0, more), value=filler.get(name, 0))
        if more and tensor.shape == mask.shape
        else tensor
        for name, tensor in named.items()
    }


def finite_rows(named: Named) -> Booleans:
    """Return which inputs have neither NaN nor infinite values, (n,)."""
    finite: Booleans = np.ones(len(next(iter(named.values()))), dtype=bool)
    for tensor in named.values():
        # If any value is not finite, neither is the sum, which takes one pass; rows are rarely checked one by one.
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor.sum())):
            finite &= torch.isfinite(tensor).flatten(1).all(dim=1).cpu().numpy()
    return finite


def size_key(named: Named) -> Hashable:
    """Return names, types and sizes of tensors, without the number of rows."""
    return tuple((name, tensor.dtype, tensor.shape[1:]) for name, tensor in named.items())


def numpy_logits(logits: Tensor) -> NDArray[Any]:
    """Return logits as float32 in NumPy."""
    array: NDArray[Any] = logits.detach().float().cpu().numpy()
    return array
