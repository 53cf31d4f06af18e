"""Cutting a trained model into stages that run one after the other, and comparing these with the model.

`torch.export` turns the model into one graph. A cut is a position in it, just after the last operation of a named
module. The values computed before the cut and used after it are the state that one stage hands to the next. None of
them depends on the number of rows, so rows can be dropped between stages.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from contextlib import suppress
from functools import reduce
from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor, fx, nn

from exeunt.errors import InputError, NotCuttable, one_line
from exeunt.torch.calls import Inputs, first_tensor, modules_named, on_return
from exeunt.torch.cutting.graph import ModelGraph, trace_graph
from exeunt.torch.cutting.stage import Stage, StagedModel, StateTensor, state_after, state_tensors
from exeunt.torch.named_inputs import ExampleBatch, read_example

sym_size = torch.ops.aten.sym_size.int
view = torch.ops.aten.view.default
reshape = torch.ops.aten.reshape.default
clone = torch.ops.aten.clone.default

_TWICE = "two runs of the model differ, or it does something that its graph does not contain; cut elsewhere"
_ROWS = "its rows depend on each other, so none can be dropped. Compute each row from itself alone"


def cut(model: nn.Module, example: Inputs, *, at: Sequence[str], check: bool = True) -> StagedModel:
    """Cut a model in eval mode after the modules named in `at`; returns len(at) + 1 stages.

    `example`: a batch of its inputs (a tensor, a tuple, or a dict of tensors). It fixes every size except the number of
    rows. The length of texts stays open, too, unless the model's code makes it a constant.
    `at`: module names, in any order. A module that is called several times is cut after its last call. `check`:
    compare the stages with the model on the example, on one row alone, and on texts of half the length.

    Raises InputError for a model in training mode and for unknown names; NotCuttable for a model that
    `torch.export` refuses (NotExportable), for a cut where a value mixes the rows with another axis
    (MixedBatchAxis), for modules that leave no operation or end at the same one, and for stages that compute something
    else than the model.
    """
    if isinstance(at, str):
        raise InputError(f"at must be a list of module names: write at=[{at!r}]")
    if training := [name or "the model" for name, module in model.named_modules() if module.training]:
        raise InputError(
            f"cut works on a model in eval mode, {training[0]} is in training mode: call .eval() first"
        )
    batch = read_example(model, example).at_least_two()
    modules_named(model, at)
    if batch.n_tokens is not None:
        with suppress(NotCuttable):
            return cut_graph(trace_graph(model, batch, open_length=True), model, batch, at=at, check=check)
    return cut_graph(trace_graph(model, batch), model, batch, at=at, check=check)


def cut_graph(
    graph: ModelGraph, model: nn.Module, example: ExampleBatch, *, at: Sequence[str], check: bool = True
) -> StagedModel:
    """Cut a model whose graph is known (see `cut`). It is in eval mode, and has modules of these names."""
    staged = StagedModel(_stages(graph, _in_order(graph, at), model, example))
    if check:
        _check_stages(staged, model, example)
        if staged.length_is_open:
            _check_stages(staged, model, example.of_length(max(2, (example.n_tokens or 0) // 2)))
    return staged


def _in_order(graph: ModelGraph, at: Sequence[str]) -> list[str]:
    """Return the names in order of execution. Raises NotCuttable for modules that leave no operation of their own."""
    for name in at:
        if name not in graph.spans or not graph.spans[name].used_outside:
            raise NotCuttable(
                f"module {name!r} leaves no operation in the graph (it is an nn.Identity, is not called, or "
                "its output is not used): name the module before it"
            )
    names = sorted(at, key=lambda name: graph.spans[name].last)
    for first, second in pairwise(names):
        if graph.spans[first].last == graph.spans[second].last:
            raise NotCuttable(f"{first!r} and {second!r} end at the same operation: name only one of them")
    return names


def _stages(graph: ModelGraph, names: Sequence[str], model: nn.Module, example: ExampleBatch) -> list[Stage]:
    inputs, tensors = graph.inputs, state_tensors(graph, graph.inputs, example.names, "the input")
    stages, start = [], 0
    for name in names:
        outputs, end = graph.spans[name].used_outside, graph.spans[name].last
        feature = outputs[0] if len(outputs) == 1 else _matching_node(graph, name, model, example)
        state, next_tensors = state_after(graph, name, feature)
        nodes = graph.nodes[start : end + 1]
        body = _StageBuilder(graph, inputs, tensors).build(nodes, state)
        passing = None
        if (passed := _without_feature(graph, state, next_tensors, end)) is not None:
            needed = graph.needed([*passed, *graph.writers(passed, end)])
            nodes = [node for node in nodes if node in needed]
            passing = _StageBuilder(graph, inputs, tensors).build(nodes, passed)
        stages.append(Stage(name, body, tensors, next_tensors, passing))
        inputs, tensors, start = state, next_tensors, end + 1
    body = _StageBuilder(graph, inputs, tensors).build(graph.nodes[start:-1], graph.output)
    return [*stages, Stage("output", body, tensors, ())]


def _without_feature(
    graph: ModelGraph, state: Sequence[fx.Node], tensors: Sequence[StateTensor], end: int
) -> list[fx.Node] | None:
    """Return a state in which another tensor stands for the first one, which nothing after the cut reads.

    None if something does, or if no other tensor has its rows on the same axis.
    """
    (feature, *others), (kind, *kinds) = state, tensors
    if graph.crosses(feature, end):
        return None
    alike = [node for node, other in zip(others, kinds, strict=True) if other.batch_dim == kind.batch_dim]
    return [alike[0], *others] if alike else None


class _StageBuilder:
    """Copies consecutive nodes of a model's graph into a graph of their own, which takes `inputs`."""

    def __init__(self, graph: ModelGraph, inputs: Sequence[fx.Node], tensors: Sequence[StateTensor]) -> None:
        self.source = graph
        self.weights: dict[str, Any] = {}
        self.new = fx.Graph()
        self.inputs = list(inputs)
        self.copies: dict[fx.Node, Any] = {
            node: self.new.placeholder(tensor.name) for node, tensor in zip(inputs, tensors, strict=True)
        }
        self.sizes: dict[Any, fx.Node] = {}

    def build(self, nodes: Sequence[fx.Node], result: Sequence[fx.Node] | fx.Node) -> fx.GraphModule:
        """Return a module that computes `nodes` and returns `result`."""
        self._copy_mutated_inputs(nodes)
        for node in nodes:
            if node.op not in ("placeholder", "get_attr") and node not in self.copies:
                self._copy(node)
        self.new.output(
            self._get(result) if isinstance(result, fx.Node) else tuple(self._get(node) for node in result)
        )
        self.new.eliminate_dead_code()
        self.new.lint()
        return fx.GraphModule(self.weights, self.new, class_name="Stage")

    def _copy_mutated_inputs(self, nodes: Sequence[fx.Node]) -> None:
        """Copy the inputs that this stage would change in place: they belong to the caller."""
        memory_of = self.source.memory_of
        mutated = {
            memory_of[n] for n in nodes if getattr(getattr(n.target, "_schema", None), "is_mutable", False)
        }
        for memory in mutated:
            sharing = [node for node in self.inputs if memory_of[node] is memory]
            if len(sharing) > 1:
                raise NotCuttable(
                    f"the values {[node.name for node in sharing]} share memory that is changed after the "
                    "cut: cut elsewhere, or write the operation after it without 'inplace'"
                )
            for node in sharing:
                self.copies[node] = self.new.call_function(clone, (self.copies[node],))

    def _copy(self, node: fx.Node) -> fx.Node:
        copied = self.new.node_copy(node, self._get)
        # Dropping rows changes the strides of a tensor, and `view` may refuse the new ones.
        if copied.target is view and self.source.memory_of[node] not in self.source.mutated:
            copied.target = reshape
        copied.meta = {}
        self.copies[node] = copied
        return copied

    def _get(self, node: fx.Node) -> Any:
        """Return this stage's copy of a value: an input, a value computed before, or a weight; else compute it."""
        if node not in self.copies:
            self.copies[node] = self._add(node)
        return self.copies[node]

    def _add(self, node: fx.Node) -> Any:
        if node in self.source.constants:
            name, tensor = self.source.constants[node]
            self.weights[name] = tensor
            return self.new.get_attr(name)
        if node.op == "get_attr":
            self.weights[str(node.target)] = getattr(self.source.module, str(node.target))
            return self.new.get_attr(str(node.target))
        if node.target is sym_size:
            example = node.meta["val"]
            return self._size(example.node.expr) if isinstance(example, torch.SymInt) else example
        return self._copy(node)

    def _size(self, expression: Any) -> fx.Node | int:
        """Return a sum or product of sizes, computed from those of this stage's inputs, or raise NotCuttable."""
        if expression.is_Integer:
            return int(expression)
        if expression.is_Add or expression.is_Mul:
            operation = operator.add if expression.is_Add else operator.mul
            parts = map(self._size, expression.args)
            return reduce(lambda a, b: self.new.call_function(operation, (a, b)), parts)
        if expression not in self.sizes:
            axes = (
                (self.copies[node], axis)
                for node in self.inputs
                for axis, size in enumerate(node.meta["val"].shape)
                if isinstance(size, torch.SymInt) and size.node.expr == expression
            )
            if (axis := next(axes, None)) is None:
                raise NotCuttable(f"the size {expression} cannot be computed from the sizes of the state")
            self.sizes[expression] = self.new.call_function(sym_size, axis)
        return self.sizes[expression]


def _check_stages(staged: StagedModel, model: nn.Module, example: ExampleBatch) -> None:
    """Compare every stage with the model on the example, and all of them again on its last row alone.

    Raises NotCuttable naming the first stage that differs.
    """
    features, expected = _module_outputs(model, staged.names, example)
    state: tuple[Tensor, ...] = example.copies()
    last_row: tuple[Tensor, ...] | None = None
    row = torch.tensor([example.n - 1], device=example.tensors[0].device)
    with torch.no_grad():
        for stage in staged.stages[:-1]:
            state = _run(stage, state)
            difference = f"the output of {stage.name!r} differs from the model's"
            _compare(state[0], features[stage.name], difference, _TWICE)
            last_row = stage.take(state, row) if last_row is None else _run(stage, last_row)
        logits = first_tensor(_run(staged.stages[-1], state))
        _compare(logits, expected, "the output of the stages differs from the model's", _TWICE)
        if last_row is not None:
            alone = first_tensor(_run(staged.stages[-1], last_row))
            _compare(alone, expected[-1:], "an input alone gets another output than among others", _ROWS)


def _run(stage: Stage, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Return what a stage computes. Raises NotCuttable if it fails: some operations run in the whole model alone."""
    try:
        return cast("tuple[Tensor, ...]", stage(*state))
    except Exception as error:  # any operation of the user's
        raise NotCuttable(
            f"the stage that ends at {stage.name!r} fails where the model does not ({one_line(error)}): "
            "write its code with other operations, or cut elsewhere"
        ) from error


def _matching_node(graph: ModelGraph, name: str, model: nn.Module, example: ExampleBatch) -> fx.Node:
    """Return the node of a module's output: of its values that others use, the one equal to what a hook sees.

    Raises NotCuttable if there is none.
    """
    output = _module_outputs(model, [name], example)[0][name]
    candidates, distances = graph.spans[name].used_outside, dict[fx.Node, float]()

    def measure(node: fx.Node, tensor: Any) -> None:  # before an operation can change the value
        if node in candidates and isinstance(tensor, Tensor) and tensor.shape == output.shape:
            distances[node] = _distance(tensor, output)

    graph.run(example, measure)
    least = min(distances.values(), default=math.inf)
    if least > _tolerance(output):
        raise NotCuttable(f"no cut after {name!r}: its output is none of the tensors that are used after it")
    return [node for node, distance in distances.items() if distance == least][-1]


def _module_outputs(
    model: nn.Module, names: Sequence[str], example: ExampleBatch
) -> tuple[dict[str, Tensor], Tensor]:
    """Return the named modules' outputs in their last call, and the model's logits."""
    features: dict[str, Tensor] = {}

    def keep(name: str, output: Any) -> None:
        features[name] = first_tensor(output).clone()  # a later operation may change it in place

    with on_return({name: model.get_submodule(name) for name in names}, keep), torch.no_grad():
        logits, *_ = example.positional(model)(*example.copies())
    return features, logits


def _compare(tensor: Tensor, expected: Tensor, difference: str, why: str) -> None:
    """Raise NotCuttable, saying `difference` differs and `why`, unless both are equal up to rounding."""
    if tensor.shape != expected.shape:
        raise NotCuttable(
            f"{difference} (shape {tuple(tensor.shape)} against {tuple(expected.shape)}): {why}"
        )
    distance = _distance(tensor, expected)
    if not distance <= _tolerance(expected):
        raise NotCuttable(f"{difference} (by up to {distance:.2g}): {why}")


def _distance(tensor: Tensor, expected: Tensor) -> float:
    """Return the largest difference; equal infinities and NaNs count as equal."""
    if not tensor.numel():
        return 0.0
    same = (tensor == expected) | (tensor.isnan() & expected.isnan())
    return float(torch.where(same, 0.0, (tensor.double() - expected.double()).abs()).max())


def _tolerance(expected: Tensor) -> float:
    """Return how far the results of the same arithmetic may differ between two runs."""
    if not expected.is_floating_point():
        return 0.0
    finite = expected[expected.isfinite()]
    size = float(finite.abs().max()) if finite.numel() else 0.0
    return 2000 * torch.finfo(expected.dtype).eps * max(1e-6, size)
