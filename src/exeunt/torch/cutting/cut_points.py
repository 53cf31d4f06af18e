"""Finding the places where a network can be cut, and naming them as a person would.

At a good place the state is one value, the output of a block, beside values that stay the same throughout, such as an
attention mask. (These do not depend on both the inputs and the weights.) Of nested modules that end at the same place
the blocks are chosen: the repeated elements of the network's lists, such as residual blocks or transformer layers,
rather than the list around them or the layers within.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from exeunt.errors import InputError, NotExportable
from exeunt.torch.calls import Inputs, evaluating, first_tensor, on_return
from exeunt.torch.cutting.graph import ModelGraph, trace_graph
from exeunt.torch.cutting.stage import StateTensor, state_after
from exeunt.torch.named_inputs import ExampleBatch, read_example

_LISTS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


@dataclass(frozen=True)
class CutPoint:
    """A place where a network can be cut: just after the module `name`.

    `kind`: its class. `output_shape`: of its output for one input. `aliases`: other modules that end at the
    same place. `state`: the tensors that a stage ending there hands to the next, the output first.
    `exportable`: False if the network cannot be exported. Then `state` is empty and no stage can end there, but heads
    can read the output through hooks.
    """

    name: str
    kind: str
    output_shape: tuple[int, ...]
    aliases: tuple[str, ...] = ()
    state: tuple[StateTensor, ...] = ()
    exportable: bool = True


def cut_points(model: nn.Module, example: Inputs) -> list[CutPoint]:
    """Return the places where a network can be cut, in order of execution; may be empty.

    `example`: a batch of its inputs (a tensor, a tuple, or a dict of tensors). The model runs in eval mode and is then
    put back into its own mode. The places are proposals: `cut` accepts other modules, too.
    """
    batch = read_example(model, example).at_least_two()
    return points_of(try_graph(model, batch), model, batch)


def try_graph(model: nn.Module, example: ExampleBatch) -> ModelGraph | NotExportable:
    """Return a model's graph, or why there is none."""
    try:
        return trace_graph(model, example)
    except NotExportable as error:
        return error


def points_of(graph: ModelGraph | NotExportable, model: nn.Module, example: ExampleBatch) -> list[CutPoint]:
    """Return the places where a network can be cut (see `cut_points`), from what `try_graph` found."""
    if isinstance(graph, NotExportable):
        return _points_by_hooks(model, example)
    states = {path: state for path in graph.spans if (state := _single_state(graph, path)) is not None}
    modules = dict(model.named_modules())
    ran = [path for path, span in graph.spans.items() if span.used_outside]
    chosen = _blocks(states, ran, modules)
    if len(chosen) < 2:
        chosen = _layers(states, modules) or chosen
    ends = {path: graph.spans[path].last for path in ran}
    return [
        CutPoint(
            name=path,
            kind=type(modules[path]).__name__,
            output_shape=tuple(size for size in states[path][0].shape if size is not None),
            aliases=tuple(other for other in ran if other != path and ends[other] == ends[path]),
            state=states[path],
        )
        for path in sorted(chosen, key=ends.__getitem__)
    ]


def _single_state(graph: ModelGraph, path: str) -> tuple[StateTensor, ...] | None:
    """Return the state after a module if its output is the only value in it that depends on inputs and weights."""
    outputs = graph.spans[path].used_outside
    if not outputs or graph.output in outputs:
        return None
    feature = outputs[-1]
    try:
        nodes, tensors = state_after(graph, path, feature)
    except InputError:
        return None
    computed = [node for node in nodes if node in graph.uses_inputs and node in graph.uses_weights]
    crosses = graph.crosses(feature, graph.spans[path].last)
    first = tensors[0]
    is_feature = first.batch_dim == 0 and first.dtype.is_floating_point and len(first.shape) > 1
    return tuple(tensors) if computed == [feature] and crosses and is_feature else None


def _blocks(good: Collection[str], ran: Sequence[str], modules: Mapping[str, nn.Module]) -> list[str]:
    """Return the blocks among the good places: modules of a class whose every module is a good place."""
    composite = [path for path in ran if next(modules[path].children(), None) is not None]
    bad_kinds = {type(modules[path]) for path in composite if path not in good} - set(_LISTS)
    blocks = [path for path in composite if path in good and type(modules[path]) not in bad_kinds]
    # A module within a block is a part of it, unless the block only lists such modules.
    blocks = [path for path in blocks if (parent := _parent(path)) not in blocks or _is_list(modules[parent])]
    innermost = [path for path in blocks if not any(other.startswith(f"{path}.") for other in blocks)]
    return _repeated(innermost, modules)


def _parent(path: str) -> str:
    return path.rpartition(".")[0]


def _is_list(module: nn.Module) -> bool:
    """Return whether a module only holds others, in order."""
    if isinstance(module, nn.Sequential):
        return type(module).forward is nn.Sequential.forward
    return type(module) in _LISTS


def _repeated(paths: Sequence[str], modules: Mapping[str, nn.Module]) -> list[str]:
    """Leave out modules whose class occurs only once, such as the stem, unless none is repeated.

    Plain sequences share a class without being alike. They count if they are elements of a list and run after a
    repeated module, such as those that shrink a feature map between two groups of blocks.
    """
    counts = Counter(type(modules[path]) for path in paths)
    repeated: list[str] = []
    for path in paths:
        if type(modules[path]) in _LISTS:
            listed = "." in path and _is_list(modules[_parent(path)])
            if listed and repeated:
                repeated.append(path)
        elif counts[type(modules[path])] > 1:
            repeated.append(path)
    return repeated or list(paths)


def _layers(good: Iterable[str], modules: Mapping[str, nn.Module]) -> list[str]:
    """Return the layers of a network without blocks: the last one before each next layer with weights.

    If most layers with weights are no good places, the network is no plain sequence and none are returned.
    """
    groups: list[str] = []
    for path in good:
        if _has_matrix(modules[path]):
            groups.append(path)
        elif groups and next(modules[path].children(), None) is None:
            groups[-1] = path
    weighted = sum(_has_matrix(module) for module in modules.values())
    return groups if 2 * len(groups) >= weighted else []


def _has_matrix(module: nn.Module) -> bool:
    """Return whether a module has a parameter of its own with two axes or more."""
    return any(parameter.ndim > 1 for parameter in module.parameters(recurse=False))


def _points_by_hooks(model: nn.Module, example: ExampleBatch) -> list[CutPoint]:
    """Return the blocks of a network that cannot be exported, found in one run of it."""
    shapes: dict[str, tuple[int, ...]] = {}  # for one input, in the order of the modules' last outputs

    def keep(name: str, output: Any) -> None:
        with suppress(InputError):  # of a module that returns no tensor
            tensor = first_tensor(output)
            if tensor.ndim > 1 and len(tensor) == example.n and tensor.is_floating_point():
                shapes.pop(name, None)
                shapes[name] = tuple(tensor.shape[1:])

    modules = dict(model.named_modules())
    named = {name: module for name, module in modules.items() if name}
    with on_return(named, keep), evaluating(model), torch.no_grad():
        example.positional(model)(*example.copies())
    listed = [p for p in shapes if "." in p and _is_list(modules[_parent(p)])]
    blocks = [p for p in listed if next(modules[p].children(), None) and not _is_list(modules[p])]
    outermost = [p for p in blocks if not any(p.startswith(f"{other}.") for other in blocks)]
    chosen = _repeated(outermost, modules)
    if len(chosen) < 2:
        chosen = _layers(shapes, modules)[:-1] or chosen  # the last one is the classifier
    return [
        CutPoint(p, type(modules[p]).__name__, shapes[p], exportable=False) for p in shapes if p in chosen
    ]
