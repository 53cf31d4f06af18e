"""Stages of a model that has been cut, and the state that each hands to the next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from torch import Tensor, fx, nn

from exeunt.errors import InputError, MixedBatchAxis, NotCuttable

if TYPE_CHECKING:
    import torch

    from exeunt.torch.cutting.graph import ModelGraph

__all__ = ["Stage", "StagedModel", "StateTensor", "state_after", "state_tensors"]


@dataclass(frozen=True)
class StateTensor:
    """One tensor that a stage hands to the next.

    `batch_dim`: the axis along which rows can be dropped; None for a tensor that all rows share, which is
    always handed over whole. `shape`: its sizes, None at `batch_dim` and where they depend on the length of texts.
    """

    name: str
    batch_dim: int | None
    shape: tuple[int | None, ...]
    dtype: torch.dtype

    def take(self, tensor: Tensor, rows: Tensor) -> Tensor:
        """Return the tensor with only the rows of index `rows` (int64, on the tensor's device)."""
        return tensor if self.batch_dim is None else tensor.index_select(self.batch_dim, rows)


def state_after(graph: ModelGraph, name: str, feature: fx.Node) -> tuple[list[fx.Node], list[StateTensor]]:
    """Return the state after module `name`: its output `feature`, then everything else that is used later.

    Raises NotCuttable when a value of it is no tensor or none has rows, MixedBatchAxis when rows cannot be dropped
    from one.
    """
    end = graph.spans[name].last
    carried = [
        node
        for node in graph.nodes[: end + 1]
        if node.op != "get_attr"
        and graph.crosses(node, end)
        and node not in graph.constants
        and not graph.recomputable(node)
    ]
    for node in carried:
        if not isinstance(node.meta.get("val"), Tensor):
            raise NotCuttable(
                f"no cut after {name!r}: {node.name!r} is a number computed from the data, no tensor"
            )
    nodes = [feature, *(node for node in carried if node is not feature)]
    return nodes, state_tensors(graph, nodes, [node.name for node in nodes], name)


def _constant(size: Any) -> int | None:
    """Return a size that the export made a constant, which may still be written as a symbol; None for others."""
    if isinstance(size, int):
        return size
    return int(size.node.expr) if size.node.expr.is_number else None


def state_tensors(
    graph: ModelGraph, nodes: Sequence[fx.Node], names: Sequence[str], after: str
) -> list[StateTensor]:
    """Return names, shapes and batch axes of the values handed over after module `after`.

    Raises MixedBatchAxis when one mixes its rows with another axis, NotCuttable when none has rows.
    """
    tensors = []
    for node, name in zip(nodes, names, strict=True):
        value = node.meta["val"]
        try:
            batch_dim = graph.batch_dim(node)
        except MixedBatchAxis as error:
            raise MixedBatchAxis(
                f"no cut after {after!r}: {error}, so rows could not be dropped there"
            ) from None
        shape = tuple(_constant(size) for size in value.shape)
        tensors.append(StateTensor(name, batch_dim, shape, value.dtype))
    if all(tensor.batch_dim is None for tensor in tensors):
        raise NotCuttable(f"no cut after {after!r}: none of the values used after it has rows")
    return tensors


class Stage(nn.Module):
    """One piece of a model, frozen in eval mode; its parameters are the model's own.

    `name`: the module after which it ends, "output" for the last stage. `inputs`: the tensors it takes.
    `state`: the tensors it hands to the next stage, which takes just these; the first is the output of the module
    `name`. The last stage returns the model's output instead, and its `state` is empty.
    """

    def __init__(
        self,
        name: str,
        body: fx.GraphModule,
        inputs: Sequence[StateTensor],
        state: Sequence[StateTensor],
    ) -> None:
        super().__init__()
        self.name = name
        self.body = body
        self.inputs = tuple(inputs)
        self.state = tuple(state)

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of the tensors the stage takes, in order."""
        return tuple(tensor.name for tensor in self.inputs)

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...] | Tensor:
        """Return the tensors of `state`, or the model's output if this is the last stage."""
        return cast("tuple[Tensor, ...] | Tensor", self.body(*tensors))

    def take(self, tensors: Sequence[Tensor], rows: Tensor) -> tuple[Tensor, ...]:
        """Return what the stage returned with only the rows of index `rows` (int64): drop the others."""
        return tuple(kind.take(tensor, rows) for kind, tensor in zip(self.state, tensors, strict=True))


class StagedModel(nn.Module):
    """A model cut into stages, which compute what the model computes in eval mode; `train()` does not change them.

    They hold the model's own parameters: change those in place (`load_state_dict` without `assign=True`).
    """

    def __init__(self, stages: Sequence[Stage]) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)

    @property
    def names(self) -> tuple[str, ...]:
        """Modules after which the model was cut, in order of execution: one fewer than there are stages."""
        return tuple(cast("Stage", stage).name for stage in self.stages[:-1])

    @property
    def length_is_open(self) -> bool:
        """Whether the stages take texts of any length, padded to a length of their batch."""
        inputs = cast("Stage", self.stages[0]).inputs
        return any(
            size is None for tensor in inputs for i, size in enumerate(tensor.shape) if i != tensor.batch_dim
        )

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of the model's inputs, in order."""
        return cast("Stage", self.stages[0]).input_names

    def forward(self, *inputs: Tensor, **named: Tensor) -> Tensor:
        """Run all stages; returns the model's logits (n, k)."""
        if named:
            absent = [name for name in self.input_names[len(inputs) :] if name not in named]
            if absent or len(inputs) + len(named) != len(self.input_names):
                raise InputError(
                    f"the model takes {list(self.input_names)}, got {len(inputs)} and {list(named)}"
                )
            inputs = (*inputs, *(named[name] for name in self.input_names[len(inputs) :]))
        state: tuple[Tensor, ...] = inputs
        for stage in self.stages[:-1]:
            state = stage(*state)
        return cast("Tensor", self.stages[-1](*state))
