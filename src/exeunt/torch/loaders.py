"""Loaders of images and of texts: from a data set to normalised or tokenised batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from exeunt._arrays import Booleans, Integers, Keys
from exeunt.data.content_keys import content_key
from exeunt.data.dataset import Dataset, Images, Texts
from exeunt.data.preprocess import Preprocess
from exeunt.data.read_image import Pixels
from exeunt.data.tokens import by_length, readable_texts, tokenised
from exeunt.errors import InputError, UnreadableImage, UnreadableText
from exeunt.torch.augmentation import AUGMENTS, crop_flip, resized_crop
from exeunt.torch.batches import BatchShare, Loader

__all__ = ["ImageLoader", "LoadedBatch", "ReadTexts", "TextLoader", "make_loader"]


class LoadedBatch(NamedTuple):
    """b inputs.

    inputs: float32 (b, 3, h, w), or the tokeniser's tensors by name.
    label: int64 (b,), or None where there are no labels.
    id: content keys, int64 (b,); the bits are those of the uint64 keys (`id.numpy().view("uint64")`).
    """

    inputs: Tensor | dict[str, Tensor]
    label: Tensor | None
    id: Tensor


class ImageLoader(Loader):
    """Batches of normalised images.

    Images in memory at the right size are gathered as arrays; others are decoded and resized one by one, in
    `workers` processes where asked.

    augment: "none"; "crop-flip" (shift by up to 1/8, flip: the CIFAR recipe); "resized-crop" (a random part,
        resized, flip: the ImageNet recipe).
    unreadable: "raise" UnreadableImage, or "skip": leave the image out and note it in `unreadable`.

    `positions`: the data set's positions of the batch last given out. `unreadable`: positions that were skipped,
    and why.
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
        if augment not in AUGMENTS:
            raise InputError(f"augment must be one of {', '.join(AUGMENTS)}, got {augment!r}")
        if augment == "resized-crop" and preprocess.size is None:
            raise InputError('augment="resized-crop" needs a Preprocess with a size')
        check_unreadable(unreadable)
        pixels, size = dataset.pixels, preprocess.size
        fits = pixels is not None and (size is None or pixels.shape[1:3] == size)
        self._in_memory = fits and augment != "resized-crop"
        super().__init__(dataset, workers=0 if self._in_memory else workers, **options)
        self.preprocess = preprocess
        self.augment = augment
        self.skip = unreadable == "skip"
        self.unreadable: list[tuple[int, UnreadableImage]] = []
        self.positions: Integers = np.zeros(0, dtype=np.int64)
        self._scale = torch.from_numpy(preprocess.scale)[:, None, None]
        self._shift = torch.from_numpy(preprocess.shift)[:, None, None]

    def __iter__(self) -> Iterator[LoadedBatch]:
        """Yield the batches of the current epoch."""
        self.unreadable = []
        for share, (pixels, positions, keys, unreadable) in self.stream():
            if unreadable and not self.skip:
                raise unreadable[0][1]
            self.unreadable += unreadable
            if len(positions) == 0:
                continue
            images = torch.from_numpy(_stack(pixels)).permute(0, 3, 1, 2)
            if self.augment == "crop-flip":
                images = crop_flip(images, self.rng(1, share.number), n_all=share.n_all, start=share.start)
            self.positions = positions
            values = images.to(torch.float32, memory_format=torch.contiguous_format)
            yield _batch(self.dataset, values.mul_(self._scale).add_(self._shift), positions, keys)

    def read(self, share: BatchShare) -> tuple[Any, Integers, Keys, list[tuple[int, UnreadableImage]]]:
        """Return a share's pixels, positions and keys, and what cannot be read: a worker cannot raise that as it is."""
        if self._in_memory:
            keys = self.dataset.content_keys(share.positions)
            return self.dataset.stack(share.positions), share.positions, keys, []
        seeds = self.rng(1, share.number).integers(0, 2**62, share.n_all)[share.start :]
        pixels, positions, keys, unreadable = [], [], [], []
        for position, seed in zip(share.positions.tolist(), seeds.tolist(), strict=False):
            try:
                image = self.dataset.content(position)
            except UnreadableImage as error:
                unreadable.append((position, error))
                continue
            if self.augment == "resized-crop" and self.preprocess.size is not None:
                pixels.append(resized_crop(image, self.preprocess.size, seed))
            else:
                pixels.append(self.preprocess.resize(image, name=self.dataset.name(position)))
            positions.append(position)
            keys.append(content_key(image))
        return pixels, np.array(positions, dtype=np.int64), np.array(keys, dtype=np.uint64), unreadable


class TextLoader(Loader):
    """Batches of tokenised texts: `input_ids`, `attention_mask` and what else the tokeniser returns.

    tokenizer: a Hugging Face tokeniser.
    max_length: longer texts are cut, in tokens; default the tokeniser's own limit.
    fixed_length: pad every batch to `max_length`, else to its longest text.
    by_length: with texts of similar length in one batch, which spares padding. Of 64 batches, the shortest texts come
        first; if shuffled, the texts of 64 batches are drawn at random, and so is the order of the batches.
    unreadable: "raise" UnreadableText, or "skip": leave the row out and note it in `unreadable`.

    `positions`: the data set's positions of the batch last given out; `cut`: which of its texts were cut, (b,).
    `unreadable`: positions that were skipped, and why. `n_cut`: texts cut so far in this epoch.
    """

    def __init__(
        self,
        dataset: Texts,
        tokenizer: Callable[..., Any],
        *,
        max_length: int | None = None,
        fixed_length: bool = False,
        by_length: bool = False,
        unreadable: str = "raise",
        **options: Any,
    ) -> None:
        super().__init__(dataset, **options)
        if fixed_length and max_length is None:
            raise InputError("fixed_length needs a max_length, in tokens")
        check_unreadable(unreadable)
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.fixed_length = fixed_length
        self.by_length = by_length
        self.skip = unreadable == "skip"
        self.unreadable: list[tuple[int, UnreadableText]] = []
        self.positions: Integers = np.zeros(0, dtype=np.int64)
        self.cut: Booleans = np.zeros(0, dtype=np.bool_)
        self.n_cut = 0

    def __iter__(self) -> Iterator[LoadedBatch]:
        """Yield the batches of the current epoch."""
        self.unreadable, self.n_cut = [], 0
        for _, read in self.stream():
            if read.unreadable and not self.skip:
                raise read.unreadable[0][1]
            self.unreadable += read.unreadable
            if len(read.positions) == 0:
                continue
            self.positions, self.cut = read.positions, read.cut
            self.n_cut += int(read.cut.sum())
            yield _batch(self.dataset, read.tokens, read.positions, read.keys)

    def order(self) -> Integers:
        """Return the data set's positions in the order in which they are read."""
        order = super().order()
        if not self.by_length:
            return order
        if self.drop_last and len(order) >= self.batch_size:  # else those left out would always be long ones
            order = order[: len(self) * self.batch_size]
        order = by_length(self.dataset, self.batch_size, order)
        if not self.shuffle:
            return order
        n_whole = len(order) // self.batch_size
        batches = order[: n_whole * self.batch_size].reshape(n_whole, self.batch_size)
        return np.concatenate([*batches[self.rng(2).permutation(n_whole)], order[batches.size :]])

    def read(self, share: BatchShare) -> ReadTexts:
        """Return the tokens of a share's texts, and what cannot be read: a worker cannot raise that as it is."""
        positions, texts, unreadable = readable_texts(self.dataset, share.positions.tolist())
        keys = np.array([content_key(text) for text in texts], dtype=np.uint64)
        tokens, cut = tokenised(
            self.tokenizer, texts, max_length=self.max_length, fixed_length=self.fixed_length
        )
        tensors = {name: torch.from_numpy(rows) for name, rows in tokens.items()}
        return ReadTexts(tensors, cut, np.array(positions, dtype=np.int64), keys, unreadable)


class ReadTexts(NamedTuple):
    """Texts as a loader reads them: tokens by name, which were cut (b,), positions (b,), keys (b,), unreadable rows."""

    tokens: dict[str, Any]
    cut: Booleans
    positions: Integers
    keys: Keys
    unreadable: list[tuple[int, UnreadableText]]


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


def check_unreadable(unreadable: str) -> None:
    """Raise InputError for anything but the words that say what to do about unreadable inputs."""
    if unreadable not in {"raise", "skip"}:
        raise InputError(f"unreadable must be 'raise' or 'skip', got {unreadable!r}")


def _batch(dataset: Dataset, inputs: Any, positions: Integers, keys: Keys) -> LoadedBatch:
    """Return the batch of these inputs, with their labels."""
    label = None if dataset.labels is None else torch.from_numpy(dataset.labels[positions])
    return LoadedBatch(inputs, label, torch.from_numpy(keys.view(np.int64)))


def _stack(images: Pixels | list[Pixels]) -> Pixels:
    if isinstance(images, np.ndarray):
        return images
    if len({image.shape for image in images}) > 1:
        raise InputError("the images of a batch differ in size: give Preprocess a size")
    return np.stack(images)
