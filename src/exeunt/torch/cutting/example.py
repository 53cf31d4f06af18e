"""Running a model on an example: its inputs in one form, eval mode, and what its modules return."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from exeunt.errors import InputError
from exeunt.torch.calls import Inputs, every_logits, token_inputs

__all__ = ["ExampleBatch", "PositionalModel", "evaluating", "on_return", "read_example"]


class PositionalModel(nn.Module):
    """A model that is called with tensors in a fixed order, also where it takes them by name."""

    def __init__(self, model: nn.Module, keywords: tuple[str, ...]) -> None:
        super().__init__()
        self.model = model
        self.keywords = keywords

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Return the logits (n, k), and after them those of the model's own earlier exits (see `every_logits`)."""
        if self.keywords:
            return every_logits(self.model(**dict(zip(self.keywords, tensors, strict=True))))
        return every_logits(self.model(*tensors))


@dataclass(frozen=True)
class ExampleBatch:
    """A batch of a model's inputs: `tensors` with their `names`, which the model takes by keyword or by position."""

    names: tuple[str, ...]
    tensors: tuple[Tensor, ...]
    by_keyword: bool

    @property
    def n(self) -> int:
        """Number of inputs in the batch."""
        return len(self.tensors[0])

    def copies(self) -> tuple[Tensor, ...]:
        """Return the tensors to run a model or its stages on: these may change them in place."""
        return tuple(tensor.clone() for tensor in self.tensors)

    def positional(self, model: nn.Module) -> PositionalModel:
        """Return the model in a form that is called with `tensors` in order."""
        return PositionalModel(model, self.names if self.by_keyword else ())

    @property
    def token_inputs(self) -> tuple[str, ...]:
        """Names of the inputs with one value per token, see `token_inputs`."""
        return token_inputs(dict(zip(self.names, self.tensors, strict=True)))

    @property
    def n_tokens(self) -> int | None:
        """Length of the texts in tokens; None where the inputs are no texts."""
        names = self.token_inputs
        return self.tensors[self.names.index(names[0])].shape[1] if names else None

    def at_least_two(self) -> ExampleBatch:
        """Return the batch with two rows and, of texts, two tokens at least: export makes a size of 1 a constant."""
        tensors = self.tensors
        if self.n == 1:
            tensors = tuple(torch.cat([tensor, tensor]) for tensor in tensors)
        batch = replace(self, tensors=tensors)
        return batch.of_length(2) if self.n_tokens == 1 else batch

    def of_length(self, tokens: int) -> ExampleBatch:
        """Return the batch with its texts cut to this many tokens, or repeated until they have as many."""
        places = torch.arange(tokens, device=self.tensors[0].device) % (self.n_tokens or 1)
        names = self.token_inputs
        tensors = tuple(
            tensor[:, places] if name in names else tensor
            for name, tensor in zip(self.names, self.tensors, strict=True)
        )
        return replace(self, tensors=tensors)


def read_example(model: nn.Module, example: Inputs) -> ExampleBatch:
    """Return a tensor, a tuple of tensors or a mapping of tensors as an ExampleBatch.

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
    return ExampleBatch(names, values, by_keyword)


def _parameter_names(model: nn.Module, count: int) -> tuple[str, ...]:
    """Return the names of the first `count` arguments of the model's forward, "input_i" where it has none."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    known = [p.name for p in inspect.signature(model.forward).parameters.values() if p.kind in kinds]
    return tuple(known[i] if i < len(known) else f"input_{i}" for i in range(count))


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put every module into eval mode inside the block, and back into its own mode afterwards."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@contextmanager
def on_return(modules: Mapping[str, nn.Module], visit: Callable[[str, Any], None]) -> Iterator[None]:
    """Call `visit(name, output)` each time one of the modules returns inside the block."""

    def hook_of(name: str) -> Callable[[nn.Module, Any, Any], None]:
        return lambda _module, _args, output: visit(name, output)

    with ExitStack() as stack:
        for name, module in modules.items():
            stack.callback(module.register_forward_hook(hook_of(name)).remove)
        yield
