"""Stages of a model that has been cut, and the tensors that one hands on to the next."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from torch import Tensor, fx, nn

from exeunt.errors import InputError
from exeunt.torch.cutting.graph import Folded, NotCuttable

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from exeunt.torch.cutting.graph import ModelGraph

__all__ = ["Stage", "StagedModel", "StateTensor", "described", "state_nodes"]


def state_nodes(graph: ModelGraph, name: str, feature: fx.Node) -> list[fx.Node]:
    """Return the values to hand on after module `name`: its output `feature`, then what else is still needed.

    Raises NotCuttable when one of them is no tensor.
    """
    end = graph.spans[name].last
    live = [n for n in graph.nodes[: end + 1] if n.op != "get_attr" and graph.crosses(n, end)]
    kept = [n for n in live if n not in graph.values and not graph.recomputable(n)]
    for node in kept:
        if not isinstance(node.meta.get("val"), Tensor):
            raise NotCuttable(
                f"no cut after {name!r}: {node.name!r} is a number read from the data, no tensor"
            )
    return [feature, *(node for node in kept if node is not feature)]


def described(
    graph: ModelGraph, nodes: Sequence[fx.Node], names: Sequence[str], at: str
) -> list[StateTensor]:
    """Describe the values handed on after module `at`.

    Raises Folded when one of them mixes its rows with another axis, NotCuttable when none has rows.
    """
    kinds = []
    for node, name in zip(nodes, names, strict=True):
        value = node.meta["val"]
        try:
            batch_dim = graph.batch_dim(node)
        except Folded as error:
            raise Folded(f"no cut after {at!r}: {error}, so rows could not be dropped there") from None
        shape = tuple(None if i == batch_dim else int(size) for i, size in enumerate(value.shape))
        kinds.append(StateTensor(name, batch_dim, shape, value.dtype))
    if all(tensor.batch_dim is None for tensor in kinds):
        raise NotCuttable(f"no cut after {at!r}: nothing that is handed on there has rows")
    return kinds


@dataclass(frozen=True)
class StateTensor:
    """One tensor handed from a stage to the next.

    `batch_dim`: the axis along which rows can be dropped; None for a tensor that all rows share, which is
    handed on whole. `shape`: its sizes, None at `batch_dim`.
    """

    name: str
    batch_dim: int | None
    shape: tuple[int | None, ...]
    dtype: torch.dtype

    def take(self, tensor: Tensor, rows: Tensor) -> Tensor:
        """Return the tensor with only the rows of index `rows` (int64, on the tensor's device)."""
        return tensor if self.batch_dim is None else tensor.index_select(self.batch_dim, rows)


class Stage(nn.Module):
    """One piece of a model, frozen in eval mode; its parameters are the model's own.

    `name`: the module after which it ends, "output" for the last stage. `inputs`: what it takes.
    `state`: what it hands on, which is what the next stage takes; empty for the last stage, which returns the
    model's output. `feature_index`: which entry of `state` is the output of the module `name`.
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
        self.feature_index = 0

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of the tensors the stage takes, in order."""
        return tuple(tensor.name for tensor in self.inputs)

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...] | Tensor:
        """Return the tensors of `state`, or the model's output if this is the last stage."""
        return cast("tuple[Tensor, ...] | Tensor", self.body(*tensors))

    def take(self, tensors: Sequence[Tensor], rows: Tensor) -> tuple[Tensor, ...]:
        """Drop rows from what the stage returned: keep those of index `rows` (int64)."""
        return tuple(kind.take(tensor, rows) for kind, tensor in zip(self.state, tensors, strict=True))


class StagedModel(nn.Module):
    """A model cut into stages. `names`: the modules after which it was cut, in order of execution.

    The stages compute what the model computes in eval mode; `train()` does not bring dropout back. They hold
    the model's own parameters: change those in place (`load_state_dict` without `assign=True`).
    """

    def __init__(self, stages: Sequence[Stage]) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)

    @property
    def names(self) -> tuple[str, ...]:
        """Modules after which the model was cut, one fewer than there are stages."""
        return tuple(cast("Stage", stage).name for stage in self.stages[:-1])

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
