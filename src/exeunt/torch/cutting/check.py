"""Comparing what a graph or its stages compute with what the model computes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, fx, nn

from exeunt.torch.calls import first_tensor
from exeunt.torch.cutting.graph import NotCuttable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from exeunt.torch.cutting.example_inputs import Example
    from exeunt.torch.cutting.graph import ModelGraph
    from exeunt.torch.cutting.stage import Stage, StagedModel

__all__ = ["check_stages", "matching_node"]


def check_stages(staged: StagedModel, model: nn.Module, example: Example) -> None:
    """Compare every stage with the model on the example, and again with only the last row kept.

    Raises NotCuttable naming the first stage that differs.
    """
    features, expected = _observe(model, staged.names, example)
    state: tuple[Tensor, ...] = example.tensors
    last_row: tuple[Tensor, ...] | None = None
    row = torch.tensor([example.n - 1], device=example.tensors[0].device)
    with torch.no_grad():
        for stage in cast("Sequence[Stage]", staged.stages[:-1]):
            state = cast("tuple[Tensor, ...]", stage(*state))
            _compare(state[stage.feature_index], features[stage.name], f"the output of {stage.name!r}")
            dropped = stage.take(state, row)
            last_row = dropped if last_row is None else cast("tuple[Tensor, ...]", stage(*last_row))
        output = staged.stages[-1](*state)
        _compare(output, expected, "the output of the last stage")
        if last_row is not None:
            alone = staged.stages[-1](*last_row)
            _compare(alone, expected[-1:], "the output of one row alone (do rows depend on each other?)")


def matching_node(graph: ModelGraph, name: str, model: nn.Module, example: Example) -> fx.Node:
    """Return which of the values that leave a module is its output: the one equal to what a hook sees.

    Raises NotCuttable when there is none.
    """
    wanted = _observe(model, [name], example)[0][name]
    seen = _Compared(graph, wanted, graph.spans[name].escaping)
    with torch.no_grad():
        seen.run(*(tensor for _, tensor in graph.values.values()), *example.tensors)
    if not seen.errors or min(seen.errors.values()) > _tolerance(wanted):
        raise NotCuttable(f"no cut after {name!r}: its output is none of the tensors that it hands on")
    best = min(seen.errors.values())
    return [node for node, error in seen.errors.items() if error == best][-1]


class _Compared(fx.Interpreter):
    """Runs a graph and measures how far some of its values are from a tensor, as soon as they are made."""

    def __init__(self, graph: ModelGraph, wanted: Tensor, candidates: Sequence[fx.Node]) -> None:
        super().__init__(graph.module)
        self.wanted = wanted
        self.candidates = set(candidates)
        self.errors: dict[fx.Node, float] = {}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if n in self.candidates and isinstance(value, Tensor) and value.shape == self.wanted.shape:
            self.errors[n] = _distance(value, self.wanted)
        return value


def _observe(model: nn.Module, names: Sequence[str], example: Example) -> tuple[dict[str, Tensor], Tensor]:
    """Run the model; returns the named modules' outputs (after their last call) and the logits."""
    features: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        def hook(_module: nn.Module, _args: Any, output: Any) -> None:
            features[name] = first_tensor(output).clone()  # a later operation may change it in place

        return hook

    handles = [model.get_submodule(name).register_forward_hook(keep(name)) for name in names]
    try:
        with torch.no_grad():
            output = example.positional(model)(*example.tensors)
    finally:
        for handle in handles:
            handle.remove()
    return features, output


def _compare(value: Tensor, expected: Tensor, what: str) -> None:
    if value.shape != expected.shape or not _distance(value, expected) <= _tolerance(expected):
        raise NotCuttable(
            f"{what} differs from the model's (shape {tuple(value.shape)} against {tuple(expected.shape)}): "
            "the model does not compute the same twice, or does something that its graph does not show; cut "
            "elsewhere"
        )


def _distance(value: Tensor, expected: Tensor) -> float:
    """Return the largest difference; equal infinities and NaNs count as equal."""
    if not value.numel():
        return 0.0
    same = (value == expected) | (value.isnan() & expected.isnan())
    return float(torch.where(same, 0.0, (value.double() - expected.double()).abs()).max())


def _tolerance(expected: Tensor) -> float:
    """Return how far two runs of the same arithmetic may lie apart."""
    if not expected.is_floating_point():
        return 0.0
    finite = expected[expected.isfinite()]
    size = float(finite.abs().max()) if finite.numel() else 0.0
    return 2000 * torch.finfo(expected.dtype).eps * max(1e-6, size)
