"""Batches of tensors from a data set: same seed and epoch, same batches, whatever ran before.

The order of an epoch and every random change are functions of (seed, epoch, place in the epoch), so a run
that is broken off and resumed sees what the unbroken one would, and R processes see together what one would.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from exeunt.data.content import content_key
from exeunt.data.dataset import Dataset, Images, Texts
from exeunt.data.pictures import UnreadableImage
from exeunt.data.preprocess import Preprocess
from exeunt.errors import InputError
from exeunt.torch.augment import AUGMENTS, crop_flip, resized_crop

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from exeunt._arrays import Integers, Keys
    from exeunt.data.pictures import Pixels


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
        order = self._rng(0).permutation(n) if self.shuffle else np.arange(n)
        for number in range(len(self)):
            batch = order[number * self.batch_size : (number + 1) * self.batch_size]
            bounds = np.arange(self.world_size + 1) * len(batch) // self.world_size
            start, stop = int(bounds[self.rank]), int(bounds[self.rank + 1])
            if stop > start:
                yield Place(number, batch[start:stop], start, len(batch))

    def _rng(self, *place: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, self.epoch, *place])

    def _finish(self, inputs: Tensor | dict[str, Tensor], positions: Integers, keys: Keys) -> Batch:
        self.positions = positions
        labels = self.dataset.labels
        label = None if labels is None else torch.from_numpy(labels[positions])
        return Batch(inputs, label, torch.from_numpy(keys.view(np.int64)))


class ImageLoader(Loader):
    """Batches of normalised images.

    Images in memory at the right size are gathered as arrays; others are decoded and arranged one by one, in
    `workers` processes where asked.

    augment: "none"; "crop-flip" (shift by up to 1/8, flip: the CIFAR recipe); "resized-crop" (a random part,
        resized, flip: the ImageNet recipe).
    unreadable: "raise" UnreadableImage, or "skip": leave the image out and note it in `unreadable`.
    """

    def __init__(
        self,
        dataset: Images,
        preprocess: Preprocess,
        *,
        augment: str = "none",
        workers: int = 0,
        unreadable: str = "raise",
        **options: Any,
    ) -> None:
        super().__init__(dataset, **options)
        if augment not in AUGMENTS:
            raise InputError(f"augment must be one of {', '.join(AUGMENTS)}, got {augment!r}")
        if augment == "resized-crop" and preprocess.size is None:
            raise InputError('augment="resized-crop" needs a Preprocess with a size')
        if unreadable not in {"raise", "skip"}:
            raise InputError(f"unreadable must be 'raise' or 'skip', got {unreadable!r}")
        self.images = dataset
        self.preprocess = preprocess
        self.augment = augment
        self.workers = workers
        self.skip = unreadable == "skip"
        self.unreadable: list[tuple[int, UnreadableImage]] = []
        self._scale = torch.from_numpy(preprocess.scale)[:, None, None]
        self._shift = torch.from_numpy(preprocess.shift)[:, None, None]

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches of the current epoch."""
        self.unreadable = []
        for place, pixels, positions, keys in self._gathered() if self._ready() else self._decoded():
            if self.augment == "crop-flip":
                rng = self._rng(1, place.number)
                start = place.start
                pixels = crop_flip(pixels, rng, n_all=place.n_all, start=start)
            yield self._finish(self._normalise(pixels), positions, keys)

    def _ready(self) -> bool:
        """Whether the pixels lie in memory as the network takes them."""
        pixels, size = self.images.pixels, self.preprocess.size
        fits = pixels is not None and (size is None or pixels.shape[1:3] == size)
        return fits and self.augment != "resized-crop"

    def _gathered(self) -> Iterator[tuple[Place, Pixels, Integers, Keys]]:
        for place in self.places():
            pixels = self.images.batch(place.positions)
            yield place, pixels, place.positions, self.images.content_id(place.positions)

    def _decoded(self) -> Iterator[tuple[Place, Pixels, Integers, Keys]]:
        places = list(self.places())
        stream = torch.utils.data.DataLoader(
            _Decoding(self.images, self.preprocess, self.augment),
            batch_sampler=[self._jobs(place) for place in places],
            num_workers=self.workers,
            collate_fn=list,
            generator=torch.Generator(),  # else each epoch would draw from the global generator
        )
        for place, results in zip(places, stream, strict=True):
            failed = [(i, r) for i, r in results if isinstance(r, UnreadableImage)]
            if failed and not self.skip:
                raise failed[0][1]
            self.unreadable += failed
            good = [(i, r) for i, r in results if not isinstance(r, UnreadableImage)]
            if good:
                pixels = _stack([pixels for _, (pixels, _) in good])
                keys = np.array([key for _, (_, key) in good], dtype=np.uint64)
                yield place, pixels, np.array([i for i, _ in good], dtype=np.int64), keys

    def _jobs(self, place: Place) -> list[tuple[int, int]]:
        """Return (position, seed of its random change) per row."""
        seeds = self._rng(1, place.number).integers(0, 2**62, place.n_all)[place.start :]
        return [(int(i), int(s)) for i, s in zip(place.positions, seeds, strict=False)]

    def _normalise(self, pixels: Pixels) -> Tensor:
        channels_first = torch.from_numpy(pixels).permute(0, 3, 1, 2)
        values = channels_first.to(torch.float32, memory_format=torch.contiguous_format)
        return values.mul_(self._scale).add_(self._shift)


class TextLoader(Loader):
    """Batches of tokenised texts: `input_ids`, `attention_mask` and what else the tokeniser returns.

    tokenizer: a Hugging Face tokeniser.
    max_length: longer texts are cut, in tokens; default the tokeniser's own limit.
    fixed_length: pad every batch to `max_length`, else to its longest text.
    """

    def __init__(
        self,
        dataset: Texts,
        tokenizer: Callable[..., Any],
        *,
        max_length: int | None = None,
        fixed_length: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(dataset, **options)
        if fixed_length and max_length is None:
            raise InputError("fixed_length needs a max_length, in tokens")
        self.texts = dataset
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.fixed_length = fixed_length

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches of the current epoch."""
        for place in self.places():
            tokens = self.tokenizer(
                [self.texts.text(int(i)) for i in place.positions],
                padding="max_length" if self.fixed_length else "longest",
                truncation=True,
                max_length=self.max_length,
                return_tensors="pt",
            )
            keys = self.texts.content_id(place.positions)
            yield self._finish(dict(tokens), place.positions, keys)


def make_loader(dataset: Dataset, prepare: Any, **options: Any) -> ImageLoader | TextLoader:
    """Return an ImageLoader (`prepare` is a Preprocess) or a TextLoader (a Hugging Face tokeniser)."""
    if isinstance(dataset, Images):
        if not isinstance(prepare, Preprocess):
            raise InputError(f"images need a Preprocess, got {type(prepare).__name__}")
        return ImageLoader(dataset, prepare, **options)
    if isinstance(dataset, Texts):
        if not callable(prepare):
            raise InputError(f"texts need a tokeniser, got {type(prepare).__name__}")
        return TextLoader(dataset, prepare, **options)
    raise InputError(f"cannot load a data set of kind {dataset.kind!r}")


class _Decoding(torch.utils.data.Dataset[Any]):
    """Decodes one image per job; a failure is returned, since workers cannot raise it as it is."""

    def __init__(self, images: Images, preprocess: Preprocess, augment: str) -> None:
        self.images = images
        self.preprocess = preprocess
        self.augment = augment

    def __getitem__(self, job: tuple[int, int]) -> Any:
        position, seed = job
        try:
            picture = self.images.image(position)
        except UnreadableImage as error:
            return position, error
        size = self.preprocess.size
        if self.augment == "resized-crop" and size is not None:
            arranged = resized_crop(picture, size, seed)
        else:
            arranged = self.preprocess.arrange(picture, name=self.images.name(position))
        return position, (arranged, content_key(picture))


def _stack(images: list[Pixels]) -> Pixels:
    if len({image.shape for image in images}) > 1:
        raise InputError("the images of a batch differ in size: give Preprocess a size")
    return np.stack(images)
