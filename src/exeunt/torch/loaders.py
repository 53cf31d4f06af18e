"""Loaders of images and of texts: from a data set to normalised or tokenised batches, with random changes of images."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from exeunt._support.arrays import Booleans, Integers, Keys
from exeunt.data.dataset import Dataset, Images, Texts, content_key
from exeunt.data.preprocess import Preprocess
from exeunt.data.read_image import Pixels
from exeunt.data.tokens import by_length, readable_texts, tokenised
from exeunt.errors import InputError, UnreadableImage, require
from exeunt.torch.batches import BatchShare, Loader

AUGMENTS = ("none", "crop-flip", "resized-crop")


class LoadedBatch(NamedTuple):
    """b inputs.

    inputs: float32 (b, 3, h, w), or the tokeniser's tensors by name.
    label: int64 (b,), or of masks (b, h, w), -1 where there is no class; None where there are no labels.
    id: content keys, int64 (b,); the bits are those of the uint64 keys (`id.numpy().view("uint64")`).
    """

    inputs: Tensor | dict[str, Tensor]
    label: Tensor | None
    id: Tensor


class _DatasetLoader(Loader):
    """A loader of a data set. `positions` (b,): where in the data set the inputs of the latest batch are."""

    positions: Integers = np.zeros(0, dtype=np.int64)

    def _batch(self, inputs: Any, positions: Integers, keys: Keys, prepare: Any = None) -> LoadedBatch:
        """Return the batch of these inputs, with their labels."""
        self.positions = positions
        labels = self.dataset.targets(positions, prepare)
        label = None if labels is None else torch.from_numpy(labels)
        return LoadedBatch(inputs, label, torch.from_numpy(keys.view(np.int64)))


class ImageLoader(_DatasetLoader):
    """Batches of normalised images. The first image that cannot be read raises UnreadableImage.

    Images in memory at the right size are gathered as arrays; others are decoded and resized one by one, in
    `workers` processes where asked.

    augment: "none"; "crop-flip" (shift by up to 1/8, flip: the CIFAR recipe); "resized-crop" (a random part,
        resized, flip: the ImageNet recipe).
    """

    def __init__(
        self,
        dataset: Images,
        preprocess: Preprocess,
        *,
        augment: str = "none",
        workers: int = 0,
        **options: Any,
    ) -> None:
        pixels, size = dataset.pixels, preprocess.size
        fits = pixels is not None and (size is None or pixels.shape[1:3] == size)
        self._in_memory = fits and augment != "resized-crop"
        super().__init__(dataset, workers=0 if self._in_memory else workers, **options)
        self.preprocess = preprocess
        self.augment = augment
        self._scale = torch.from_numpy(preprocess.scale)[:, None, None]
        self._shift = torch.from_numpy(preprocess.shift)[:, None, None]

    def __iter__(self) -> Iterator[LoadedBatch]:
        """Yield the batches of the current epoch."""
        for share, read in self.stream():
            if isinstance(read, UnreadableImage):
                raise read
            pixels, keys = read
            images = self._changed(torch.from_numpy(_stack(pixels)).permute(0, 3, 1, 2), share)
            values = images.to(torch.float32, memory_format=torch.contiguous_format)
            batch = self._batch(
                values.mul_(self._scale).add_(self._shift), share.positions, keys, self.preprocess
            )
            if batch.label is not None and batch.label.ndim == 3:
                # Raised by 1: what comes in from beyond the edge is 0, and has no class.
                masks = self._changed((batch.label + 1)[:, None], share)[:, 0] - 1
                batch = batch._replace(label=masks)
            yield batch

    def _changed(self, images: Tensor, share: BatchShare) -> Tensor:
        """Return images (b, c, h, w) or masks with the random changes of their places in the batch."""
        if self.augment != "crop-flip":
            return images
        return crop_flip(images, self.rng(1, share.number), n_all=share.n_all, start=share.start)

    def read(self, share: BatchShare) -> tuple[Any, Keys] | UnreadableImage:
        """Return a share's pixels and keys, or the error, which would change its type if a worker raised it."""
        if self._in_memory:
            rows = self.dataset.rows[share.positions]
            return self.dataset.pixels[rows], self.dataset.content_keys(share.positions)
        seeds = self.rng(1, share.number).integers(0, 2**62, share.n_all)[share.start :]
        pixels, keys = [], []
        for position, seed in zip(share.positions.tolist(), seeds.tolist(), strict=False):
            try:
                image = self.dataset.content(position)
            except UnreadableImage as error:
                return error
            if self.augment == "resized-crop" and self.preprocess.size is not None:
                pixels.append(resized_crop(image, self.preprocess.size, seed))
            else:
                pixels.append(self.preprocess.resize(image, name=self.dataset.name(position)))
            keys.append(content_key(image))
        return pixels, np.array(keys, dtype=np.uint64)


class TextLoader(_DatasetLoader):
    """Batches of tokenised texts: `input_ids`, `attention_mask` and what else the tokeniser returns.

    The first cell that holds no text raises UnreadableText.

    tokenizer: a Hugging Face tokeniser.
    max_length: longer texts are cut, in tokens; default the tokeniser's own limit.
    by_length: put texts of similar length into one batch, which saves padding. Of 64 batches, the shortest texts come
        first; if shuffled, the texts of 64 batches are drawn at random, and so is the order of the batches.

    `cut` (b,): which texts of the latest batch were cut. `n_cut`: texts cut so far in this epoch.
    """

    def __init__(
        self,
        dataset: Texts,
        tokenizer: Callable[..., Any],
        *,
        max_length: int | None = None,
        by_length: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(dataset, **options)
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.by_length = by_length
        self.cut: Booleans = np.zeros(0, dtype=np.bool_)
        self.n_cut = 0

    def __iter__(self) -> Iterator[LoadedBatch]:
        """Yield the batches of the current epoch."""
        self.n_cut = 0
        for share, (tokens, cut, keys, unreadable) in self.stream():
            if unreadable:
                raise unreadable[0][1]
            self.cut = cut
            self.n_cut += int(cut.sum())
            yield self._batch(tokens, share.positions, keys)

    def order(self) -> Integers:
        """Return the data set's positions in the order in which they are read."""
        order = super().order()
        if not self.by_length:
            return order
        if self.drop_last and len(order) >= self.batch_size:  # else it would always leave out long texts
            order = order[: len(self) * self.batch_size]
        order = by_length(self.dataset, self.batch_size, order)
        if not self.shuffle:
            return order
        n_whole = len(order) // self.batch_size
        batches = order[: n_whole * self.batch_size].reshape(n_whole, self.batch_size)
        return np.concatenate([*batches[self.rng(2).permutation(n_whole)], order[batches.size :]])

    def read(self, share: BatchShare) -> tuple[dict[str, Tensor], Booleans, Keys, list[Any]]:
        """Return tokens by name, which texts were cut (b,), keys (b,), and what cannot be read, with its position."""
        _, texts, unreadable = readable_texts(self.dataset, share.positions.tolist())
        keys = np.array([content_key(text) for text in texts], dtype=np.uint64)
        tokens, cut = tokenised(self.tokenizer, texts, max_length=self.max_length)
        return {name: torch.from_numpy(rows) for name, rows in tokens.items()}, cut, keys, unreadable


def make_loader(dataset: Dataset, prepare: Any, **options: Any) -> ImageLoader | TextLoader:
    """Return an ImageLoader (`prepare` is a Preprocess) or a TextLoader (a Hugging Face tokeniser)."""
    kind: Any = ImageLoader if isinstance(dataset, Images) else TextLoader
    return kind(dataset, prepare, **options)  # type: ignore[no-any-return]


def _stack(images: Pixels | list[Pixels]) -> Pixels:
    if isinstance(images, np.ndarray):
        return images
    if len({image.shape for image in images}) > 1:
        raise InputError("the images of a batch differ in size: give Preprocess a size")
    return np.stack(images)


def crop_flip(
    images: Tensor, rng: np.random.Generator, *, n_all: int | None = None, start: int = 0
) -> Tensor:
    """Shift each image by up to 1/8 of its side (4 pixels of 32), black beyond the edge; flip half of them.

    images: (b, c, h, w), rows `start` to `start + b` of a batch of `n_all`. The change of a row depends only on its
    place in the whole batch, so that shares of a batch change as the whole batch would.
    """
    # Not torchvision's RandomCrop: it changes all images of a batch alike, and image by image, each with a seed of its
    # own, it takes 35 ms for 128 images of 32x32. This takes 1.9 ms.
    v2 = require("torchvision.transforms.v2.functional", extra="torch")
    b, _, height, width = images.shape
    mine = slice(start, start + b)
    n = b if n_all is None else n_all
    pad_y, pad_x = max(1, height // 8), max(1, width // 8)
    tops = rng.integers(0, 2 * pad_y + 1, n)[mine].tolist()
    lefts = rng.integers(0, 2 * pad_x + 1, n)[mine].tolist()
    flips = (rng.random(n)[mine] < 0.5).tolist()
    padded = v2.pad(images, [pad_x, pad_y])
    crops = [v2.crop(*place, height, width) for place in zip(padded, tops, lefts, strict=True)]
    return torch.stack([v2.horizontal_flip(x) if flip else x for x, flip in zip(crops, flips, strict=True)])


def resized_crop(image: Pixels, size: tuple[int, int], seed: int) -> Pixels:
    """Cut a random part (8% to all of the area) out of one image, resize it to `size`, flip half.

    The usual ImageNet recipe, by torchvision. The global generator of torch does not change.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        pixels = torch.from_numpy(np.require(image, requirements=("C", "W")))  # PyTorch warns of others
        changed = _random_part(size)(pixels.permute(2, 0, 1))
    return np.ascontiguousarray(changed.permute(1, 2, 0).numpy())


@lru_cache(maxsize=8)
def _random_part(size: tuple[int, int]) -> Any:
    v2 = require("torchvision.transforms.v2", extra="torch")
    return v2.Compose([v2.RandomResizedCrop(size, antialias=True), v2.RandomHorizontalFlip()])
