"""A cut network as one module of unconnected stages, which one pass of the ONNX exporter can translate.

Every stage, with its head, has its own inputs and its own batch size. So the values of one stage cannot reach another,
and the exporter's start-up time is spent once rather than once per stage.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch.export import Dim

from exeunt.torch.calls import first_tensor
from exeunt.torch.cutting.stage import Stage, StagedModel, StateTensor
from exeunt.torch.exits.heads import GateFeatures, Head
from exeunt.torch.exits.network import EarlyExitNetwork, head_logits

_MASK = "attention_mask"


class StageWithHead(nn.Module):
    """One stage with its head, and the names in the whole network of the tensors that go in and come out.

    `takes`: the stage's inputs, then the mask if its head reads it.
    `gives`: the logits and the tensors that it computes for later stages, without tensors that only pass through.
    `logits`: name of the exit's logits (n, k). `given_state`: which entries of the stage's state are in `gives`.
    """

    def __init__(self, stage: Stage, head: nn.Module | None, takes: Sequence[str], logits: str) -> None:
        super().__init__()
        self.stage, self.head = stage, head
        self.takes, self.logits = list(takes), logits
        self.gives = [logits]
        self.given_state: list[int] = []

    def forward(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors of `gives` by name, computed from named tensors that include those of `takes`."""
        tensors_out = self.stage.body(*(tensors[name] for name in self.takes[: len(self.stage.inputs)]))
        if self.head is None:
            return {self.logits: first_tensor(tensors_out)}
        mask = tensors[_MASK] if _MASK in self.takes else None
        outputs = (head_logits(self.head, tensors_out[0], mask), *(tensors_out[i] for i in self.given_state))
        return dict(zip(self.gives, outputs, strict=True))


class StagesWithHeads(nn.Module):
    """All stages side by side: takes every stage's inputs in order, returns every stage's outputs in order.

    `parts`: the stages. `tensors`: what is known of each tensor, by name.
    """

    def __init__(self, parts: Sequence[StageWithHead], tensors: Mapping[str, StateTensor]) -> None:
        super().__init__()
        self.parts = cast("Sequence[StageWithHead]", nn.ModuleList(parts))
        self.tensors = dict(tensors)

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Run every stage on its own inputs."""
        outputs: list[Tensor] = []
        left = iter(tensors)
        for part in self.parts:
            outputs += part({name: next(left) for name in part.takes}).values()
        return tuple(outputs)

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
    stages = staged.stages
    tensors = {tensor.name: tensor for tensor in stages[0].inputs}
    names = list(staged.input_names)
    has_mask = _MASK in names
    pixels = stages[0].inputs[0].shape[2:] if network.masks else ()
    shape = (None, network.n_classes, *(side and side // network.mask_scale for side in pixels))
    parts: list[StageWithHead] = []
    for i, stage in enumerate(stages):
        head = network.stage_heads[i] if i < len(network.stage_heads) else None
        exit_ = i - (network.gate is not None)
        part = StageWithHead(stage, head, names, f"exit{exit_}/logits" if exit_ >= 0 else "gate/features")
        if isinstance(head, Head) and has_mask and _MASK not in names:
            part.takes.append(_MASK)
        names = _name_state(part, i, tensors)
        of_gate = (None, cast("GateFeatures", network.gate).width) if exit_ < 0 else shape
        tensors[part.logits] = StateTensor(part.logits, 0, of_gate, torch.float32)
        parts.append(part)
    return StagesWithHeads(parts, tensors)


def _name_state(part: StageWithHead, i: int, tensors: dict[str, StateTensor]) -> list[str]:
    """Enter the outputs of a stage, and add them to `tensors`; returns the names that the next stage takes."""
    nodes = list(part.stage.body.graph.nodes)
    inputs = [node for node in nodes if node.op == "placeholder"]
    names: list[str] = []
    for j, tensor in enumerate(part.stage.state):
        node = cast("tuple[fx.Node, ...]", nodes[-1].args[0])[j]
        if node in inputs:  # it only passes through
            names.append(part.takes[inputs.index(node)])
            continue
        names.append(f"stage{i}/{tensor.name}")
        tensors[names[-1]] = tensor
        part.gives.append(names[-1])
        part.given_state.append(j)
    return names
