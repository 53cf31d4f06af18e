"""A model's example inputs, brought into one form: named tensors whose first axis is the batch."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from exeunt.errors import InputError
from exeunt.torch.calls import logits_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from exeunt.torch.calls import Inputs

__all__ = ["Example", "LogitsOnly", "Positional", "evaluating", "read_example"]


class LogitsOnly(nn.Module):
    """A classifier that returns a record (as those of Hugging Face do), made to return its logits alone."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Return the logits (n, k)."""
        return logits_of(self.model(*args, **kwargs))


class Positional(nn.Module):
    """A model called with tensors in a fixed order, whatever it calls them itself; returns its logits."""

    def __init__(self, model: nn.Module, keywords: tuple[str, ...]) -> None:
        super().__init__()
        self.model = model
        self.keywords = keywords

    def forward(self, *tensors: Tensor) -> Tensor:
        """Return the logits (n, k)."""
        if self.keywords:
            return logits_of(self.model(**dict(zip(self.keywords, tensors, strict=True))))
        return logits_of(self.model(*tensors))


@dataclass(frozen=True)
class Example:
    """A batch of a model's inputs. `names` and `tensors` go together; `keywords`: passed by name or place."""

    names: tuple[str, ...]
    tensors: tuple[Tensor, ...]
    by_keyword: bool

    @property
    def n(self) -> int:
        """Number of inputs in the batch."""
        return len(self.tensors[0])

    def positional(self, model: nn.Module) -> Positional:
        """Return the model, to be called with `tensors` in order."""
        return Positional(model, self.names if self.by_keyword else ())

    def at_least_two(self) -> Example:
        """Return the example with its rows doubled if there is only one: export bakes in a batch of 1."""
        if self.n > 1:
            return self
        doubled = tuple(torch.cat([tensor, tensor]) for tensor in self.tensors)
        return Example(self.names, doubled, self.by_keyword)


def read_example(model: nn.Module, example: Inputs) -> Example:
    """Return a tensor, a tuple of tensors or a mapping of tensors as an Example.

    Raises InputError for anything else, an empty batch, or tensors whose first axes differ.
    """
    by_keyword = isinstance(example, Mapping)
    if isinstance(example, Mapping):
        names, values = tuple(example), tuple(example.values())
    else:
        values = (example,) if isinstance(example, Tensor) else tuple(cast("tuple[Any, ...]", example))
        names = _parameter_names(model, len(values))
    named = list(zip(names, values, strict=True))
    wrong = [f"{name}: {type(value).__name__}" for name, value in named if not isinstance(value, Tensor)]
    if wrong or not values:
        raise InputError(
            f"the example must be a tensor, a tuple of tensors or a dict of tensors, got {wrong or 'nothing'}"
        )
    sizes = {name: tuple(value.shape) for name, value in named}
    if any(not shape for shape in sizes.values()) or len({shape[0] for shape in sizes.values()}) != 1:
        raise InputError(
            f"every tensor of the example must have the batch as its first axis, got shapes {sizes}"
        )
    if len(values[0]) == 0:
        raise InputError("the example is an empty batch: give at least one input")
    return Example(names, values, by_keyword)


def _parameter_names(model: nn.Module, count: int) -> tuple[str, ...]:
    """Return the names of the first `count` arguments of the model's forward, made up where it has none."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    known = [p.name for p in inspect.signature(model.forward).parameters.values() if p.kind in kinds]
    return tuple(known[i] if i < len(known) else f"input_{i}" for i in range(count))


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put every module in eval mode, and afterwards each back into the mode it was in."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
