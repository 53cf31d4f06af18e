"""Where training examples come from: a loader, or the cache of a frozen backbone's features."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from exeunt.errors import InputError
from exeunt.torch.processes import epoch_seed, seeded
from exeunt.torch.sharing import length_of, share, shared, start_epoch, unpack
from exeunt.torch.taps import as_call, to_device

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import torch
    from numpy.typing import NDArray
    from torch import Tensor

    from exeunt.torch.feature_cache import FeatureCache

__all__ = ["CachedStream", "Example", "LoaderStream", "Stream"]


class Example(NamedTuple):
    """One batch, as the arguments of the module that learns, and its labels (b,)."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    label: Tensor


class Stream(Protocol):
    """Gives the batches of an epoch: same epoch, same batches."""

    def __len__(self) -> int:
        """Number of batches of an epoch; 0 where nobody knows."""

    def epoch(self, epoch: int) -> Iterable[Example]:
        """Return the batches of one epoch, this process's share of each."""


@dataclass(frozen=True)
class LoaderStream:
    """The batches of a loader."""

    loader: Iterable[Any]
    device: torch.device
    seed: int

    @classmethod
    def shared(
        cls, loader: Iterable[Any], device: torch.device, seed: int, *, rank: int, world_size: int
    ) -> LoaderStream:
        """Return the share of process `rank`."""
        return cls(shared(loader, rank, world_size), device, seed)

    def __len__(self) -> int:
        return length_of(self.loader) or 0

    def epoch(self, epoch: int) -> Iterator[Example]:
        """Yield one epoch; its order and random changes follow from the seed and the epoch alone."""
        seed = epoch_seed(self.seed, epoch)
        start_epoch(self.loader, epoch, seed)
        with seeded(seed, self.device):
            batches = iter(self.loader)  # a DataLoader draws its order here, from the global generator
        for batch in batches:
            inputs, label, _ = unpack(batch)
            if label is None:
                raise InputError("training needs labels, and the loader gives none")
            args, kwargs = as_call(to_device(inputs, self.device))
            yield Example(args, kwargs, label.to(self.device))


@dataclass(frozen=True)
class CachedStream:
    """Shuffled batches from a feature cache, or all of it in order."""

    cache: FeatureCache
    batch_size: int
    device: torch.device
    seed: int
    shuffle: bool = True
    rank: int = 0
    world_size: int = 1

    def __len__(self) -> int:
        whole, rest = divmod(self.cache.n, self.batch_size)
        return whole + bool(rest and (not self.shuffle or not whole))

    def epoch(self, epoch: int) -> Iterator[Example]:
        """Yield one epoch; shuffled, an incomplete last batch is left out unless it is the only one."""
        order: NDArray[np.int64] = np.arange(self.cache.n)
        if self.shuffle:
            order = np.random.default_rng([self.seed, epoch]).permutation(self.cache.n)
        for number in range(len(self)):
            batch = order[number * self.batch_size : (number + 1) * self.batch_size]
            mine = batch[share(len(batch), self.rank, self.world_size)]
            reduced, final, label = to_device(self.cache.take(mine), self.device)
            yield Example((final, *reduced), {}, label)
