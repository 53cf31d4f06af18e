"""Comparing what a graph and its stages compute with what the model computes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, fx, nn

from exeunt.errors import NotCuttable, one_line
from exeunt.torch.calls import first_tensor, on_return
from exeunt.torch.cutting.graph import ModelGraph
from exeunt.torch.cutting.stage import Stage, StagedModel
from exeunt.torch.named_inputs import ExampleBatch

_TWICE = "two runs of the model differ, or it does something that its graph does not contain; cut elsewhere"
_ROWS = "its rows depend on each other, so none can be dropped. Compute each row from itself alone"


def check_stages(staged: StagedModel, model: nn.Module, example: ExampleBatch) -> None:
    """Compare every stage with the model on the example, and all of them again on its last row alone.

    Raises NotCuttable naming the first stage that differs.
    """
    features, expected = _module_outputs(model, staged.names, example)
    state: tuple[Tensor, ...] = example.copies()
    last_row: tuple[Tensor, ...] | None = None
    row = torch.tensor([example.n - 1], device=example.tensors[0].device)
    with torch.no_grad():
        for stage in cast("Sequence[Stage]", staged.stages[:-1]):
            state = _run(stage, state)
            what = f"the output of {stage.name!r} differs from the model's"
            _compare(state[0], features[stage.name], what, _TWICE)
            kept = stage.take(state, row)
            last_row = kept if last_row is None else _run(stage, last_row)
        last = cast("Stage", staged.stages[-1])
        found = first_tensor(_run(last, state))
        _compare(found, expected, "the output of the stages differs from the model's", _TWICE)
        if last_row is not None:
            alone = first_tensor(_run(last, last_row))
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


def matching_node(graph: ModelGraph, name: str, model: nn.Module, example: ExampleBatch) -> fx.Node:
    """Return the node of a module's output: of its values that others use, the one equal to what a hook sees.

    Raises NotCuttable if there is none.
    """
    output = _module_outputs(model, [name], example)[0][name]
    candidates, distances = graph.spans[name].used_outside, dict[fx.Node, float]()

    def measure(node: fx.Node, value: Any) -> None:  # before an operation can change the value
        if node in candidates and isinstance(value, Tensor) and value.shape == output.shape:
            distances[node] = _distance(value, output)

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


def _compare(value: Tensor, expected: Tensor, what: str, why: str) -> None:
    """Raise NotCuttable, saying `what` differs and `why`, unless both are equal up to rounding."""
    if value.shape != expected.shape:
        raise NotCuttable(f"{what} (shape {tuple(value.shape)} against {tuple(expected.shape)}): {why}")
    distance = _distance(value, expected)
    if not distance <= _tolerance(expected):
        raise NotCuttable(f"{what} (by up to {distance:.2g}): {why}")


def _distance(value: Tensor, expected: Tensor) -> float:
    """Return the largest difference; equal infinities and NaNs count as equal."""
    if not value.numel():
        return 0.0
    same = (value == expected) | (value.isnan() & expected.isnan())
    return float(torch.where(same, 0.0, (value.double() - expected.double()).abs()).max())


def _tolerance(expected: Tensor) -> float:
    """Return how far the results of the same arithmetic may differ between two runs."""
    if not expected.is_floating_point():
        return 0.0
    finite = expected[expected.isfinite()]
    size = float(finite.abs().max()) if finite.numel() else 0.0
    return 2000 * torch.finfo(expected.dtype).eps * max(1e-6, size)
