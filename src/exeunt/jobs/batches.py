"""Batches of prepared inputs as NumPy arrays, so that an exported run needs no PyTorch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import Any, NamedTuple

import numpy as np

from exeunt._support.arrays import Booleans, Integers, Keys
from exeunt.data import Dataset, Images, Preprocess
from exeunt.data.dataset import content_key
from exeunt.data.preprocess import RawImages
from exeunt.data.read_image import Pixels, read_rgb
from exeunt.data.tokens import by_length, readable_texts, text_batch
from exeunt.errors import UnreadableImage, UnreadableInput


class PreparedBatch(NamedTuple):
    """Inputs of a network, with their content keys (b,) and their positions (b,) in the data set.

    `truncated` (b,): which inputs were longer than the network takes and were cut. `unreadable`: the positions of
    inputs that are left out, and why.
    """

    inputs: Any
    keys: Keys
    positions: Integers
    truncated: Booleans
    unreadable: Sequence[tuple[int, UnreadableInput]]


def prepared_batches(
    preparation: Any, data: Dataset, *, batch_size: int, workers: int = 0
) -> Iterator[PreparedBatch]:
    """Yield batches of inputs, prepared by `preparation` (see `load_preparation`). A batch may have no readable input.

    Images come in order, texts in batches of similar length. `workers`: threads that decode the next images while the
    network runs; 0 decodes between its calls.
    Raises InputError for images of several sizes that the network does not resize.
    """
    if isinstance(data, Images):
        return _image_batches(data, preparation, batch_size, workers)
    return _text_batches(preparation, data, batch_size)


def _text_batches(preparation: Any, texts: Dataset, batch_size: int) -> Iterator[PreparedBatch]:
    order = by_length(texts, batch_size)
    for start in range(0, len(texts), batch_size):
        rows, read, unreadable = readable_texts(texts, order[start : start + batch_size].tolist())
        inputs, truncated = text_batch(preparation, read)
        keys = np.array([content_key(text) for text in read], dtype=np.uint64)
        yield PreparedBatch(inputs, keys, np.array(rows, dtype=np.int64), truncated, unreadable)


def _image_batches(
    images: Images, preparation: Preprocess | RawImages, batch_size: int, workers: int
) -> Iterator[PreparedBatch]:
    def read(job: tuple[Any, str]) -> tuple[Pixels, int] | UnreadableImage:
        try:
            pixels = read_rgb(job[0], name=job[1])
            return preparation.resize(pixels, name=job[1]), content_key(pixels)
        except UnreadableImage as error:
            return error

    def jobs(rows: Iterable[int]) -> list[tuple[Any, str]]:
        """Fetch stored images, on this thread alone."""
        return [(images.stored[int(images.rows[i])], images.name(i)) for i in rows]

    batches = [range(i, min(i + batch_size, len(images))) for i in range(0, len(images), batch_size)]
    with ThreadPoolExecutor(workers) if workers else nullcontext() as pool:
        each = map if pool is None else pool.map
        for rows, decoded in _one_ahead((rows, each(read, jobs(rows))) for rows in batches):
            yield _stacked(list(zip(rows, decoded, strict=True)), preparation)


def _one_ahead(items: Iterable[Any]) -> Iterator[Any]:
    """Yield each item once the next one is made, so that threads read the next batch while one is used."""
    begun: list[Any] = []
    for entry in items:
        begun.append(entry)
        if len(begun) > 1:
            yield begun.pop(0)
    yield from begun


def _stacked(
    images: Sequence[tuple[int, tuple[Pixels, int] | UnreadableImage]], preparation: Preprocess | RawImages
) -> PreparedBatch:
    read = [(row, *image) for row, image in images if not isinstance(image, UnreadableImage)]
    pixels = [image for _, image, _ in read]
    return PreparedBatch(
        inputs=preparation.batch(pixels) if pixels else None,
        keys=np.array([key for _, _, key in read], dtype=np.uint64),
        positions=np.array([row for row, _, _ in read], dtype=np.int64),
        truncated=np.zeros(len(read), dtype=np.bool_),
        unreadable=[(row, image) for row, image in images if isinstance(image, UnreadableImage)],
    )
