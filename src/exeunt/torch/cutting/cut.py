"""Cutting a trained model into stages that run one after the other.

`torch.export` turns the model into one graph; a cut is a position in it, just after the last operation of a
named module. What is made before the cut and used after it is the state that the stages hand on. Nothing of
the state depends on how many rows there are, so rows can be dropped between stages.
"""

from __future__ import annotations

import difflib
import operator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx, nn

from exeunt.errors import InputError
from exeunt.torch.cutting.check import check_stages, matching_node
from exeunt.torch.cutting.example_inputs import read_example
from exeunt.torch.cutting.graph import NotCuttable, trace_graph
from exeunt.torch.cutting.stage import Stage, StagedModel, described, state_nodes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from exeunt.torch.calls import Inputs
    from exeunt.torch.cutting.example_inputs import Example
    from exeunt.torch.cutting.graph import ModelGraph
    from exeunt.torch.cutting.stage import StateTensor

__all__ = ["cut"]

sym_size = torch.ops.aten.sym_size.int
view = torch.ops.aten.view.default
reshape = torch.ops.aten.reshape.default
clone = torch.ops.aten.clone.default


def cut(model: nn.Module, example: Inputs, *, at: Sequence[str], check: bool = True) -> StagedModel:
    """Cut a model in eval mode after the modules named in `at`; returns len(at) + 1 stages.

    `example`: a batch of its inputs (a tensor, a tuple, or a dict of tensors); every size but the number of
    rows stays fixed. `at`: module names, sorted here into order of execution. A module that is called several
    times is cut after its last call. `check`: compare the stages with the model on the example, also with
    a row dropped on the way.

    Raises InputError for a model in training mode and for unknown names; NotCuttable for a model that
    `torch.export` refuses (NotExportable), for a cut where a value mixes the rows with another axis (Folded),
    for modules that leave no operation or end at the same one, and when the check finds a difference.
    """
    if isinstance(at, str):
        raise InputError(f"at must be a list of module names: write at=[{at!r}]")
    training = [name or "the model" for name, module in model.named_modules() if module.training]
    if training:
        raise InputError(
            f"cut works on a model in eval mode, {training[0]} is in training mode: call .eval() first"
        )
    read = read_example(model, example).at_least_two()
    known = {name for name, _ in model.named_modules() if name}
    for name in at:
        if name not in known:
            raise InputError(_unknown(name, [name for name, _ in model.named_modules() if name]))
    graph = trace_graph(model, read)
    names, cuts = _positions(graph, at)
    features = [_feature(graph, name, model, read) for name in names]
    staged = StagedModel(_stages(graph, names, cuts, features, read))
    if check:
        check_stages(staged, model, read)
    return staged


def _unknown(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=3)
    hint = f" Did you mean {' or '.join(map(repr, close))}?" if close else ""
    listed = ", ".join(known[:20]) + (f", and {len(known) - 20} more" if len(known) > 20 else "")
    return f"the model has no module {name!r}.{hint} The modules are: {listed}"


def _positions(graph: ModelGraph, at: Sequence[str]) -> tuple[list[str], list[int]]:
    """Return the names in order of execution, with the index of each one's last operation."""
    for name in at:
        if name not in graph.spans or not graph.spans[name].escaping:
            raise NotCuttable(
                f"module {name!r} leaves no operation in the graph (it is an nn.Identity, is not called, or "
                "its output is not used): name the module before it"
            )
    names = sorted(at, key=lambda name: graph.spans[name].last)
    cuts = [graph.spans[name].last for name in names]
    for first, second, here, there in zip(names, names[1:], cuts, cuts[1:], strict=False):
        if here == there:
            raise NotCuttable(f"{first!r} and {second!r} end at the same operation: name only one of them")
    return names, cuts


def _feature(graph: ModelGraph, name: str, model: nn.Module, example: Example) -> fx.Node:
    """Return the node of a module's output: what it hands to the rest of the model."""
    escaping = graph.spans[name].escaping
    return escaping[0] if len(escaping) == 1 else matching_node(graph, name, model, example)


def _stages(
    graph: ModelGraph,
    names: Sequence[str],
    cuts: Sequence[int],
    features: Sequence[fx.Node],
    example: Example,
) -> list[Stage]:
    taken, kinds = graph.inputs, described(graph, graph.inputs, example.names, "the input")
    stages, start = [], 0
    for name, end, feature in zip(names, cuts, features, strict=True):
        handed = state_nodes(graph, name, feature)
        next_kinds = described(graph, handed, [node.name for node in handed], name)
        body = _StageBuilder(graph, taken, kinds).build(graph.nodes[start : end + 1], handed)
        stages.append(Stage(name, body, kinds, next_kinds))
        taken, kinds, start = handed, next_kinds, end + 1
    body = _StageBuilder(graph, taken, kinds).build(graph.nodes[start:-1], graph.output)
    return [*stages, Stage("output", body, kinds, ())]


class _StageBuilder:
    """Copies a run of nodes into a graph of its own."""

    def __init__(self, graph: ModelGraph, taken: Sequence[fx.Node], kinds: Sequence[StateTensor]) -> None:
        self.source = graph
        self.root = nn.Module()
        self.new = fx.Graph()
        self.copies: dict[fx.Node, fx.Node] = {}
        self.taken = list(taken)
        for node, kind in zip(taken, kinds, strict=True):
            self.copies[node] = self.new.placeholder(kind.name)
        self.rows = next(
            (self.copies[n], kind.batch_dim)
            for n, kind in zip(taken, kinds, strict=True)
            if kind.batch_dim is not None
        )
        self.size: fx.Node | None = None

    def build(self, nodes: Sequence[fx.Node], result: Sequence[fx.Node] | fx.Node) -> fx.GraphModule:
        """Return a module that computes `nodes` and returns `result`."""
        self._protect(nodes)
        for node in nodes:
            if node.op not in ("placeholder", "get_attr") and node not in self.copies:
                self._copy(node)
        self.new.output(
            self._get(result) if isinstance(result, fx.Node) else tuple(self._get(node) for node in result)
        )
        self.new.eliminate_dead_code()
        self.new.lint()
        return fx.GraphModule(self.root, self.new, class_name="Stage")

    def _protect(self, nodes: Sequence[fx.Node]) -> None:
        """Copy what this stage would change in place: the caller still owns it."""
        source = self.source
        written = {
            source.root[n] for n in nodes if getattr(getattr(n.target, "_schema", None), "is_mutable", False)
        }
        for root in written:
            sharing = [node for node in self.taken if source.root[node] is root]
            if len(sharing) > 1:
                raise NotCuttable(
                    f"the values {[node.name for node in sharing]} share memory that is changed after the "
                    "cut: cut elsewhere, or write the operation after it without 'inplace'"
                )
            for node in sharing:
                self.copies[node] = self.new.call_function(clone, (self.copies[node],))

    def _copy(self, node: fx.Node) -> fx.Node:
        copied = self.new.node_copy(node, self._get)
        # Rows that were dropped leave a tensor with other strides, which `view` may refuse.
        if copied.target is view and self.source.root[node] not in self.source.mutated:
            copied.target = reshape
        copied.meta = {}
        self.copies[node] = copied
        return copied

    def _get(self, node: fx.Node) -> fx.Node:
        """Return this stage's copy of a value: handed on, made here, a weight, or made anew."""
        if node not in self.copies:
            self.copies[node] = self._bring(node)
        return self.copies[node]

    def _bring(self, node: fx.Node) -> fx.Node:
        if node in self.source.values:
            name, tensor = self.source.values[node]
            return self.new.get_attr(_install(self.root, name, tensor))
        if node.op == "get_attr":
            target = str(node.target)
            setattr(self.root, target, getattr(self.source.module, target))
            return self.new.get_attr(target)
        if node.target is sym_size:
            return self._multiple_of_rows(node)
        return self._copy(node)

    def _multiple_of_rows(self, node: fx.Node) -> fx.Node:
        if self.size is None:
            self.size = self.new.call_function(sym_size, self.rows)
        value = node.meta["val"]
        factor = value.node.expr / self.source.batch
        if not factor.is_Integer:
            raise NotCuttable(
                f"the size {value} of {node.args[0]} cannot be computed from the number of rows"
            )
        return self.size if factor == 1 else self.new.call_function(operator.mul, (self.size, int(factor)))


def _install(root: nn.Module, name: str, tensor: Tensor) -> str:
    """Put a tensor at a dotted name under `root`, as the parameter or buffer it is; returns the name."""
    *path, leaf = name.split(".")
    module: Any = root
    for part in path:
        if not hasattr(module, part):
            module.add_module(part, nn.Module())
        module = getattr(module, part)
    if not hasattr(module, leaf):
        if isinstance(tensor, nn.Parameter):
            module.register_parameter(leaf, tensor)
        else:
            module.register_buffer(leaf, tensor)
    return name
