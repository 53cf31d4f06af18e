"""Where a network could carry exits: in which order, with what features, at what cost."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from exeunt.errors import InputError
from exeunt.torch.cut_points import cut_points
from exeunt.torch.example import evaluating
from exeunt.torch.measure import count_macs, cumulative_macs
from exeunt.torch.placement import Point
from exeunt.torch.sharing import rows_of
from exeunt.torch.taps import as_call, first_tensor, logits_of, to_device

if TYPE_CHECKING:
    from collections.abc import Sequence

    from exeunt.torch.taps import Inputs

__all__ = ["Survey", "survey"]


@dataclass(frozen=True)
class Survey:
    """What one look at a network showed.

    `points`: the places, in the order in which the network last runs them. `calls`: how often each runs.
    `full`: multiply-adds per input of the whole network. `n_classes`: width of its answer.
    """

    points: tuple[Point, ...]
    calls: dict[str, int]
    full: float
    n_classes: int


def survey(model: nn.Module, example: Inputs, exits: int | Sequence[str]) -> Survey:
    """Look at the places that `exits` names; for a number, at all that the architecture offers.

    Raises InputError for a name that does not exist, a module that does not run, or whose output no head
    can read.
    """
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    example = to_device(example, device)
    with evaluating(model):
        names = [p.name for p in cut_points(model, example)] if isinstance(exits, int) else list(exits)
        _check_names(model, example, names)
        shapes, calls, n_classes = _shapes(model, example, names)
        costs = cumulative_macs(model, example, list(shapes))
        full = count_macs(model, example)
    points = tuple(Point(name, float(cost), shapes[name]) for name, cost in zip(shapes, costs, strict=True))
    return Survey(points, calls, full, n_classes)


def _shapes(
    model: nn.Module, example: Inputs, names: Sequence[str]
) -> tuple[dict[str, tuple[int, ...]], dict[str, int], int]:
    """Run the model once: features' shapes for one input, in order of last call; calls; classes."""
    calls: Counter[str] = Counter()
    shapes: dict[str, tuple[int, ...]] = {}
    n = rows_of(example)

    def hook_of(name: str) -> Any:
        def hook(_module: nn.Module, _args: Any, output: Any) -> None:
            calls[name] += 1
            shapes.pop(name, None)  # the last call is the one that counts, and the order too
            shapes[name] = _shape(name, output, n)

        return hook

    handles = [model.get_submodule(name).register_forward_hook(hook_of(name)) for name in names]
    args, kwargs = as_call(example)
    try:
        with torch.no_grad():
            logits = logits_of(model(*args, **kwargs))
    finally:
        for handle in handles:
            handle.remove()
    idle = [name for name in names if name not in shapes]
    if idle:
        raise InputError(f"module {idle[0]!r} did not run on the example: name one that does")
    return shapes, dict(calls), logits.shape[1]


def _shape(name: str, output: Any, n: int) -> tuple[int, ...]:
    """Return the shape for one input of what a module returned, where a head can read it."""
    features = first_tensor(output)
    if features.ndim < 2 or len(features) != n or not features.is_floating_point():
        raise InputError(
            f"module {name!r} returns {features.dtype} of shape {tuple(features.shape)} on a batch of {n}: "
            "an exit needs features with the batch as their first axis"
        )
    return tuple(features.shape[1:])


def _check_names(model: nn.Module, example: Inputs, names: Sequence[str]) -> None:
    """Raise InputError for a name that is no module's, listing the places that the architecture offers."""
    known = {name for name, _ in model.named_modules() if name}
    unknown = [name for name in names if name not in known]
    if unknown:
        offered = ", ".join(point.name for point in cut_points(model, example))
        raise InputError(f"there is no place for an exit named {unknown[0]!r}; the places are: {offered}")
