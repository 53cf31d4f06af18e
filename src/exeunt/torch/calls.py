"""How a network is called: its arguments, its logits, and hooks that read its intermediate features.

Hooks are registered for one forward pass only, so a network that carries exits stays the user's own: calling it
directly, saving it or exporting it knows nothing of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from exeunt.errors import InputError

__all__ = [
    "ExitLogits",
    "Inputs",
    "as_call",
    "every_logits",
    "first_tensor",
    "hooked",
    "logits_of",
    "to_device",
    "token_inputs",
]

Inputs: TypeAlias = "Tensor | Sequence[Any] | Mapping[str, Any]"
Visit: TypeAlias = Callable[[int, Tensor], "Tensor | None"]


class ExitLogits(NamedTuple):
    """What a network with exits of its own returns: the `logits` (n, k) of the last, and those of `earlier` ones."""

    logits: Tensor
    earlier: tuple[Tensor, ...]


@contextmanager
def hooked(modules: Sequence[nn.Module], calls: Sequence[int], visit: Visit) -> Iterator[None]:
    """Call `visit(i, features)` when the i-th module has run for the calls[i]-th time in the block.

    `visit` gets the features at that moment, before anything can change them in place. What it returns, unless
    None, replaces the features in the network.
    """
    left = list(calls)

    def hook_of(i: int) -> Callable[[nn.Module, Any, Any], Any]:
        def hook(_module: nn.Module, _args: Any, output: Any) -> Any:
            left[i] -= 1
            if left[i] != 0:
                return None
            replacement = visit(i, first_tensor(output))
            return None if replacement is None else _replaced(output, replacement)

        return hook

    handles = [module.register_forward_hook(hook_of(i)) for i, module in enumerate(modules)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def first_tensor(output: Any) -> Tensor:
    """Return a module's output, or the first tensor of its tuple or mapping (hidden states come first).

    Raises InputError where there is none.
    """
    if isinstance(output, Tensor):
        return output
    values = output.values() if isinstance(output, Mapping) else output
    if isinstance(output, (Mapping, tuple, list)):
        for value in values:
            if isinstance(value, Tensor):
                return value
    raise InputError(f"a module with an exit must return a tensor, this one returns {type(output).__name__}")


def logits_of(output: Any) -> Tensor:
    """Return the logits (n, k) of a classifier's output: itself, its field `logits`, or its first tensor.

    Raises InputError when they are not two-dimensional.
    """
    logits = getattr(output, "logits", None)
    logits = first_tensor(output) if logits is None else logits
    if logits.ndim != 2:
        raise InputError(
            f"the network must return logits of shape (inputs, classes), got {tuple(logits.shape)}: exits "
            "need a classifier"
        )
    return logits


def every_logits(output: Any) -> tuple[Tensor, ...]:
    """Return `logits_of` a network's output, and after them the logits of its own earlier exits, if it has some."""
    return (logits_of(output), *(output.earlier if isinstance(output, ExitLogits) else ()))


def as_call(inputs: Inputs) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Turn a batch's inputs (tensor, tuple or dict) into positional and keyword arguments.

    Tensors are copied: a network may change what it is called with, and the caller's must stay as they are.
    """
    if isinstance(inputs, Tensor):
        return (inputs.clone(),), {}
    if isinstance(inputs, Mapping):
        return (), {name: _copied(value) for name, value in inputs.items()}
    return tuple(_copied(value) for value in inputs), {}


def _copied(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value


def token_inputs(named: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Return which of a network's inputs hold one value per token: those of the shape of "attention_mask" (n, t).

    None do where there is no such mask.
    """
    mask = named.get("attention_mask")
    if mask is None or mask.ndim != 2:
        return ()
    return tuple(name for name, tensor in named.items() if tensor.shape == mask.shape)


def to_device(value: Any, device: torch.device) -> Any:
    """Move every tensor in a tensor, mapping, tuple or list to `device`."""
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, Mapping):
        return {key: to_device(item, device) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return type(value)(to_device(item, device) for item in value)
    return value


def _replaced(output: Any, tensor: Tensor) -> Any:
    """Return `output` with its first tensor replaced."""
    if isinstance(output, Tensor):
        return tensor
    if isinstance(output, Mapping):
        name = next(key for key, value in output.items() if isinstance(value, Tensor))
        output[name] = tensor  # type: ignore[index]
        return output
    items = list(output)
    items[next(i for i, value in enumerate(items) if isinstance(value, Tensor))] = tensor
    return type(output)(items)
