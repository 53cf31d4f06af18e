"""Placing exits evenly by what a pass costs up to each module, or at named modules."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from exeunt._support.text import counted
from exeunt.errors import ExeuntWarning, InputError, NotExportable
from exeunt.score.mask_confidence import MOST_MASK_CLASSES
from exeunt.torch.batches import rows_of
from exeunt.torch.calls import Inputs, as_call, evaluating, first_tensor, logits_of, on_return
from exeunt.torch.cutting.cut_points import cut_points, points_of, try_graph
from exeunt.torch.cutting.graph import ModelGraph
from exeunt.torch.exits.multiply_adds import macs_up_to, output_of
from exeunt.torch.named_inputs import read_example

_NAME_THEM = (
    "name modules that return features (exits=[...], --exits blocks.1,blocks.3). Where forward itself adds a block's "
    "input to its output no place is found, but such blocks can be named; or move the addition into the block"
)


@dataclass(frozen=True)
class ExitPoint:
    """A module of a network that can carry an exit: a head reads its output.

    `cost`: multiply-adds per input up to its last return. `shape`: of its output for one input. `calls`: how often it
    runs in one pass.
    """

    name: str
    cost: float
    shape: tuple[int, ...]
    calls: int = 1


def find_candidates(
    model: nn.Module,
    example: Inputs,
    names: Sequence[str] | None,
    *,
    n_classes: int | None = None,
    new_classifier: str = "",
    masks: bool = False,
) -> tuple[list[ExitPoint], float, tuple[int, ...], ModelGraph | NotExportable | None]:
    """Return the modules of these names that can carry exits; for None, all that the architecture offers.

    They are in the order in which the network last runs them. Also returned: multiply-adds per input of the whole
    network, the shape of its logits for one input, and its graph, or why there is none; None if no graph was needed.

    `n_classes`: what the width of the logits must be, None for any. `new_classifier`: a module within which no place is
    offered, "" for none. `masks`: the logits are of masks (n, k, h, w).
    Raises InputError for a model that fails on the example, logits of another width, a name that does not exist or is
    given twice, no name at all, a module that does not run, and a module whose output no head can read.
    """
    graph = None
    with evaluating(model):
        output = logits_of(output_of(model, example))
        check_kind(output, example, masks=masks)
        check_width(output.shape[1], n_classes)
        if names is None:
            batch = read_example(model, example).at_least_two()
            graph = try_graph(model, batch)
            offered = [point.name for point in points_of(graph, model, batch)]
            names = [name for name in offered if not f"{name}.".startswith(f"{new_classifier}.")]
        else:
            _check_names(model, example, names)
        shapes, calls = _shapes(
            model, example, names, maps=None if not masks else "needed" if graph is None else "kept"
        )
        *costs, full = macs_up_to(model, example, list(shapes)).tolist()
    points = [
        ExitPoint(name, cost, shapes[name], calls[name]) for name, cost in zip(shapes, costs, strict=True)
    ]
    return points, full, tuple(output.shape[1:]), graph


def place_exits(points: Sequence[ExitPoint], number: int, *, full: float) -> list[ExitPoint]:
    """Return the points that carry a head, in the order of the network.

    `points`: in the order in which the network runs them. `full`: cost of the whole network, in their unit.
    `number` e: the e points with costs nearest to full * i / (e + 1), i = 1..e (least squares). If fewer points have
    different costs, each gets an exit, and an ExeuntWarning says so.

    Raises InputError for a number below 1, and if there are no points.
    """
    if not points:
        raise InputError(f"no place for an exit was found in this network: {_NAME_THEM}")
    if number < 1:
        raise InputError(f"exits must be at least 1, got {number}")
    # Of points with equal cost (a block and the activation after it) the last is kept: its features are better.
    later_costs = [*(point.cost for point in points[1:]), np.inf]
    distinct = [point for point, later in zip(points, later_costs, strict=True) if point.cost < later]
    if number > len(distinct):
        warnings.warn(
            f"{number} exits do not fit: {counted(len(distinct), 'place')} of different cost for one "
            f"{'was' if len(distinct) == 1 else 'were'} found, and each gets one: "
            f"{', '.join(point.name for point in distinct)}. For others {_NAME_THEM}",
            ExeuntWarning,
            stacklevel=2,
        )
        number = len(distinct)
    costs = np.array([point.cost for point in distinct]) / full
    targets = np.arange(1, number + 1) / (number + 1)
    chosen = linear_sum_assignment((costs[None] - targets[:, None]) ** 2)[1]
    return [distinct[i] for i in sorted(chosen)]


def check_width(width: int, n_classes: int | None) -> None:
    """Raise InputError for logits of another width than `n_classes`, unless that is None."""
    if n_classes not in (None, width):
        raise InputError(
            f"the network answers with {counted(width, 'class', 'classes')}, not with {n_classes}: let its "
            "classifier, or the decoder of its masks, have so many outputs (a function of your own may take n_classes)"
        )


def _check_names(model: nn.Module, example: Inputs, names: Sequence[str]) -> None:
    """Raise InputError unless the names are those of modules, each once, listing those that the architecture offers."""
    known = {name for name, _ in model.named_modules() if name}
    for name in names:
        if name not in known:
            offered = ", ".join(point.name for point in cut_points(model, example)) or f"none: {_NAME_THEM}"
            raise InputError(f"there is no place for an exit named {name!r}; the places are: {offered}")
        if names.count(name) > 1:
            raise InputError(f"exit {name!r} is named twice: name each exit once")
    if not names:
        raise InputError("exits is empty: name at least one exit, or give a number such as exits=7")


def check_kind(logits: Tensor, example: Inputs, *, masks: bool) -> None:
    """Raise InputError unless logits are of masks of the example's images, or without `masks` of classes."""
    if not masks:
        if logits.ndim != 2:
            raise InputError(
                f"the network returns masks, logits of shape {tuple(logits.shape)}: say masks=True (--task segment)"
            )
        return
    shape = tuple(logits.shape)
    if logits.ndim != 4:
        raise InputError(
            f"the network returns logits of shape {shape}, and masks need (images, classes, height, width)"
        )
    mask_scale_of((shape[2], shape[3]), example)
    if shape[1] > MOST_MASK_CLASSES:
        raise InputError(f"masks have at most {MOST_MASK_CLASSES} classes, and the network has {shape[1]}")


def mask_scale_of(size: tuple[int, int], example: Inputs) -> int:
    """Return how many times as high and wide the images of an example are as logits of this height and width.

    Raises InputError for a size that is no whole fraction of theirs.
    """
    height, width = _size(example)
    scale = height // size[0]
    if scale and (size[0] * scale, size[1] * scale) == (height, width):
        return scale
    raise InputError(
        f"the network returns masks of {size[0]}x{size[1]} pixels for images of {height}x{width}: let it return logits "
        "of the size of its input, or of a half, a quarter, ... of its height and width "
        "(torch.nn.functional.interpolate)"
    )


def _size(example: Inputs) -> tuple[int, int]:
    """Return height and width of the images of an example. Raises InputError for other inputs."""
    args, kwargs = as_call(example)
    tensors = [tensor for tensor in (*args, *kwargs.values()) if isinstance(tensor, Tensor)]
    if not tensors or tensors[0].ndim != 4:
        raise InputError("masks are of images: give inputs of shape (images, channels, height, width)")
    return tensors[0].shape[2], tensors[0].shape[3]


def _shapes(
    model: nn.Module, example: Inputs, names: Sequence[str], *, maps: str | None = None
) -> tuple[dict[str, tuple[int, ...]], Counter[str]]:
    """Run the model once; return the shape of each module's features for one input, by last call, and its calls.

    `maps`: "needed" if each module must return one feature map or tokens; "kept" if others are left out.
    """
    calls: Counter[str] = Counter()
    shapes: dict[str, tuple[int, ...]] = {}
    n, left_out = rows_of(example), set[str]()

    def keep(name: str, output: Any) -> None:
        is_map = isinstance(output, Tensor) and output.ndim in (3, 4)
        if maps == "kept" and not is_map:
            left_out.add(name)
            return
        if maps == "needed" and not isinstance(output, Tensor):
            tensors = output.values() if isinstance(output, Mapping) else output
            count = counted(sum(isinstance(tensor, Tensor) for tensor in tensors), "tensor")
            raise InputError(
                f"module {name!r} returns a {type(output).__name__} of {count}, and an exit of masks reads one feature "
                "map: name the modules inside it, each of which returns one"
            )
        features = first_tensor(output)
        if features.ndim < 2 or len(features) != n or not features.is_floating_point():
            raise InputError(
                f"module {name!r} returns {features.dtype} of shape {tuple(features.shape)} on a batch of {n}: "
                "an exit needs features with the batch as their first axis"
            )
        calls[name] += 1
        shapes.pop(name, None)  # so that the order is that of the last calls
        shapes[name] = tuple(features.shape[1:])

    args, kwargs = as_call(example)
    with on_return({name: model.get_submodule(name) for name in names}, keep), torch.no_grad():
        model(*args, **kwargs)
    if idle := [name for name in names if name not in shapes and name not in left_out]:
        raise InputError(f"module {idle[0]!r} did not run on the example: name one that does")
    return shapes, calls
