"""Finding the places where a network can be cut, and naming them as a person would.

A good place hands on one value, the output of a block, besides things that stay the same all along, such as
an attention mask (known by not being computed from both the inputs and the weights). Among nested modules
that offer the same place, or that lie inside a block, the blocks are kept: the repeated elements of the
network's lists (residual blocks, transformer layers), not the list around them nor the parts within.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from exeunt.errors import InputError
from exeunt.torch.calls import first_tensor
from exeunt.torch.cutting.example_inputs import evaluating, read_example
from exeunt.torch.cutting.graph import NotExportable, trace_graph
from exeunt.torch.cutting.stage import described, state_nodes

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from exeunt.torch.calls import Inputs
    from exeunt.torch.cutting.example_inputs import Example
    from exeunt.torch.cutting.graph import ModelGraph
    from exeunt.torch.cutting.stage import StateTensor

__all__ = ["CutPoint", "canonical_name", "cut_points"]

LISTS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


@dataclass(frozen=True)
class CutPoint:
    """A place where a network can be cut: just after the module `name`.

    `kind`: its class. `output_shape`: of its output for one input. `aliases`: other modules that end at the
    same place. `state`: the tensors handed on there, the output first. `exportable`: False if the network
    cannot be exported, so that heads can read the output there through hooks but no stage can end there;
    `state` is then empty.
    """

    name: str
    kind: str
    output_shape: tuple[int, ...]
    aliases: tuple[str, ...] = ()
    state: tuple[StateTensor, ...] = ()
    exportable: bool = True


def cut_points(model: nn.Module, example: Inputs) -> list[CutPoint]:
    """Return the places where a network can be cut, in order of execution; may be empty.

    `example`: a batch of its inputs (a tensor, a tuple, or a dict of tensors). The model is looked at in eval
    mode and left as it was. `cut` takes other modules, too: these are the ones worth proposing.
    """
    read = read_example(model, example).at_least_two()
    try:
        graph = trace_graph(model, read)
    except NotExportable:
        return _points_by_hooks(model, read)
    states = {path: state for path in graph.spans if (state := _single_state(graph, path)) is not None}
    modules = dict(model.named_modules())
    ran = [path for path, span in graph.spans.items() if span.escaping]
    chosen = _blocks(states, ran, modules)
    if len(chosen) < 2:
        chosen = _layers(states, modules) or chosen
    ends = {path: graph.spans[path].last for path in ran}
    return [
        CutPoint(
            name=path,
            kind=graph.spans[path].kind,
            output_shape=_without(states[path][0]),
            aliases=tuple(other for other in ran if other != path and ends[other] == ends[path]),
            state=states[path],
        )
        for path in sorted(chosen, key=ends.__getitem__)
    ]


def canonical_name(points: Iterable[CutPoint], name: str) -> str:
    """Return the name of the cut point that is called `name`, or has it as an alias.

    Raises InputError where there is none.
    """
    points = list(points)
    for point in points:
        if name == point.name or name in point.aliases:
            return point.name
    raise InputError(
        f"there is no cut point {name!r}; there are: {', '.join(point.name for point in points)}"
    )


def _without(tensor: StateTensor) -> tuple[int, ...]:
    return tuple(size for size in tensor.shape if size is not None)


def _single_state(graph: ModelGraph, path: str) -> tuple[StateTensor, ...] | None:
    """Return what is handed on after a module if that is its output and nothing else that moves."""
    escaping = graph.spans[path].escaping
    if not escaping or graph.output in escaping:
        return None
    feature = escaping[-1]
    try:
        nodes = state_nodes(graph, path, feature)
        kinds = described(graph, nodes, [node.name for node in nodes], path)
    except InputError:
        return None
    moving = [node for node in nodes if node in graph.uses_data and node in graph.uses_weights]
    crosses = graph.crosses(feature, graph.spans[path].last)
    is_feature = kinds[0].batch_dim == 0 and kinds[0].dtype.is_floating_point and len(kinds[0].shape) > 1
    return tuple(kinds) if moving == [feature] and crosses and is_feature else None


def _blocks(good: Collection[str], ran: Sequence[str], modules: Mapping[str, nn.Module]) -> list[str]:
    """Return the blocks among the good places: modules of classes that are good wherever they run."""
    composite = [path for path in ran if next(modules[path].children(), None) is not None]
    bad_kinds = {type(modules[path]) for path in composite if path not in good} - set(LISTS)
    found = [path for path in composite if path in good and type(modules[path]) not in bad_kinds]
    found = [path for path in found if not _is_part(path, found, modules)]
    innermost = [path for path in found if not any(other.startswith(f"{path}.") for other in found)]
    return _repeated(innermost, modules)


def _is_part(path: str, blocks: Collection[str], modules: Mapping[str, nn.Module]) -> bool:
    """Whether a module is a part of a block, rather than one of a list of blocks."""
    parent = path.rpartition(".")[0]
    return parent in blocks and not _is_list(modules[parent])


def _is_list(module: nn.Module) -> bool:
    """Whether a module does no more than hold others, in order."""
    if isinstance(module, nn.Sequential):
        return type(module).forward is nn.Sequential.forward
    return type(module) in LISTS


def _repeated(paths: Sequence[str], modules: Mapping[str, nn.Module]) -> list[str]:
    """Leave out what occurs only once, such as the stem, if something else is repeated.

    Plain sequences are all of one class without being alike: they count if they are elements of a list of
    which something repeated has run before, as what shrinks a feature map between two groups of blocks.
    """
    counts = Counter(type(modules[path]) for path in paths)
    repeated: list[str] = []
    for path in paths:
        if type(modules[path]) in LISTS:
            listed = "." in path and _is_list(modules[path.rpartition(".")[0]])
            if listed and repeated:
                repeated.append(path)
        elif counts[type(modules[path])] > 1:
            repeated.append(path)
    return repeated or list(paths)


def _layers(good: Iterable[str], modules: Mapping[str, nn.Module]) -> list[str]:
    """Return the layers of a network without blocks: the last one before each next layer with weights.

    A network of which most such layers are no good is not plain, and has none to propose.
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
    """Whether a module has a weight matrix, or more axes, of its own."""
    return any(parameter.ndim > 1 for parameter in module.parameters(recurse=False))


def _points_by_hooks(model: nn.Module, example: Example) -> list[CutPoint]:
    """Return the blocks of a network that cannot be exported, from one run of it."""
    shapes = _output_shapes(model, example)
    modules = dict(model.named_modules())
    listed = [p for p in shapes if "." in p and _is_list(modules[p.rpartition(".")[0]])]
    blocks = [p for p in listed if next(modules[p].children(), None) and not _is_list(modules[p])]
    outermost = [p for p in blocks if not any(p.startswith(f"{other}.") for other in blocks)]
    chosen = _repeated(outermost, modules)
    if len(chosen) < 2:
        chosen = _layers(shapes, modules)[:-1] or chosen  # the last one is the classifier
    return [
        CutPoint(p, type(modules[p]).__name__, shapes[p], exportable=False) for p in shapes if p in chosen
    ]


def _output_shapes(model: nn.Module, example: Example) -> dict[str, tuple[int, ...]]:
    """Return the shape, for one input, of what each module returned last, in that order."""
    shapes: dict[str, tuple[int, ...]] = {}

    def keep(name: str) -> Any:
        def hook(_module: nn.Module, _args: Any, output: Any) -> None:
            try:
                tensor: Tensor = first_tensor(output)
            except InputError:
                return
            if tensor.ndim > 1 and len(tensor) == example.n and tensor.is_floating_point():
                shapes.pop(name, None)
                shapes[name] = tuple(tensor.shape[1:])

        return hook

    handles = [module.register_forward_hook(keep(name)) for name, module in model.named_modules() if name]
    try:
        with evaluating(model), torch.no_grad():
            example.positional(model)(*example.tensors)
    finally:
        for handle in handles:
            handle.remove()
    return shapes
