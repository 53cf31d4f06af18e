"""A batch's inputs as named tensors: read, padded, checked for finite values, and passed to a network."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from exeunt._arrays import Booleans
from exeunt.engine.inputs import padded_length
from exeunt.errors import InputError
from exeunt.torch.calls import Inputs, token_inputs
from exeunt.torch.models.hugging_face import longest_text

__all__ = [
    "Named",
    "TextPadding",
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
        value = torch.from_numpy(np.require(value, requirements=("C", "W")))  # of others PyTorch warns
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
    """Return the positional and the keyword arguments with which to call a network: copies, see `as_call`."""
    args = tuple(tensor.clone() for name, tensor in named.items() if name.isdigit())
    return args, {name: tensor.clone() for name, tensor in named.items() if not name.isdigit()}


@dataclass(frozen=True)
class TextPadding:
    """How a model's texts are padded: `most` tokens at most (None: no limit), with `token` as the filler."""

    most: int | None
    token: int

    @classmethod
    def of(cls, model: nn.Module) -> TextPadding:
        """Return what the model's configuration says."""
        return cls(longest_text(model), getattr(getattr(model, "config", None), "pad_token_id", None) or 0)


def padded(named: Named, padding: TextPadding) -> Named:
    """Return texts padded to one of few lengths (see `padded_length`); other inputs are returned as they are.

    Raises InputError for texts longer than the model takes.
    """
    texts = token_inputs(named)
    if not texts:
        return named
    tokens = named[texts[0]].shape[1]
    more = padded_length(tokens, padding.most) - tokens
    filler = {"input_ids": padding.token}
    return {
        name: functional.pad(tensor, (0, more), value=filler.get(name, 0))
        if more and name in texts
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


def size_key(named: Named, *, any_length: bool = False) -> Hashable:
    """Return names, types and sizes of tensors, without the number of rows, and that of tokens with `any_length`."""
    texts = token_inputs(named) if any_length else ()
    return tuple(
        (name, tensor.dtype, "tokens" if name in texts else tensor.shape[1:])
        for name, tensor in named.items()
    )


def numpy_logits(logits: Tensor) -> NDArray[Any]:
    """Return logits as float32 in NumPy."""
    array: NDArray[Any] = logits.detach().float().cpu().numpy()
    return array
