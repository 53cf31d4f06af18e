"""A cut network as one module of unconnected stages, which one pass of the ONNX exporter can translate.

Every stage, with its head, has its own inputs and its own batch size. So the values of one stage cannot reach another,
and the exporter's start-up time is spent once rather than once per stage.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch.export import Dim

from exeunt.torch.calls import first_tensor
from exeunt.torch.cutting.stage import Stage, StagedModel, StateTensor
from exeunt.torch.exits.heads import Head
from exeunt.torch.exits.network import EarlyExitNetwork

__all__ = ["StageWithHead", "StagesWithHeads", "stages_with_heads"]

_MASK = "attention_mask"


@dataclass(eq=False)
class StageWithHead:
    """One stage with its head, and the names in the whole network of the tensors that go in and come out.

    `takes`: the stage's inputs, then the mask and the previous logits, if its head reads them.
    `gives`: what it computes: the logits, then tensors for later stages; tensors that only pass through are left out.
    `logits`: name of the exit's logits (n, k). `given_state`: which entries of the stage's state are in `gives`.
    """

    stage: Stage
    head: nn.Module | None
    takes: list[str]
    logits: str
    gives: list[str] = field(default_factory=list)
    given_state: list[int] = field(default_factory=list)

    def __call__(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return what it gives, by name, from named tensors that include what it takes."""
        made = self.stage.body(*(tensors[name] for name in self.takes[: len(self.stage.inputs)]))
        if self.head is None and not self.stage.state:
            return {self.logits: first_tensor(made)}
        state = cast("tuple[Tensor, ...]", made)
        given = (self._logits(state[0], tensors), *(state[i] for i in self.given_state))
        return dict(zip(self.gives, given, strict=True))

    def _logits(self, features: Tensor, tensors: Mapping[str, Tensor]) -> Tensor:
        head = cast("nn.Module", self.head)
        if not isinstance(head, Head):
            return cast("Tensor", head(features))
        previous = next((tensors[name] for name in self.takes if name.endswith("/logits")), None)
        return cast("Tensor", head(features, tensors.get(_MASK) if _MASK in self.takes else None, previous))


class StagesWithHeads(nn.Module):
    """All stages side by side: takes every stage's inputs in order, returns all that they give in order.

    `parts`: the stages. `tensors`: what is known of each tensor, by name.
    """

    def __init__(self, parts: Sequence[StageWithHead], tensors: Mapping[str, StateTensor]) -> None:
        super().__init__()
        self.parts = list(parts)
        self.tensors = dict(tensors)
        self.registered = nn.ModuleList(
            [module for part in parts for module in (part.stage, part.head) if module is not None]
        )

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Run every stage on its own inputs."""
        given: list[Tensor] = []
        left = list(tensors)
        for part in self.parts:
            own, left = left[: len(part.takes)], left[len(part.takes) :]
            given += part(dict(zip(part.takes, own, strict=True))).values()
        return tuple(given)

    def dynamic_shapes(self) -> tuple[tuple[dict[int, Any] | None, ...]]:
        """Return which axes of `forward`'s arguments may vary: a batch size for each stage, and lengths of texts."""
        axes: list[dict[int, Any] | None] = []
        for i, part in enumerate(self.parts):
            rows = Dim(f"rows{i}")
            for tensor in (self.tensors[name] for name in part.takes):
                lengths = {axis: Dim.AUTO for axis, size in enumerate(tensor.shape) if size is None}
                axes.append(
                    {**lengths, **({} if tensor.batch_dim is None else {tensor.batch_dim: rows})} or None
                )
        return (tuple(axes),)

    def run_in_sequence(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Run the stages one after the other on the network's inputs; returns every tensor by name."""
        tensors = dict(inputs)
        for part in self.parts:
            tensors |= part(tensors)
        return tensors


def stages_with_heads(network: EarlyExitNetwork, staged: StagedModel) -> StagesWithHeads:
    """Return the stages of a network that has been cut, with their heads and the names of all tensors."""
    stages = [cast("Stage", stage) for stage in staged.stages]
    tensors = {tensor.name: tensor for tensor in stages[0].inputs}
    names = list(staged.input_names)
    has_mask = _MASK in names
    parts: list[StageWithHead] = []
    for i, stage in enumerate(stages):
        head = network.heads[i] if i < len(network.heads) else None
        part = StageWithHead(stage, head, list(names), f"exit{i}/logits")
        if isinstance(head, Head):
            if has_mask and _MASK not in names:
                part.takes.append(_MASK)
            if head.options.stacked and parts:
                part.takes.append(parts[-1].logits)
        names = _name_state(part, i, tensors)
        tensors[part.logits] = StateTensor(part.logits, 0, (None, network.n_classes), torch.float32)
        parts.append(part)
    return StagesWithHeads(parts, tensors)


def _name_state(part: StageWithHead, i: int, tensors: dict[str, StateTensor]) -> list[str]:
    """Set what a stage gives, and add it to `tensors`; returns the names of what the next stage takes."""
    part.gives = [part.logits]
    names: list[str] = []
    for j, tensor in enumerate(part.stage.state):
        passed = _passed_through(part.stage, j)
        if passed is not None:
            names.append(part.takes[passed])
            continue
        name = f"stage{i}/{tensor.name}"
        tensors[name] = tensor
        part.gives.append(name)
        part.given_state.append(j)
        names.append(name)
    return names


def _passed_through(stage: Stage, j: int) -> int | None:
    """Return which of the stage's inputs its j-th output is, None if the stage computes it."""
    nodes = list(stage.body.graph.nodes)
    state = cast("tuple[fx.Node, ...]", nodes[-1].args[0])
    inputs = [node for node in nodes if node.op == "placeholder"]
    return inputs.index(state[j]) if state[j] in inputs else None
