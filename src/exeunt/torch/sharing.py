"""Taking batches apart, (inputs, label) or (inputs, label, id), and sharing them between processes."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from exeunt.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["length_of", "rows_of", "share", "shared", "start_epoch", "unpack"]


def unpack(batch: Any) -> tuple[Any, Tensor | None, Any]:
    """Return a batch's inputs, label (b,) or None, and id (b,) or None.

    Raises InputError for anything but (inputs, label) or (inputs, label, id).
    """
    if isinstance(batch, (tuple, list)) and len(batch) in (2, 3):
        inputs, label, *rest = batch
        if label is None or (isinstance(label, Tensor) and label.ndim == 1):
            return inputs, label, rest[0] if rest else None
    raise InputError(
        "a loader must give batches (inputs, label) or (inputs, label, id), with inputs a tensor, a tuple or "
        f"a dict of tensors and label a tensor of shape (batch,); got {_describe(batch)}"
    )


def rows_of(inputs: Any) -> int:
    """Return the number of inputs in a batch. Raises InputError where it holds no tensor."""
    values = inputs.values() if isinstance(inputs, Mapping) else inputs
    for value in (inputs,) if isinstance(inputs, Tensor) else values:
        if isinstance(value, Tensor):
            return len(value)
    raise InputError(f"a batch's inputs must be tensors, got {_describe(inputs)}")


def length_of(loader: Iterable[Any]) -> int | None:
    """Return the number of batches, or None where the loader cannot tell."""
    try:
        return len(loader)  # type: ignore[arg-type]
    except TypeError:
        return None


def start_epoch(loader: Any, epoch: int, seed: int) -> None:
    """Tell a loader which epoch comes, so that a resumed run sees the same order as an unbroken one.

    Calls `set_epoch` where the loader or its sampler has it, and seeds the loader's own generator.
    """
    loader = loader.loader if isinstance(loader, _Sliced) else loader
    for owner in (loader, getattr(loader, "sampler", None), getattr(loader, "batch_sampler", None)):
        set_epoch = getattr(owner, "set_epoch", None)
        if callable(set_epoch):
            set_epoch(epoch)
    generator = getattr(loader, "generator", None)
    if isinstance(generator, torch.Generator):
        generator.manual_seed(seed)


def share(n: int, rank: int, world_size: int) -> slice:
    """Return process `rank`'s part of n rows; the parts cover all rows once and differ by at most one."""
    return slice(rank * n // world_size, (rank + 1) * n // world_size)


def shared(loader: Iterable[Any], rank: int, world_size: int) -> Iterable[Any]:
    """Return a loader that gives process `rank` its rows of each batch; together they see what one would.

    A loader with attributes `rank` and `world_size` shares by itself; of any other, each process takes a
    slice of every batch.
    """
    if world_size == 1:
        return loader
    if hasattr(loader, "rank") and hasattr(loader, "world_size"):
        mine: Any = copy.copy(loader)
        mine.rank, mine.world_size = rank, world_size
        return mine  # type: ignore[no-any-return]
    return _Sliced(loader, rank, world_size)


class _Sliced:
    """Every batch of a loader, cut to one process's rows."""

    def __init__(self, loader: Iterable[Any], rank: int, world_size: int) -> None:
        self.loader, self.rank, self.world_size = loader, rank, world_size

    def __iter__(self) -> Iterator[Any]:
        for batch in self.loader:
            inputs, label, id_ = unpack(batch)
            n = rows_of(inputs)
            if n < self.world_size:
                raise InputError(
                    f"a batch of {n} cannot be shared by {self.world_size} processes: let the loader drop "
                    "its incomplete last batch"
                )
            rows = share(n, self.rank, self.world_size)
            parts = (inputs, label) if id_ is None else (inputs, label, id_)
            yield tuple(_rows(part, rows) for part in parts)

    def __len__(self) -> int:
        return len(self.loader)  # type: ignore[arg-type]


def _rows(value: Any, rows: slice) -> Any:
    if isinstance(value, Mapping):
        return {name: _rows(item, rows) for name, item in value.items()}
    if isinstance(value, (tuple, list)):
        return tuple(_rows(item, rows) for item in value)
    return value[rows] if isinstance(value, Tensor) else value


def _describe(batch: Any) -> str:
    if isinstance(batch, (tuple, list)):
        return f"{type(batch).__name__} of {len(batch)}: ({', '.join(type(v).__name__ for v in batch)})"
    return type(batch).__name__
