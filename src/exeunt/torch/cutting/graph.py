"""A model as one flat graph of tensor operations, and what is known about every value in it.

The graph comes from `torch.export` (not strict: it follows the Python code) with the batch size left open as
one symbol. Every node still names the modules in whose call it was made (`nn_module_stack`), which is how
module names become positions.
"""

from __future__ import annotations

import logging
import operator
import warnings
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx
from torch.export import Dim, export

from exeunt.errors import InputError
from exeunt.torch.cutting.example_inputs import evaluating

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn
    from torch.export import ExportedProgram

    from exeunt.torch.cutting.example_inputs import Example

__all__ = ["Folded", "ModelGraph", "ModuleSpan", "NotCuttable", "NotExportable", "trace_graph"]

# These return their argument's memory or a copy, depending on layout or mode; their schemas do not say so.
MAY_ALIAS = frozenset({
    "reshape", "flatten", "unflatten", "contiguous", "dropout", "feature_dropout", "alpha_dropout", "to",
    "type_as", "expand_as", "view_as", "reshape_as", "chunk", "split", "tensor_split",
})  # fmt: skip


class NotCuttable(InputError):  # noqa: N818 - reads as what the model is
    """A model cannot be cut, or not where it was asked for: it can still carry exits through hooks."""


class NotExportable(NotCuttable):
    """`torch.export` cannot turn this model into a graph with an open batch size."""


class Folded(NotCuttable):
    """A value mixes the batch axis with another, so that no rows can be dropped from it."""


@dataclass
class ModuleSpan:
    """Where a module's operations lie in the graph, over all its calls.

    `last`: index of its last node. `escaping`: its nodes that are used outside, in order.
    """

    kind: str
    last: int = -1
    escaping: list[fx.Node] = field(default_factory=list)


@dataclass
class ModelGraph:
    """The graph, its order, and facts about its nodes.

    `values`: placeholders of parameters, buffers and constants, with their full names and tensors.
    `inputs`: placeholders of the model's inputs. `batch`: the symbol of the batch size.
    `uses_data`, `uses_weights`: nodes that depend on the inputs' contents, and on parameters.
    `root`: the node whose memory a node may share.
    `mutated`: roots whose memory some operation writes to. `last_use`: index of a node's last user.
    """

    module: fx.GraphModule
    nodes: list[fx.Node]
    index: dict[fx.Node, int]
    values: dict[fx.Node, tuple[str, Tensor]]
    inputs: list[fx.Node]
    batch: Any
    spans: dict[str, ModuleSpan] = field(default_factory=dict)
    uses_data: set[fx.Node] = field(default_factory=set)
    uses_weights: set[fx.Node] = field(default_factory=set)
    root: dict[fx.Node, fx.Node] = field(default_factory=dict)
    mutated: set[fx.Node] = field(default_factory=set)
    last_use: dict[fx.Node, int] = field(default_factory=dict)

    @property
    def output(self) -> fx.Node:
        """The node whose value the model returns."""
        result = self.nodes[-1].args[0]
        node = result[0] if isinstance(result, (tuple, list)) else result
        if not isinstance(node, fx.Node):
            raise NotCuttable("the model's output does not depend on its inputs")
        return node

    def is_open(self, node: fx.Node) -> bool:
        """Whether the batch size appears in the shape of this tensor."""
        return any(self.batch in _symbols(size) for size in node.meta["val"].shape)

    def batch_dim(self, node: fx.Node) -> int | None:
        """Return the axis of the rows, or None for a tensor that all rows share. Raises Folded."""
        shape = node.meta["val"].shape
        open_dims = [i for i, size in enumerate(shape) if _symbols(size)]
        if not open_dims:
            return None
        if len(open_dims) > 1 or shape[open_dims[0]].node.expr != self.batch:
            raise Folded(f"value {node.name!r} of shape {_printed(shape)} mixes the batch with another axis")
        return open_dims[0]

    def crosses(self, node: fx.Node, cut: int) -> bool:
        """Whether a value made at or before index `cut` is used after it."""
        return self.index[node] <= cut < self.last_use[node]

    def recomputable(self, node: fx.Node) -> bool:
        """Whether a later stage makes this value anew: it depends on the batch size and weights alone."""
        if node in self.uses_data or node in self.values:
            return False
        if not isinstance(node.meta.get("val"), Tensor):
            return True
        return self.is_open(node) and self.root[node] not in self.mutated


def trace_graph(model: nn.Module, example: Example) -> ModelGraph:
    """Export a model in eval mode and read its graph.

    Raises NotExportable, with the reason, for a model whose Python code depends on the contents or number of
    its inputs.
    """
    example = example.at_least_two()
    program = _export(model, example)
    _tidy(program.graph_module)
    nodes = list(program.graph.nodes)
    values, inputs = _placeholders(program, model)
    batch = inputs[0].meta["val"].shape[0].node.expr
    graph = ModelGraph(
        program.graph_module, nodes, {n: i for i, n in enumerate(nodes)}, values, inputs, batch
    )
    _find_spans(graph)
    _find_facts(graph)
    return graph


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep export's chatter out of the way: what matters of it is in the error that it raises."""
    log = logging.getLogger("torch")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)


def _export(model: nn.Module, example: Example) -> ExportedProgram:
    batch = Dim("batch")
    shapes = (tuple({0: batch} for _ in example.tensors),)
    try:
        # Without gradients, or `torch.no_grad` inside the model would come out as a nested graph.
        with evaluating(model), torch.no_grad(), _quiet():
            return export(example.positional(model), example.tensors, dynamic_shapes=shapes, strict=False)
    except InputError:
        raise
    except Exception as error:  # export raises errors of many kinds, depending on what the model does
        reason = next(
            (line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__
        )
        raise NotExportable(
            f"{type(model).__name__} cannot be exported with an open batch size ({reason}): it can carry "
            "exits through hooks, but not be cut into stages"
        ) from error


def _tidy(module: fx.GraphModule) -> None:
    """Drop checks and dead code."""
    graph = module.graph
    for node in list(graph.nodes):
        if node.op == "call_function" and "_assert" in str(node.target) and not node.users:
            graph.erase_node(node)
    graph.eliminate_dead_code()
    graph.lint()


def _placeholders(
    program: ExportedProgram, model: nn.Module
) -> tuple[dict[fx.Node, tuple[str, Tensor]], list[fx.Node]]:
    """Split the placeholders into the model's own tensors (the objects themselves) and its inputs."""
    own = {f"model.{name}": p for name, p in model.named_parameters(remove_duplicate=False)}
    buffers = {f"model.{name}": b for name, b in model.named_buffers(remove_duplicate=False)}
    targets = {s.arg.name: s.target for s in program.graph_signature.input_specs if s.target is not None}
    values: dict[fx.Node, tuple[str, Tensor]] = {}
    inputs = []
    for node in program.graph.nodes:
        if node.op != "placeholder":
            continue
        target = targets.get(node.name)
        if target is None:
            inputs.append(node)
            continue
        tensor = own.get(target, buffers.get(target))
        if tensor is None:
            tensor = program.constants[target]
        values[node] = (target.removeprefix("model."), tensor)
    return values, inputs


def _find_spans(graph: ModelGraph) -> None:
    paths_of = {node: _paths(node) for node in graph.nodes}
    for node, paths in paths_of.items():
        for path, kind in paths.items():
            span = graph.spans.setdefault(path, ModuleSpan(kind))
            span.last = graph.index[node]
            if isinstance(node.meta.get("val"), Tensor) and any(
                path not in paths_of[user] for user in node.users
            ):
                span.escaping.append(node)


def _paths(node: fx.Node) -> dict[str, str]:
    """Return the modules in whose call the node was made, with their class names."""
    stack = node.meta.get("nn_module_stack") or {}
    found = {}
    for path, kind in stack.values():
        if path.startswith("model."):
            found[path.removeprefix("model.")] = str(kind).rpartition(".")[2]
    return found


def _find_facts(graph: ModelGraph) -> None:
    """Follow data, weights and shared memory through the graph."""
    graph.uses_data.update(graph.inputs)
    graph.uses_weights.update(n for n, (_, t) in graph.values.items() if isinstance(t, torch.nn.Parameter))
    for node in graph.nodes:
        graph.root[node] = node
        graph.last_use[node] = max((graph.index[user] for user in node.users), default=-1)
        if node.op != "call_function" or node.target is torch.ops.aten.sym_size.int:
            continue
        written = _written(node)
        shared = written or ([node.all_input_nodes[0]] if _may_alias(node) else [])
        if shared:
            graph.root[node] = graph.root[shared[0]]
        graph.mutated.update(graph.root[target] for target in written)
        for facts in (graph.uses_data, graph.uses_weights):
            if any(source in facts for source in node.all_input_nodes):
                facts.update([node, *written, *(graph.root[target] for target in written)])


def _written(node: fx.Node) -> list[fx.Node]:
    """Return the arguments that an operation changes in place."""
    schema = getattr(node.target, "_schema", None)
    if schema is None or not schema.is_mutable:
        return []
    return [
        node.args[i]  # type: ignore[misc]
        for i, argument in enumerate(schema.arguments)
        if argument.alias_info is not None
        and argument.alias_info.is_write
        and i < len(node.args)
        and isinstance(node.args[i], fx.Node)
    ]


def _may_alias(node: fx.Node) -> bool:
    if node.target is operator.getitem:
        return True
    schema = getattr(node.target, "_schema", None)
    if schema is None or not node.all_input_nodes:
        return False
    name = schema.name.rpartition("::")[2]
    return name in MAY_ALIAS or any(returned.alias_info is not None for returned in schema.returns)


def _symbols(size: Any) -> set[Any]:
    return set(size.node.expr.free_symbols) if isinstance(size, torch.SymInt) else set()


def _printed(shape: Any) -> str:
    return "(" + ", ".join(str(size) for size in shape) + ")"
