"""Rows of tensors: a batch's inputs by name, which of them are finite, and putting rows together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from exeunt.engine.row_dropping import moves
from exeunt.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from numpy.typing import NDArray

    from exeunt._arrays import Booleans, Integers
    from exeunt.torch.calls import Inputs

__all__ = [
    "Named", "address", "call_of", "compacted", "finite_rows", "gathered", "named_tensors", "numpy_logits", "padded",
    "shapes",
]  # fmt: skip

Named: TypeAlias = "dict[str, Tensor]"
"""Tensors by name, with one row per input; those given by position are named "0", "1", ..."""


def named_tensors(inputs: Inputs, like: Tensor) -> Named:
    """Return a batch's inputs (NumPy arrays or tensors) by name, on the device of `like`; real numbers in its type.

    Raises InputError for what is no array, and for tensors that differ in their number of rows.
    """
    if isinstance(inputs, Mapping):
        values = dict(sorted(inputs.items()))
    elif isinstance(inputs, (tuple, list)):
        values = {str(place): value for place, value in enumerate(inputs)}
    else:
        values = {"0": inputs}
    named = {name: _tensor(value, like) for name, value in values.items()}
    sizes = {name: tuple(tensor.shape) for name, tensor in named.items()}
    if not named or any(not size for size in sizes.values()) or len({size[0] for size in sizes.values()}) > 1:
        raise InputError(f"inputs must be tensors with one row per input, got shapes {sizes}")
    return named


def _tensor(value: Any, like: Tensor) -> Tensor:
    if isinstance(value, np.ndarray):
        value = torch.from_numpy(np.ascontiguousarray(value))
    if not isinstance(value, Tensor):
        raise InputError(f"inputs must be arrays or tensors, got {type(value).__name__}")
    return value.to(like.device, like.dtype if value.is_floating_point() else None, non_blocking=True)


def call_of(named: Named) -> tuple[tuple[Tensor, ...], Named]:
    """Return the positional and the keyword arguments that a network is called with."""
    args = tuple(tensor for name, tensor in named.items() if name.isdigit())
    return args, {name: tensor for name, tensor in named.items() if not name.isdigit()}


def padded(named: Named, model: nn.Module) -> Named:
    """Return texts padded to a multiple of 8 tokens, above 64 of 32: few lengths, and rows of more batches match.

    Texts are what comes with an "attention_mask" (n, t); whatever else has its shape is padded too. No token more
    is added than the model has positions for.
    """
    mask = named.get("attention_mask")
    if mask is None or mask.ndim != 2:
        return named
    tokens = mask.shape[1]
    step = 8 if tokens <= 64 else 32
    config = getattr(model, "config", None)
    most = getattr(config, "max_position_embeddings", None) or tokens
    more = max(0, min(-(-tokens // step) * step, most) - tokens)
    filler = {"input_ids": getattr(config, "pad_token_id", None) or 0}
    return {
        name: functional.pad(tensor, (0, more), value=filler.get(name, 0))
        if more and tensor.shape == mask.shape
        else tensor
        for name, tensor in named.items()
    }


def finite_rows(named: Named) -> Booleans:
    """Return which inputs hold neither NaN nor infinite values, (n,)."""
    finite: Booleans = np.ones(len(next(iter(named.values()))), dtype=bool)
    for tensor in named.values():
        # A sum is not finite if any of its terms is not; it is read in one pass and seldom anything else.
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor.sum())):
            finite &= torch.isfinite(tensor).flatten(1).all(dim=1).cpu().numpy()
    return finite


def shapes(named: Named) -> Hashable:
    """Return names, types and sizes of tensors, but for their number of rows."""
    return tuple((name, tensor.dtype, tensor.shape[1:]) for name, tensor in named.items())


def gathered(tensors: Sequence[Tensor], rows: Sequence[Integers | slice | None], dim: int | None) -> Tensor:
    """Return these rows of these tensors, in order, along the axis `dim` (None: one tensor that all rows share).

    Everything is copied once, in the layout that it has. A single slice is a view.
    """
    first = tensors[0]
    if dim is None or (len(tensors) == 1 and rows[0] is None):
        return first
    order = _by_stride(first, dim)
    back = [order.index(axis) for axis in range(first.ndim)]
    views = [tensor.permute(order) for tensor in tensors]
    if len(views) == 1:
        return _selected(views[0], rows[0]).permute(back)
    counts = [_count(view, keep) for view, keep in zip(views, rows, strict=True)]
    out = views[0].new_empty((sum(counts), *views[0].shape[1:]))
    for place, view, keep in zip(torch.split(out, counts), views, rows, strict=True):
        if isinstance(keep, np.ndarray):
            torch.index_select(view, 0, _index(keep, view), out=place)
        else:
            place.copy_(view if keep is None else view[keep])
    return out.permute(back)


def compacted(tensor: Tensor, rows: Integers, dim: int) -> Tensor:
    """Return a view of a tensor's front along `dim`, changed to hold these rows in the order of `moves`.

    A tensor in which rows do not lie one after the other is copied instead.
    """
    holes, movers, order = moves(rows)
    view = tensor.permute(_by_stride(tensor, dim))
    if not view.is_contiguous():
        return gathered([tensor], [order], dim)
    view.index_copy_(0, _index(holes, view), view.index_select(0, _index(movers, view)))
    return tensor.narrow(dim, 0, len(rows))


def address(tensor: Tensor) -> int:
    """Return where the tensor's memory begins: equal for views of the same."""
    return tensor.untyped_storage().data_ptr()


def _selected(view: Tensor, keep: Integers | slice | None) -> Tensor:
    return view.index_select(0, _index(keep, view)) if isinstance(keep, np.ndarray) else view[keep]


def _count(view: Tensor, keep: Integers | slice | None) -> int:
    if isinstance(keep, np.ndarray):
        return len(keep)
    return len(view) if keep is None else len(range(len(view))[keep])


def _index(keep: Integers, view: Tensor) -> Tensor:
    return torch.from_numpy(keep).to(view.device)


def _by_stride(tensor: Tensor, dim: int) -> list[int]:
    """Return the axes with `dim` first and the others as they lie in memory: rows are then copied whole."""
    others = [axis for axis in range(tensor.ndim) if axis != dim]
    strides = tensor.stride()
    return [dim, *sorted(others, key=lambda axis: -strides[axis])]


def numpy_logits(logits: Tensor) -> NDArray[Any]:
    """Return logits as float32 in NumPy."""
    array: NDArray[Any] = logits.detach().float().cpu().numpy()
    return array
