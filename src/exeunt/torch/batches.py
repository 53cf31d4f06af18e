"""Batches of tensors and the order they come in: same seed and epoch, same batches, whatever ran before.

The order of an epoch and every random change are functions of (seed, epoch, place in the epoch), so a run
that is broken off and resumed sees what the unbroken one would, and R processes see together what one would.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from exeunt.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from exeunt._arrays import Integers, Keys
    from exeunt.data.dataset import Dataset


class Batch(NamedTuple):
    """b inputs.

    inputs: float32 (b, 3, h, w), or the tokeniser's tensors by name.
    label: int64 (b,), or None where there are no labels.
    id: content keys, int64 (b,); the bits are those of the uint64 keys (`id.numpy().view("uint64")`).
    """

    inputs: Tensor | dict[str, Tensor]
    label: Tensor | None
    id: Tensor

    def to(self, device: torch.device | str) -> Batch:
        """Return the batch on another device."""
        if isinstance(self.inputs, Tensor):
            inputs: Tensor | dict[str, Tensor] = self.inputs.to(device)
        else:
            inputs = {name: tensor.to(device) for name, tensor in self.inputs.items()}
        label = None if self.label is None else self.label.to(device)
        return Batch(inputs, label, self.id.to(device))


class Place(NamedTuple):
    """Where this process stands in a global batch: its positions, from row `start` of `n_all`."""

    number: int
    positions: Integers
    start: int
    n_all: int


class Loader:
    """Iterates over a data set in batches; call `set_epoch` before each epoch of training.

    batch_size: of the whole batch, which `world_size` processes share evenly; this one takes share `rank`.
    shuffle: a new order each epoch, from `seed`; else the order of the data set.
    drop_last: leave out an incomplete last batch (unless it is the only one); default: if shuffled.

    `positions` are the data set's positions of the batch last given out.
    """

    def __init__(
        self,
        dataset: Dataset,
        *,
        batch_size: int,
        shuffle: bool = False,
        seed: int = 0,
        drop_last: bool | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if batch_size < 1 or batch_size % world_size:
            raise InputError(
                f"batch_size must be a positive multiple of the {world_size} process(es) that share it, "
                f"got {batch_size}"
            )
        if not 0 <= rank < world_size:
            raise InputError(f"rank must lie in 0..{world_size - 1}, got {rank}")
        self.dataset = dataset
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.seed = seed
        self.drop_last = shuffle if drop_last is None else drop_last
        self.rank = rank
        self.world_size = world_size
        self.epoch = 0
        self.positions: Integers = np.zeros(0, dtype=np.int64)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order and random changes the next iteration uses."""
        self.epoch = epoch

    def __len__(self) -> int:
        whole, left = divmod(len(self.dataset), self.batch_size)
        return whole if self.drop_last and whole else whole + bool(left)

    def __iter__(self) -> Iterator[Batch]:
        raise NotImplementedError

    def places(self) -> Iterator[Place]:
        """Yield this process's share of each global batch of the epoch; shares without rows are left out."""
        n = len(self.dataset)
        order = self.rng(0).permutation(n) if self.shuffle else np.arange(n)
        for number in range(len(self)):
            batch = order[number * self.batch_size : (number + 1) * self.batch_size]
            bounds = np.arange(self.world_size + 1) * len(batch) // self.world_size
            start, stop = int(bounds[self.rank]), int(bounds[self.rank + 1])
            if stop > start:
                yield Place(number, batch[start:stop], start, len(batch))

    def rng(self, *place: int) -> np.random.Generator:
        """Return the generator of this epoch's order (0) or of the random changes to batch k (1, k)."""
        return np.random.default_rng([self.seed, self.epoch, *place])

    def finish(self, inputs: Tensor | dict[str, Tensor], positions: Integers, keys: Keys) -> Batch:
        """Return the batch of these inputs, with their labels."""
        self.positions = positions
        labels = self.dataset.labels
        label = None if labels is None else torch.from_numpy(labels[positions])
        return Batch(inputs, label, torch.from_numpy(keys.view(np.int64)))
