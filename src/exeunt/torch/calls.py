"""How a network is called: its arguments, its logits, eval mode, and hooks that read its intermediate features.

Hooks are registered for one forward pass only. A network that carries exits stays the user's own: calling, saving and
exporting it work as before.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from exeunt._support.text import listed
from exeunt.errors import InputError

Inputs: TypeAlias = "Tensor | Sequence[Any] | Mapping[str, Any]"


class ExitLogits(NamedTuple):
    """The output of a network with exits of its own: the `logits` (n, k) of its last exit, and of `earlier` ones."""

    logits: Tensor
    earlier: tuple[Tensor, ...]


def as_call(inputs: Inputs) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return a batch's inputs (tensor, tuple or dict) as positional and keyword arguments.

    Tensors are copied, because a network may change its arguments and the caller's tensors must stay as they are.
    """
    copies = map_tensors(Tensor.clone, inputs)
    if isinstance(inputs, Mapping):
        return (), copies
    return (copies,) if isinstance(inputs, Tensor) else tuple(copies), {}


def map_tensors(function: Callable[[Tensor], Tensor], nested: Any) -> Any:
    """Replace every tensor in a tensor, mapping, tuple or list by what the function makes of it."""
    if isinstance(nested, Tensor):
        return function(nested)
    if isinstance(nested, Mapping):
        return {key: map_tensors(function, part) for key, part in nested.items()}
    if isinstance(nested, (tuple, list)):
        return type(nested)(map_tensors(function, part) for part in nested)
    return nested


def to_device(nested: Any, device: torch.device) -> Any:
    """Move every tensor in a tensor, mapping, tuple or list to `device`."""
    return map_tensors(lambda tensor: tensor.to(device, non_blocking=True), nested)


def first_tensor(output: Any) -> Tensor:
    """Return a module's output, or the first tensor of its tuple or mapping (hidden states come first).

    Raises InputError where there is none.
    """
    values = output.values() if isinstance(output, Mapping) else output
    for tensor in values if isinstance(output, (Mapping, tuple, list)) else (output,):
        if isinstance(tensor, Tensor):
            return tensor
    raise InputError(f"a module with an exit must return a tensor, this one returns {type(output).__name__}")


def logits_of(output: Any) -> Tensor:
    """Return the logits of a network's output: itself, its field `logits`, or its first tensor.

    They are those of classes (n, k), or of masks (n, k, h, w). Raises InputError for another number of axes.
    """
    logits = getattr(output, "logits", None)
    logits = first_tensor(output) if logits is None else logits
    if logits.ndim not in (2, 4):
        raise InputError(
            f"the network must return logits of shape (inputs, classes), or of masks (inputs, classes, height, width), "
            f"got {tuple(logits.shape)}: exits need a classifier or a segmenter"
        )
    return logits


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


def modules_named(model: nn.Module, names: Sequence[str]) -> dict[str, nn.Module]:
    """Return these modules by name. Raises InputError, with the nearest names, for one that the model does not have."""
    known = {name: module for name, module in model.named_modules() if name}
    for name in names:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=3)
            hint = f" Did you mean {' or '.join(map(repr, close))}?" if close else ""
            modules = listed(list(known), 20)
            raise InputError(f"the model has no module {name!r}.{hint} The modules are: {modules}")
    return {name: known[name] for name in names}


@contextmanager
def on_return(modules: Mapping[Any, nn.Module], visit: Callable[[Any, Any], None]) -> Iterator[None]:
    """Call `visit(key, output)` each time one of the modules returns inside the block."""

    def hook_of(key: Any) -> Callable[[nn.Module, Any, Any], None]:
        return lambda _module, _args, output: visit(key, output)

    with ExitStack() as stack:
        for key, module in modules.items():
            stack.callback(module.register_forward_hook(hook_of(key)).remove)
        yield
