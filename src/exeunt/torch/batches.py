"""Batches: what they hold, the order they come in, and how several processes share them.

The order of an epoch and every random change are functions of (seed, epoch, place in the epoch). So a resumed run sees
the same batches as an uninterrupted one, and R processes together see the same batches as one.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import KW_ONLY, dataclass
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from exeunt._support.arrays import Integers
from exeunt.errors import InputError
from exeunt.torch.calls import map_tensors


class BatchShare(NamedTuple):
    """One process's share of batch `number`: `positions` in the data set, from row `start` of `n_all`."""

    number: int
    positions: Integers
    start: int
    n_all: int


@dataclass(eq=False, repr=False)
class Loader:
    """Iterates over a data set in batches; call `set_epoch` before each epoch of training.

    batch_size: inputs per batch, over all processes.
    shuffle: a new order each epoch, drawn from `seed`; else the order of the data set.
    drop_last: leave out an incomplete last batch (unless it is the only one); default: if shuffled.
    workers: processes that read batches ahead; 0 reads them in this process.

    A subclass reads one share in `read`.
    """

    dataset: Any
    _: KW_ONLY
    batch_size: int
    shuffle: bool = False
    seed: int = 0
    drop_last: bool | None = None
    workers: int = 0

    epoch, rank, world_size = 0, 0, 1  # the last two are set by `shared`

    def __post_init__(self) -> None:
        self.drop_last = self.shuffle if self.drop_last is None else self.drop_last

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order and random changes the next iteration uses."""
        self.epoch = epoch

    def __len__(self) -> int:
        full_batches, left = divmod(len(self.dataset), self.batch_size)
        return full_batches if self.drop_last and full_batches else full_batches + bool(left)

    def __iter__(self) -> Iterator[Any]:
        """Yield the batches of the current epoch."""
        return (batch for _, batch in self.stream())

    def read(self, share: BatchShare) -> Any:
        """Return the inputs of a share; runs in a worker where there are workers."""
        raise NotImplementedError

    def stream(self) -> Iterator[tuple[BatchShare, Any]]:
        """Yield this process's share of every batch of the epoch, and the result of `read`."""
        shares: Any = list(self.shares())
        read: Any = self.read
        own = torch.Generator()  # else each epoch would draw from the global generator
        results: DataLoader[Any] = DataLoader(
            shares, batch_size=None, collate_fn=read, num_workers=self.workers, generator=own
        )
        return zip(shares, results, strict=True)

    def shares(self) -> Iterator[BatchShare]:
        """Yield this process's share of each batch of the epoch; shares without rows are left out."""
        # Not torch's DistributedSampler: it repeats inputs where processes cannot share evenly, which changes what
        # is measured, and it gives epoch 1 of seed 0 the order of epoch 0 of seed 1.
        order = self.order()
        for number in range(len(self)):
            batch = order[number * self.batch_size : (number + 1) * self.batch_size]
            rows = _part(len(batch), self.rank, self.world_size)
            if rows.stop > rows.start:
                yield BatchShare(number, batch[rows], rows.start, len(batch))

    def order(self) -> Integers:
        """Return the data set's positions in the order of this epoch."""
        n = len(self.dataset)
        return self.rng(0).permutation(n) if self.shuffle else np.arange(n)

    def rng(self, *place: int) -> np.random.Generator:
        """Return the generator of this epoch's order (0), of changes to batch k (1, k), or of the batches (2)."""
        return np.random.default_rng([self.seed, self.epoch, *place])


def unpack(batch: Any) -> tuple[Any, Tensor | None, Any]:
    """Return a batch's inputs, label (b,) or masks (b, h, w) or None, and id (b,) or None.

    Raises InputError for anything but (inputs, label) or (inputs, label, id).
    """
    if isinstance(batch, (tuple, list)) and len(batch) in (2, 3):
        inputs, label, *rest = batch
        if label is None or (isinstance(label, Tensor) and label.ndim in (1, 3)):
            return inputs, label, rest[0] if rest else None
    raise InputError(
        "a loader must give batches (inputs, label) or (inputs, label, id), with inputs a tensor, a tuple or "
        f"a dict of tensors and label a tensor of shape (batch,), or masks (batch, h, w); got {_describe(batch)}"
    )


def check_labels(label: Tensor | None) -> None:
    """Raise InputError unless all labels of a batch are known; of masks, at least one pixel of each."""
    if label is None or bool((label.flatten(1).amax(1) if label.ndim == 3 else label).lt(0).any()):
        raise InputError(
            "training needs labels, and the loader gives none for some inputs: heads learn without them from the "
            "network's own outputs with unlabelled=True"
        )


def rows_of(inputs: Any) -> int:
    """Return the number of inputs in a batch. Raises InputError where it holds no tensor."""
    values = inputs.values() if isinstance(inputs, Mapping) else inputs
    for tensor in (inputs,) if isinstance(inputs, Tensor) else values:
        if isinstance(tensor, Tensor):
            return len(tensor)
    raise InputError(f"a batch's inputs must be tensors, got {_describe(inputs)}")


def length_of(loader: Iterable[Any]) -> int | None:
    """Return the number of batches, or None where the loader does not know it."""
    try:
        return len(loader)  # type: ignore[arg-type]
    except TypeError:
        return None


def start_epoch(loader: Any, epoch: int, seed: int) -> None:
    """Choose the next epoch of a loader of any kind, so that a resumed run sees it in the same order.

    Calls `set_epoch` of the loader or its sampler, and seeds the loader's own generator, where there is one.
    """
    loader = loader.loader if isinstance(loader, _Sliced) else loader
    for owner in (loader, getattr(loader, "sampler", None), getattr(loader, "batch_sampler", None)):
        own_set_epoch = getattr(owner, "set_epoch", None)
        if callable(own_set_epoch):
            own_set_epoch(epoch)
    generator = getattr(loader, "generator", None)
    if isinstance(generator, torch.Generator):
        generator.manual_seed(seed)


def shared(loader: Iterable[Any], rank: int, world_size: int) -> Iterable[Any]:
    """Return a loader that gives process `rank` its rows of each batch; the processes together see every row once.

    A loader with attributes `rank` and `world_size` reads its own rows only. Any other reads the whole batch in
    every process, which then takes a slice of it.
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
            n = rows_of(unpack(batch)[0])
            if n < self.world_size:
                raise InputError(
                    f"a batch of {n} cannot be shared by {self.world_size} processes: let the loader drop "
                    "its incomplete last batch"
                )
            rows = _part(n, self.rank, self.world_size)
            yield tuple(map_tensors(itemgetter(rows), part) for part in batch)

    def __len__(self) -> int:
        return len(self.loader)  # type: ignore[arg-type]


def _part(n: int, rank: int, world_size: int) -> slice:
    """Return process `rank`'s part of n rows; the parts cover all rows once and differ by at most one."""
    return slice(rank * n // world_size, (rank + 1) * n // world_size)


def _describe(batch: Any) -> str:
    if isinstance(batch, (tuple, list)):
        return f"{type(batch).__name__} of {len(batch)}: ({', '.join(type(v).__name__ for v in batch)})"
    return type(batch).__name__
