"""Stages of a model that has been cut, the state that each hands to the next, and rows dropped from it and joined."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, fx, nn

from exeunt._support.arrays import Integers
from exeunt.engine.dropping_finished_rows import moves
from exeunt.errors import InputError, MixedBatchAxis, NotCuttable
from exeunt.torch.cutting.graph import ModelGraph


@dataclass(frozen=True)
class StateTensor:
    """One tensor that a stage hands to the next.

    `batch_dim`: the axis of the rows; None for a tensor that all rows share, which is always handed over whole.
    `shape`: its sizes, None at `batch_dim` and where they depend on the length of texts.
    """

    name: str
    batch_dim: int | None
    shape: tuple[int | None, ...]
    dtype: torch.dtype

    def take(self, tensor: Tensor, rows: Tensor) -> Tensor:
        """Return the tensor with only the rows of index `rows` (int64, on the tensor's device)."""
        return tensor if self.batch_dim is None else tensor.index_select(self.batch_dim, rows)


def state_after(graph: ModelGraph, name: str, feature: fx.Node) -> tuple[list[fx.Node], list[StateTensor]]:
    """Return the state after module `name`: its output `feature`, then every other value that is used later.

    Raises NotCuttable if a value is no tensor or no value has rows, MixedBatchAxis if rows cannot be dropped from one.
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


def state_tensors(
    graph: ModelGraph, nodes: Sequence[fx.Node], names: Sequence[str], after: str
) -> list[StateTensor]:
    """Return names, shapes and batch axes of the values handed over after module `after`.

    Raises MixedBatchAxis if one mixes its rows with another axis, NotCuttable if none has rows.
    """
    tensors = []
    for node, name in zip(nodes, names, strict=True):
        example = node.meta["val"]
        try:
            batch_dim = graph.batch_dim(node)
        except MixedBatchAxis as error:
            raise MixedBatchAxis(
                f"no cut after {after!r}: {error}, so rows could not be dropped there"
            ) from None
        # A size that the export made a constant may still be written as a symbol.
        numbers = [size if isinstance(size, int) else size.node.expr for size in example.shape]
        shape = tuple(int(size) if isinstance(size, int) or size.is_number else None for size in numbers)
        tensors.append(StateTensor(name, batch_dim, shape, example.dtype))
    if all(tensor.batch_dim is None for tensor in tensors):
        raise NotCuttable(f"no cut after {after!r}: none of the values used after it has rows")
    return tensors


class Stage(nn.Module):
    """One piece of a model, frozen in eval mode; its parameters are the model's own.

    `name`: the module after which it ends, "output" for the last stage. `inputs`: the tensors it takes.
    `state`: the tensors it hands to the next stage, which takes exactly these; the first is the output of the module
    `name`. The last stage returns the model's output instead, and its `state` is empty.
    `passing`: the same without what only the first tensor of the state needs, where no later stage reads that: another
    one stands in its place. None where later stages need it.
    """

    def __init__(
        self,
        name: str,
        body: fx.GraphModule,
        inputs: Sequence[StateTensor],
        state: Sequence[StateTensor],
        passing: fx.GraphModule | None = None,
    ) -> None:
        super().__init__()
        self.name = name
        self.body = body
        self.passing = passing
        self.inputs = tuple(inputs)
        self.state = tuple(state)

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...] | Tensor:
        """Return the tensors of `state`, or the model's output if this is the last stage."""
        return cast("tuple[Tensor, ...] | Tensor", self.body(*tensors))

    def take(self, tensors: Sequence[Tensor], rows: Tensor) -> tuple[Tensor, ...]:
        """Return the tensors of `state` with only the rows of index `rows` (int64)."""
        return tuple(kind.take(tensor, rows) for kind, tensor in zip(self.state, tensors, strict=True))


class StagedModel(nn.Module):
    """A model cut into stages, which compute what the model computes in eval mode; `train()` does not change them.

    The stages hold the model's own parameters: change these in place (`load_state_dict` without `assign=True`).
    """

    def __init__(self, stages: Sequence[Stage]) -> None:
        super().__init__()
        self.stages = cast("Sequence[Stage]", nn.ModuleList(stages))

    @property
    def names(self) -> tuple[str, ...]:
        """Modules after which the model was cut, in order of execution: one fewer than there are stages."""
        return tuple(stage.name for stage in self.stages[:-1])

    @property
    def length_is_open(self) -> bool:
        """Whether the stages take texts of any length, padded to a common length in each batch."""
        inputs = self.stages[0].inputs  # the number of rows is open, too
        return any(tensor.shape.count(None) > (tensor.batch_dim is not None) for tensor in inputs)

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of the model's inputs, in order."""
        return tuple(tensor.name for tensor in self.stages[0].inputs)

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


def gathered(tensors: Sequence[Tensor], rows: Sequence[Integers | slice | None], dim: int | None) -> Tensor:
    """Return these rows of these tensors, in order, along the axis `dim` (None: one tensor that all rows share).

    Each row is copied once and keeps its layout in memory. A single slice is a view.
    """
    first = tensors[0]
    if dim is None:
        return first
    selections = [slice(None) if keep is None else keep for keep in rows]
    if len(tensors) == 1 and isinstance(selections[0], slice):
        return first[(*[slice(None)] * dim, selections[0])]
    order = _axes_by_stride(first, dim)
    views = [tensor.permute(order) for tensor in tensors]
    counts = [
        len(range(len(view))[keep]) if isinstance(keep, slice) else len(keep)
        for view, keep in zip(views, selections, strict=True)
    ]
    out = views[0].new_empty((sum(counts), *views[0].shape[1:]))
    for place, view, keep in zip(torch.split(out, counts), views, selections, strict=True):
        if isinstance(keep, slice):
            place.copy_(view[keep])
        else:
            torch.index_select(view, 0, _index(keep, view), out=place)
    return out.permute([order.index(axis) for axis in range(first.ndim)])


def compacted(tensor: Tensor, rows: Integers, dim: int) -> Tensor:
    """Return a view of a tensor's front along `dim`, changed in place to hold these rows in the order of `moves`.

    A tensor whose rows are not contiguous in memory is copied instead.
    """
    holes, movers, order = moves(rows)
    view = tensor.permute(_axes_by_stride(tensor, dim))
    if not view.is_contiguous():
        return gathered([tensor], [order], dim)
    view.index_copy_(0, _index(holes, view), view.index_select(0, _index(movers, view)))
    return tensor.narrow(dim, 0, len(rows))


def memory_address(tensor: Tensor) -> int:
    """Return where the tensor's memory begins, which is the same for all views of a tensor."""
    return tensor.untyped_storage().data_ptr()


def _index(keep: Integers, view: Tensor) -> Tensor:
    return torch.from_numpy(keep).to(view.device)


def _axes_by_stride(tensor: Tensor, dim: int) -> list[int]:
    """Return the axes with `dim` first and the others in their order in memory, so that whole rows are copied."""
    others = [axis for axis in range(tensor.ndim) if axis != dim]
    return [dim, *sorted(others, key=lambda axis: -tensor.stride()[axis])]
