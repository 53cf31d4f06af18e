"""Dropping and joining rows of tensors: copied in one pass, or moved in place (see `exeunt.engine.row_dropping`)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from exeunt._arrays import Integers
from exeunt.engine.row_dropping import moves

__all__ = ["compacted", "gathered", "memory_address"]


def gathered(tensors: Sequence[Tensor], rows: Sequence[Integers | slice | None], dim: int | None) -> Tensor:
    """Return these rows of these tensors, in order, along the axis `dim` (None: one tensor that all rows share).

    Everything is copied once, and keeps its layout in memory. A single slice is a view.
    """
    first = tensors[0]
    if dim is None or (len(tensors) == 1 and rows[0] is None):
        return first
    order = _axes_by_stride(first, dim)
    back = [order.index(axis) for axis in range(first.ndim)]
    views = [tensor.permute(order) for tensor in tensors]
    if len(views) == 1:
        keep = rows[0]
        view = views[0]
        selected = view.index_select(0, _index(keep, view)) if isinstance(keep, np.ndarray) else view[keep]
        return selected.permute(back)
    counts = [_count(view, keep) for view, keep in zip(views, rows, strict=True)]
    out = views[0].new_empty((sum(counts), *views[0].shape[1:]))
    for place, view, keep in zip(torch.split(out, counts), views, rows, strict=True):
        if isinstance(keep, np.ndarray):
            torch.index_select(view, 0, _index(keep, view), out=place)
        else:
            place.copy_(view if keep is None else view[keep])
    return out.permute(back)


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


def _count(view: Tensor, keep: Integers | slice | None) -> int:
    if isinstance(keep, np.ndarray):
        return len(keep)
    return len(view) if keep is None else len(range(len(view))[keep])


def _index(keep: Integers, view: Tensor) -> Tensor:
    return torch.from_numpy(keep).to(view.device)


def _axes_by_stride(tensor: Tensor, dim: int) -> list[int]:
    """Return the axes with `dim` first and the others in their order in memory, so that whole rows are copied."""
    others = [axis for axis in range(tensor.ndim) if axis != dim]
    strides = tensor.stride()
    return [dim, *sorted(others, key=lambda axis: -strides[axis])]
