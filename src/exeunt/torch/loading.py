"""Loaders of images and of texts: from a data set to normalised or tokenised batches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from exeunt.data.dataset import Dataset, Images, Texts
from exeunt.data.items import content_key
from exeunt.data.pictures import UnreadableImage
from exeunt.data.preprocess import Preprocess
from exeunt.errors import InputError
from exeunt.torch.augment import AUGMENTS, crop_flip, resized_crop
from exeunt.torch.batches import Batch, Loader, Place

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from exeunt._arrays import Integers, Keys
    from exeunt.data.pictures import Pixels

__all__ = ["Batch", "ImageLoader", "Loader", "TextLoader", "make_loader"]


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
                rng = self.rng(1, place.number)
                pixels = crop_flip(pixels, rng, n_all=place.n_all, start=place.start)
            yield self.finish(self._normalise(pixels), positions, keys)

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
        seeds = self.rng(1, place.number).integers(0, 2**62, place.n_all)[place.start :]
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
            yield self.finish(dict(tokens), place.positions, keys)


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
