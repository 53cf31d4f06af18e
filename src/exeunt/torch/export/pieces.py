"""A cut network as one module of unconnected pieces, which one pass of the ONNX exporter can translate.

Every stage, with its head, takes inputs of its own and has a batch size of its own: nothing that one stage
computes can reach into another, and the exporter's start-up is paid once and not once per stage.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, fx, nn
from torch.export import Dim

from exeunt.torch.cutting.stage import StateTensor
from exeunt.torch.exits.heads import Head
from exeunt.torch.taps import first_tensor

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from exeunt.torch.cutting.stage import Stage, StagedModel
    from exeunt.torch.exits.network import EarlyExitNetwork

__all__ = ["Piece", "Pieces", "pieces_of"]

_MASK = "attention_mask"


@dataclass(eq=False)
class Piece:
    """One stage with its head, and the names in the whole network of the tensors that go in and come out.

    `takes`: of the stage's inputs, then of the mask and of the logits before that its head may read.
    `gives`: of what it makes: the logits, then tensors for later stages. What merely passes through is neither.
    `logits`: name of the exit's logits (n, k). `kept`: entries of the stage's output that are in `gives`.
    """

    stage: Stage
    head: nn.Module | None
    takes: list[str]
    logits: str
    gives: list[str] = field(default_factory=list)
    kept: list[int] = field(default_factory=list)

    def __call__(self, named: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return what the piece makes, by name, from (at least) what it takes."""
        made = self.stage.body(*(named[name] for name in self.takes[: len(self.stage.inputs)]))
        if self.head is None and not self.stage.state:
            return {self.logits: first_tensor(made)}
        tensors = cast("tuple[Tensor, ...]", made)
        return dict(
            zip(self.gives, (self._answer(tensors, named), *(tensors[i] for i in self.kept)), strict=True)
        )

    def _answer(self, made: tuple[Tensor, ...], named: Mapping[str, Tensor]) -> Tensor:
        head, features = cast("nn.Module", self.head), made[0]
        if not isinstance(head, Head):
            return cast("Tensor", head(features))
        before = next((named[name] for name in self.takes if name.endswith("/logits")), None)
        return cast("Tensor", head(features, named.get(_MASK) if _MASK in self.takes else None, before))


class Pieces(nn.Module):
    """All pieces side by side: takes every piece's inputs in order, returns all that they make in order."""

    def __init__(self, pieces: Sequence[Piece], tensors: Mapping[str, StateTensor]) -> None:
        super().__init__()
        self.pieces = list(pieces)
        self.tensors = dict(tensors)
        self.modules_held = nn.ModuleList(
            [module for piece in pieces for module in (piece.stage, piece.head) if module is not None]
        )

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Run every piece on its own inputs."""
        made: list[Tensor] = []
        left = list(tensors)
        for piece in self.pieces:
            mine, left = left[: len(piece.takes)], left[len(piece.takes) :]
            made += piece(dict(zip(piece.takes, mine, strict=True))).values()
        return tuple(made)

    def dynamic_shapes(self) -> tuple[tuple[dict[int, Dim] | None, ...]]:
        """Return which axes of `forward`'s arguments are open: a batch size for each piece."""
        axes: list[dict[int, Dim] | None] = []
        for i, piece in enumerate(self.pieces):
            rows = Dim(f"rows{i}")
            dims = [self.tensors[name].batch_dim for name in piece.takes]
            axes += [None if dim is None else {dim: rows} for dim in dims]
        return (tuple(axes),)

    def walk(self, named: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Run the pieces one after the other on the network's inputs; returns every tensor by name."""
        known = dict(named)
        for piece in self.pieces:
            known |= piece(known)
        return known


def pieces_of(network: EarlyExitNetwork, staged: StagedModel) -> Pieces:
    """Return the pieces of a network that has been cut, with the names of all that they hand on."""
    stages = [cast("Stage", stage) for stage in staged.stages]
    tensors = {kind.name: kind for kind in stages[0].inputs}
    names = list(staged.input_names)
    with_mask = _MASK in names
    pieces: list[Piece] = []
    for i, stage in enumerate(stages):
        head = network.heads[i] if i < len(network.heads) else None
        piece = Piece(stage, head, list(names), f"exit{i}/logits")
        if isinstance(head, Head):
            if with_mask and _MASK not in names:
                piece.takes.append(_MASK)
            if head.options.chain and pieces:
                piece.takes.append(pieces[-1].logits)
        names = _hand_on(piece, i, tensors)
        tensors[piece.logits] = StateTensor(piece.logits, 0, (None, network.n_classes), torch.float32)
        pieces.append(piece)
    return Pieces(pieces, tensors)


def _hand_on(piece: Piece, i: int, tensors: dict[str, StateTensor]) -> list[str]:
    """Fill in what a piece gives; returns the names of the tensors that the next stage takes."""
    piece.gives = [piece.logits]
    names: list[str] = []
    for j, kind in enumerate(piece.stage.state):
        passed = _passed_through(piece.stage, j)
        if passed is not None:
            names.append(piece.takes[passed])
            continue
        name = f"stage{i}/{kind.name}"
        tensors[name] = kind
        piece.gives.append(name)
        piece.kept.append(j)
        names.append(name)
    return names


def _passed_through(stage: Stage, j: int) -> int | None:
    """Return which of the stage's inputs its j-th output is, None if the stage makes it."""
    nodes = list(stage.body.graph.nodes)
    handed = cast("tuple[fx.Node, ...]", nodes[-1].args[0])
    inputs = [node for node in nodes if node.op == "placeholder"]
    return inputs.index(handed[j]) if handed[j] in inputs else None
