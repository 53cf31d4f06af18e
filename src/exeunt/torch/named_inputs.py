"""A batch's inputs as named tensors: read, padded, checked for finite values, and passed to a network.

There are two forms. `Named` is what executors run on: NumPy arrays or tensors, moved to the network's device. An
`ExampleBatch` is what a network is cut, measured and exported on.
"""

from __future__ import annotations

import inspect
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from exeunt._support.arrays import Booleans
from exeunt.engine.inputs import inputs_by_name, padded_length
from exeunt.errors import InputError
from exeunt.torch.calls import ExitLogits, Inputs, logits_of

Named: TypeAlias = "dict[str, Tensor]"
"""Tensors by name, with one row per input; positional ones have the names "0", "1", ..."""


def token_inputs(named: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Return the names of the inputs with one value per token: those of the shape of "attention_mask" (n, t).

    Without such a mask there are none.
    """
    mask = named.get("attention_mask")
    if mask is None or mask.ndim != 2:
        return ()
    return tuple(name for name, tensor in named.items() if tensor.shape == mask.shape)


@dataclass(frozen=True)
class ExampleBatch:
    """A batch of a model's inputs: `tensors` with their `names`, passed by keyword or by position."""

    names: tuple[str, ...]
    tensors: tuple[Tensor, ...]
    by_keyword: bool

    @property
    def n(self) -> int:
        """Number of inputs in the batch."""
        return len(self.tensors[0])

    @property
    def named(self) -> dict[str, Tensor]:
        """The tensors by name."""
        return dict(zip(self.names, self.tensors, strict=True))

    @property
    def inputs(self) -> Inputs:
        """The batch in the form in which the model takes it."""
        return self.named if self.by_keyword else self.tensors

    def copies(self) -> tuple[Tensor, ...]:
        """Return copies of the tensors: a model or its stages may change their arguments in place."""
        return tuple(tensor.clone() for tensor in self.tensors)

    def positional(self, model: nn.Module) -> nn.Module:
        """Return a module that takes `tensors` in order and returns a tuple of logits (n, k).

        The model's logits come first, then those of its own earlier exits.
        """
        return _PositionalModel(model, self.names if self.by_keyword else ())

    @property
    def n_tokens(self) -> int | None:
        """Length of the texts in tokens; None where the inputs are no texts."""
        names = token_inputs(self.named)
        return self.named[names[0]].shape[1] if names else None

    def at_least_two(self) -> ExampleBatch:
        """Return the batch with at least two rows and two tokens: an export makes a size of 1 a constant."""
        twice = tuple(torch.cat([tensor, tensor]) for tensor in self.tensors) if self.n == 1 else self.tensors
        batch = replace(self, tensors=twice)
        return batch.of_length(2) if self.n_tokens == 1 else batch

    def of_length(self, tokens: int) -> ExampleBatch:
        """Return the batch with texts of this many tokens: they are cut or repeated."""
        places = torch.arange(tokens, device=self.tensors[0].device) % (self.n_tokens or 1)
        texts = token_inputs(self.named)
        tensors = tuple(tensor[:, places] if name in texts else tensor for name, tensor in self.named.items())
        return replace(self, tensors=tensors)


class _PositionalModel(nn.Module):
    def __init__(self, model: nn.Module, keywords: tuple[str, ...]) -> None:
        super().__init__()
        self.model = model
        self.keywords = keywords

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        named = dict(zip(self.keywords, tensors, strict=True)) if self.keywords else {}
        output = self.model(**named) if named else self.model(*tensors)
        return (logits_of(output), *(output.earlier if isinstance(output, ExitLogits) else ()))


def read_example(model: nn.Module, example: Inputs) -> ExampleBatch:
    """Return a tensor, a tuple of tensors or a mapping of tensors as an ExampleBatch.

    Raises InputError for anything else, for an empty batch, and for tensors whose first axes differ.
    """
    if isinstance(example, Mapping):
        names, values = tuple(example), tuple(example.values())
    else:
        values = (example,) if isinstance(example, Tensor) else tuple(cast("tuple[Any, ...]", example))
        names = _parameter_names(model, len(values))
    named = dict(zip(names, values, strict=True))
    wrong = [f"{name}: {type(part).__name__}" for name, part in named.items() if not isinstance(part, Tensor)]
    if wrong or not values:
        raise InputError(
            f"the example must be a tensor, a tuple of tensors or a dict of tensors, got {wrong or 'nothing'}"
        )
    _check_rows(named, "the inputs of the example")
    if len(values[0]) == 0:
        raise InputError("the example is an empty batch: give at least one input")
    return ExampleBatch(names, values, isinstance(example, Mapping))


def _check_rows(named: Named, role: str) -> None:
    sizes = {name: tuple(tensor.shape) for name, tensor in named.items()}
    if not named or any(not size for size in sizes.values()) or len({size[0] for size in sizes.values()}) > 1:
        raise InputError(f"{role} must be tensors with one row per input, got shapes {sizes}")


def _parameter_names(model: nn.Module, count: int) -> tuple[str, ...]:
    """Return the names of the first `count` arguments of the model's forward, "input_i" for those without one."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    known = [p.name for p in inspect.signature(model.forward).parameters.values() if p.kind in kinds]
    return tuple(known[i] if i < len(known) else f"input_{i}" for i in range(count))


def named_tensors(inputs: Inputs, like: Tensor) -> Named:
    """Return a batch's inputs (NumPy arrays or tensors) by name, on the device of `like`; real numbers get its type.

    Raises InputError for anything that is no array, and for tensors with different numbers of rows.
    """
    named = {name: _tensor(array, like) for name, array in inputs_by_name(inputs).items()}
    _check_rows(named, "inputs")
    return named


def _tensor(array: Any, like: Tensor) -> Tensor:
    if isinstance(array, np.ndarray):
        array = torch.from_numpy(np.require(array, requirements=("C", "W")))  # PyTorch warns of other arrays
    if not isinstance(array, Tensor):
        raise InputError(f"inputs must be arrays or tensors, got {type(array).__name__}")
    return array.to(like.device, like.dtype if array.is_floating_point() else None, non_blocking=True)


def check_like(named: Named, example: Named) -> None:
    """Raise InputError for inputs that differ from the example in their number, kind of numbers, or number of axes."""
    count = sum(name.isdigit() for name in named)
    if count > len(example):
        raise InputError(f"the network takes {len(example)} array(s), got {count}")
    alone = len(named) == len(example) == 1  # may be given by name or not
    for name, tensor in named.items():
        like = next(iter(example.values())) if alone else example.get(name, tensor)
        subject = "the input" if name.isdigit() else name
        if tensor.is_floating_point() != like.is_floating_point():
            kind = "real" if like.is_floating_point() else "whole"
            raise InputError(
                f"{subject} must be {kind} numbers ({_short(like)}), got {_short(tensor)}: prepare raw images or texts "
                "with runner.prepare"
            )
        if tensor.ndim != like.ndim:
            shape = ", ".join(map(str, like.shape[1:]))
            raise InputError(
                f"{subject} must have {like.ndim} axes, as (n, {shape}), got shape {tuple(tensor.shape)}"
            )


def _short(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def arguments_of(named: Named) -> tuple[tuple[Tensor, ...], Named]:
    """Return copies of the tensors as positional and keyword arguments of a network, see `as_call`."""
    args = tuple(tensor.clone() for name, tensor in named.items() if name.isdigit())
    return args, {name: tensor.clone() for name, tensor in named.items() if not name.isdigit()}


def padded(named: Named, *, longest: int | None, token: int) -> Named:
    """Return texts padded to one of few lengths (see `padded_length`); other inputs are returned as they are.

    `longest`: tokens that the network takes, None for no limit. `token`: the filler of "input_ids".
    Raises InputError for texts longer than the network takes.
    """
    if not (texts := token_inputs(named)):
        return named
    tokens = named[texts[0]].shape[1]
    more = padded_length(tokens, longest) - tokens
    filler = {"input_ids": token}
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
        # A value that is not finite makes the sum so, too. The sum takes one pass; rows are rarely checked one by one.
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor.sum())):
            finite &= torch.isfinite(tensor).flatten(1).all(dim=1).cpu().numpy()
    return finite


def size_key(named: Named, *, any_length: bool = False) -> Hashable:
    """Return names, types and sizes of tensors, without the number of rows, and of tokens with `any_length`."""
    texts = token_inputs(named) if any_length else ()
    return tuple(
        (name, tensor.dtype, "tokens" if name in texts else tensor.shape[1:])
        for name, tensor in named.items()
    )
