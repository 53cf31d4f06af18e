"""One forward pass that tells where a network could carry exits, and what each place costs."""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from exeunt.errors import InputError
from exeunt.torch.placement import Point
from exeunt.torch.taps import as_call, first_tensor, logits_of, to_device

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from exeunt.torch.taps import Inputs

__all__ = ["Survey", "candidates", "head_macs", "survey"]

_CONTAINERS = (nn.Sequential, nn.ModuleList)


@dataclass(frozen=True)
class Survey:
    """What one forward pass showed.

    `points`: the places, in the order in which the network last runs them. `calls`: how often each runs.
    `full`: multiply-adds per input of the whole network. `n_classes`: width of its answer.
    """

    points: tuple[Point, ...]
    calls: dict[str, int]
    full: float
    n_classes: int


def survey(model: nn.Module, example: Inputs, names: Sequence[str]) -> Survey:
    """Run `model` once on `example`, in eval mode, and report on the modules called `names`.

    Modules that do not run, or whose output is no tensor with a batch axis, are left out.
    """
    calls: Counter[str] = Counter()
    seen: dict[str, tuple[float, tuple[int, ...]]] = {}
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    args, kwargs = as_call(to_device(example, device))
    n = _batch_size((*args, *kwargs.values()))
    modules = {name: _module(model, name) for name in names}
    with counting(model) as counter:

        def hook_of(name: str) -> Any:
            def hook(_module: nn.Module, _args: Any, output: Any) -> None:
                calls[name] += 1
                seen.pop(name, None)  # the place of its last call is the one that counts
                shape = _shape(output, n)
                if shape is not None:
                    seen[name] = (counter.get_total_flops() / 2 / n, shape)

            return hook

        handles = [module.register_forward_hook(hook_of(name)) for name, module in modules.items()]
        try:
            logits = logits_of(model(*args, **kwargs))
        finally:
            for handle in handles:
                handle.remove()
    points = tuple(Point(name, cost, shape) for name, (cost, shape) in seen.items() if cost > 0)
    return Survey(points, dict(calls), counter.get_total_flops() / 2 / n, logits.shape[1])


def candidates(model: nn.Module) -> list[str]:
    """Return the names of a network's blocks: the members of its sequences, at any depth outside a block."""
    names: list[str] = []

    def walk(module: nn.Module, prefix: str, *, inside: bool) -> None:
        for name, child in module.named_children():
            path = f"{prefix}{name}"
            if isinstance(child, _CONTAINERS):
                walk(child, f"{path}.", inside=True)
            elif inside:
                names.append(path)
            else:
                walk(child, f"{path}.", inside=False)

    walk(model, "", inside=False)
    return names


def head_macs(head: nn.Module, shape: Sequence[int]) -> float:
    """Return the multiply-adds per input of a head on features of one input's `shape`."""
    parameter = next(head.parameters())
    features = torch.zeros(2, *shape, device=parameter.device, dtype=parameter.dtype)
    with counting(head) as counter:
        head(features)
    return float(counter.get_total_flops()) / 4


@contextmanager
def counting(module: nn.Module) -> Iterator[FlopCounterMode]:
    """Count floating-point operations in eval mode, attention included."""
    training = {m: m.training for m in module.modules()}
    fastpath = torch.backends.mha.get_fastpath_enabled()
    module.eval()
    torch.backends.mha.set_fastpath_enabled(False)  # its fused kernel is not counted
    try:
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            yield counter
    finally:
        torch.backends.mha.set_fastpath_enabled(fastpath)
        for m, mode in training.items():
            m.training = mode


def _shape(output: Any, n: int) -> tuple[int, ...] | None:
    """Return the shape for one input of a module's output, or None where a head could not read it."""
    try:
        tensor = first_tensor(output)
    except InputError:
        return None
    if not 2 <= tensor.ndim <= 4 or len(tensor) != n or not tensor.is_floating_point():
        return None
    return tuple(tensor.shape[1:])


def _module(model: nn.Module, name: str) -> nn.Module:
    try:
        return model.get_submodule(name)
    except AttributeError:
        raise InputError(
            f"there is no module named {name!r} to carry an exit; the names of blocks are: "
            + ", ".join(candidates(model))
        ) from None


def _batch_size(values: Sequence[Any]) -> int:
    for value in values:
        if isinstance(value, Tensor) and value.ndim:
            if len(value) == 0:
                raise InputError("the example is an empty batch: give at least one input")
            return len(value)
    raise InputError("the example has no tensor with a batch axis: give a batch of the network's inputs")
