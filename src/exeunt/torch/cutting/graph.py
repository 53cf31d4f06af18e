"""A model as one flat graph of tensor operations, with facts about every value in it.

The graph comes from `torch.export` (see `torch_export`). The batch size is a symbol in it, and the length of texts
another if that is asked for. Every node names the modules in whose call it was made (`nn_module_stack`), so module
names become positions.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, cast

import torch
from torch import Tensor, fx, nn

from exeunt.errors import MixedBatchAxis, NotCuttable
from exeunt.torch.cutting.torch_export import exported, placeholders
from exeunt.torch.named_inputs import ExampleBatch

# These return their argument's memory or a copy, depending on layout or mode; their schemas do not say so.
_MAY_ALIAS = frozenset(
    {
        "reshape",
        "flatten",
        "unflatten",
        "contiguous",
        "dropout",
        "feature_dropout",
        "alpha_dropout",
        "to",
        "type_as",
        "expand_as",
        "view_as",
        "reshape_as",
        "chunk",
        "split",
        "tensor_split",
    }
)


@dataclass
class ModuleSpan:
    """Where a module's operations are in the graph, over all its calls.

    `last`: index of its last node. `used_outside`: those of its nodes, in order, that other modules use.
    """

    last: int = -1
    used_outside: list[fx.Node] = field(default_factory=list)


@dataclass
class ModelGraph:
    """The graph, its order, and facts about its nodes.

    `nodes`: in an order in which they can run; what an earlier exit of the model's own needs comes before the rest.
    `constants`: placeholders of parameters, buffers and constants, with their full names and tensors.
    `inputs`: placeholders of the model's inputs. `batch`: the symbol of the batch size.
    `uses_inputs`, `uses_weights`: nodes that depend on the inputs' contents, and on parameters.
    `memory_of`: the node whose memory a node may share. `mutated`: nodes whose memory an operation changes.
    `last_use`: index of a node's last user, -1 for none.
    """

    module: fx.GraphModule
    nodes: list[fx.Node]
    constants: dict[fx.Node, tuple[str, Tensor]]
    inputs: list[fx.Node]
    batch: Any
    index: dict[fx.Node, int] = field(default_factory=dict)
    spans: dict[str, ModuleSpan] = field(default_factory=dict)
    uses_inputs: set[fx.Node] = field(default_factory=set)
    uses_weights: set[fx.Node] = field(default_factory=set)
    memory_of: dict[fx.Node, fx.Node] = field(default_factory=dict)
    mutated: set[fx.Node] = field(default_factory=set)
    last_use: dict[fx.Node, int] = field(default_factory=dict)

    @property
    def output(self) -> fx.Node:
        """The node of the model's logits; if it has exits of its own, of the last one's logits."""
        return self.exits[-1]

    @property
    def exits(self) -> list[fx.Node]:
        """The nodes of the logits of the model's own exits, in order; without such exits, of its logits alone."""
        last, *earlier = cast("tuple[Any, ...]", self.nodes[-1].args[0])
        if not isinstance(last, fx.Node):
            raise NotCuttable("the model's output does not depend on its inputs")
        return [*(node for node in earlier if isinstance(node, fx.Node)), last]

    def batch_dim(self, node: fx.Node) -> int | None:
        """Return the axis of the rows, or None for a tensor that all rows share. Raises MixedBatchAxis."""
        shape = node.meta["val"].shape
        if not (row_dims := [i for i, size in enumerate(shape) if self.batch in _symbols(size)]):
            return None
        if len(row_dims) > 1 or shape[row_dims[0]].node.expr != self.batch:
            sizes = ", ".join(map(str, shape))
            raise MixedBatchAxis(f"value {node.name!r} of shape ({sizes}) mixes the batch with another axis")
        return row_dims[0]

    def crosses(self, node: fx.Node, cut: int) -> bool:
        """Return whether a value made at or before index `cut` is used after it."""
        return self.index[node] <= cut < self.last_use[node]

    def needed(self, nodes: Iterable[fx.Node]) -> set[fx.Node]:
        """Return what must run for these nodes, themselves included."""
        earlier, found, pending = self.predecessors, set[fx.Node](), list(nodes)
        while pending:
            node = pending.pop()
            if node not in found:
                found.add(node)
                pending += earlier[node]
        return found

    def writers(self, nodes: Iterable[fx.Node], end: int) -> list[fx.Node]:
        """Return the operations up to index `end` that change the memory of these nodes in place."""
        memory = {self.memory_of[node] for node in nodes}
        return [
            node
            for node in self.nodes[: end + 1]
            if any(self.memory_of[target] in memory for target in _mutated_arguments(node))
        ]

    @cached_property
    def predecessors(self) -> dict[fx.Node, set[fx.Node]]:
        """What must run before each node: its inputs, and earlier operations that change their memory in place."""
        return _predecessors(self)

    def run(self, example: ExampleBatch, visit: Callable[[fx.Node, Any], None]) -> None:
        """Run the graph on the example and call `visit(node, value)` for each value as soon as it is computed."""

        class Visited(fx.Interpreter):
            def run_node(self, n: fx.Node) -> Any:
                result = super().run_node(n)
                visit(n, result)
                return result

        with torch.no_grad():
            Visited(self.module).run(*(tensor for _, tensor in self.constants.values()), *example.copies())

    def recomputable(self, node: fx.Node) -> bool:
        """Return whether a later stage can compute this value itself: it depends on batch size and weights only."""
        if node in self.uses_inputs or node in self.constants:
            return False
        if not isinstance(node.meta.get("val"), Tensor):
            return True
        has_batch = any(self.batch in _symbols(size) for size in node.meta["val"].shape)
        return has_batch and self.memory_of[node] not in self.mutated


def trace_graph(model: nn.Module, example: ExampleBatch, *, open_length: bool = False) -> ModelGraph:
    """Export a model in eval mode and read its graph; for `example` and `open_length` see `exported`.

    Raises NotExportable, with the reason, for a model whose code depends on the contents or number of its inputs.
    """
    program = exported(model, example, open_length=open_length)
    constants, inputs = placeholders(program, model)
    batch = inputs[0].meta["val"].shape[0].node.expr
    graph = ModelGraph(program.graph_module, list(program.graph.nodes), constants, inputs, batch)
    _find_dependencies(graph)
    graph.nodes = _by_need(graph)
    graph.index = {node: i for i, node in enumerate(graph.nodes)}
    for node in graph.nodes:  # returning an earlier exit does not count
        users = [user for user in node.users if user is not graph.nodes[-1] or node is graph.output]
        graph.last_use[node] = max((graph.index[user] for user in users), default=-1)
    _find_spans(graph)
    return graph


def _find_spans(graph: ModelGraph) -> None:
    paths_of = {node: _paths(node) for node in graph.nodes}
    for node, paths in paths_of.items():
        is_tensor = isinstance(node.meta.get("val"), Tensor)
        for path in paths:
            span = graph.spans.setdefault(path, ModuleSpan())
            span.last = graph.index[node]
            if is_tensor and any(path not in paths_of[user] for user in node.users):
                span.used_outside.append(node)


def _paths(node: fx.Node) -> list[str]:
    """Return the names of the modules in whose call the node was made, each once, the outermost first."""
    paths = dict.fromkeys(path for path, _ in (node.meta.get("nn_module_stack") or {}).values())
    return [path.removeprefix("model.") for path in paths if path.startswith("model.")]


def _find_dependencies(graph: ModelGraph) -> None:
    """Follow inputs, weights and shared memory through the graph."""
    graph.uses_inputs.update(graph.inputs)
    graph.uses_weights.update(n for n, (_, t) in graph.constants.items() if isinstance(t, torch.nn.Parameter))
    for node in graph.nodes:
        graph.memory_of[node] = node
        if node.op != "call_function" or node.target is torch.ops.aten.sym_size.int:
            continue
        written = _mutated_arguments(node)
        if shared := written or ([node.all_input_nodes[0]] if _may_alias(node) else []):
            graph.memory_of[node] = graph.memory_of[shared[0]]
        graph.mutated.update(graph.memory_of[target] for target in written)
        for users in (graph.uses_inputs, graph.uses_weights):
            if any(source in users for source in node.all_input_nodes):
                users.update([node, *written, *(graph.memory_of[target] for target in written)])


def _by_need(graph: ModelGraph) -> list[fx.Node]:
    """Return the nodes in the order of the model's own exits: what the first one needs, what the next needs, ..."""
    earlier = graph.predecessors
    need: dict[fx.Node, int] = {}
    for number, exit_ in enumerate(graph.exits):
        pending = [exit_]
        while pending:
            node = pending.pop()
            if node not in need:
                need[node] = number
                pending += earlier[node]
    sources = ("placeholder", "get_attr")
    return sorted(graph.nodes, key=lambda n: -1 if n.op in sources else need.get(n, len(graph.exits)))


def _predecessors(graph: ModelGraph) -> dict[fx.Node, set[fx.Node]]:
    """Return what must run before each node: its inputs, and earlier operations that change their memory in place."""
    before: dict[fx.Node, set[fx.Node]] = {}
    writer: dict[fx.Node, fx.Node] = {}
    users: dict[fx.Node, set[fx.Node]] = {}
    for node in graph.nodes:
        read = {graph.memory_of[source] for source in node.all_input_nodes}
        written = {graph.memory_of[target] for target in _mutated_arguments(node)}
        before[node] = {*node.all_input_nodes, *(writer[memory] for memory in read if memory in writer)}
        before[node].update(*(users[memory] for memory in written if memory in users))
        for memory in read:
            users.setdefault(memory, set()).add(node)
        writer.update(dict.fromkeys(written, node))
    return before


def _mutated_arguments(node: fx.Node) -> list[fx.Node]:
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
    return name in _MAY_ALIAS or any(returned.alias_info is not None for returned in schema.returns)


def _symbols(size: Any) -> set[Any]:
    return set(size.node.expr.free_symbols) if isinstance(size, torch.SymInt) else set()
