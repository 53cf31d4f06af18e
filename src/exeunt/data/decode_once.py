"""Decoding all images once into one array, and keeping the array on disk for the next run."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np

from exeunt._arrays import Keys
from exeunt._files import atomic_path, make_folder
from exeunt._limits import usable_cores
from exeunt.data.content_keys import content_key
from exeunt.data.dataset import Images
from exeunt.data.preprocess import Preprocess
from exeunt.data.read_image import AnyImage, Pixels, read_rgb
from exeunt.data.stored_inputs import PixelArray
from exeunt.errors import InputError

T = TypeVar("T")

ARRAY_BYTES = 4 << 30
"""Images that take more than this when decoded stay encoded."""

_CHUNK = 256


def default_cache() -> Path:
    """Return the user's cache folder for Exeunt: $XDG_CACHE_HOME/exeunt, else ~/.cache/exeunt."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "exeunt"


def fits_in_memory(images: Images, preprocess: Preprocess) -> bool:
    """Whether the array that `decode` makes takes at most ARRAY_BYTES."""
    height, width = _shape(images, preprocess)
    return len(images) * height * width * 3 <= ARRAY_BYTES


def decode(
    images: Images,
    preprocess: Preprocess,
    *,
    cache: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Images:
    """Return `images` as one uint8 array at the size that `preprocess` gives them.

    Their content keys are those of the images before resizing. `cache`: folder that keeps the array under the data's
    fingerprint; the next time it is mapped from there. Images that take more than 1 GiB as stored are never kept,
    since they are not hashed in full. `progress`: called with (done, n).

    Raises UnreadableImage for the first image that cannot be read, InputError if sizes differ and `preprocess` has
    none.
    """
    if cache is None or not images.is_small:
        pixels, keys = _decode_into_memory(images, preprocess, progress)
        return _backed_by(images, pixels, keys)
    make_folder(cache)
    stem = cache / f"{images.fingerprint}-{preprocess.geometry}"
    pixels_file, keys_file = Path(f"{stem}.npy"), Path(f"{stem}.keys.npy")
    if (found := _load(pixels_file, keys_file, len(images))) is None:
        found = _decode_into_memory(images, preprocess, progress)
        _save(pixels_file, found[0])
        _save(keys_file, found[1])
    return _backed_by(images, *found)


def with_content_keys(
    images: Images,
    *,
    cache: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Images:
    """Return `images` with their content keys computed, for images that are too large to hold decoded.

    `cache`: folder that keeps the keys for the next time. Raises UnreadableImage as `decode` does.
    """
    n = len(images)
    file = None if cache is None or not images.is_small else cache / f"{images.fingerprint}.keys.npy"
    keys = None if file is None else _load_keys(file, n)
    if keys is None:
        keys = np.zeros(n, dtype=np.uint64)
        for i, (_, key) in enumerate(_decoded(images, Preprocess(), progress)):
            keys[i] = key
        if file is not None:
            make_folder(file.parent)
            _save(file, keys)
    return images.with_keys(keys)


def _save(file: Path, array: Pixels | Keys) -> None:
    with atomic_path(file) as temporary, temporary.open("wb") as stream:
        np.save(stream, array, allow_pickle=False)


def _load(pixels_file: Path, keys_file: Path, n: int) -> tuple[Pixels, Keys] | None:
    """Map a kept array and load its keys; None if they are missing or damaged."""
    try:
        pixels = np.load(pixels_file, mmap_mode="r" if n else None, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    keys = _load_keys(keys_file, n)
    whole = pixels.ndim == 4 and pixels.shape[0] == n and pixels.dtype == np.uint8
    return (pixels, keys) if whole and keys is not None else None


def _load_keys(file: Path, n: int) -> Keys | None:
    """Load kept keys; None if they are missing or damaged."""
    try:
        keys: Keys = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return keys if keys.shape == (n,) and keys.dtype == np.uint64 else None


def _shape(images: Images, preprocess: Preprocess) -> tuple[int, int]:
    if preprocess.size is not None:
        return preprocess.size
    if len(images) == 0:
        return 0, 0
    height, width = images.content(0).shape[:2]
    return height, width


def _decode_into_memory(
    images: Images, preprocess: Preprocess, progress: Callable[[int, int], None] | None
) -> tuple[Pixels, Keys]:
    n = len(images)
    pixels = np.zeros((n, *_shape(images, preprocess), 3), dtype=np.uint8)
    keys = np.zeros(n, dtype=np.uint64)
    for i, (image, key) in enumerate(_decoded(images, preprocess, progress)):
        if image.shape != pixels.shape[1:]:
            raise InputError(
                f"the images differ in size: {images.name(0)} is {pixels.shape[1]}x{pixels.shape[2]}, "
                f"{images.name(i)} is {image.shape[0]}x{image.shape[1]}: give Preprocess a size"
            )
        pixels[i], keys[i] = image, key
    return pixels, keys


def _decoded(
    images: Images, preprocess: Preprocess, progress: Callable[[int, int], None] | None
) -> Iterator[tuple[Pixels, int]]:
    """Yield (resized pixels, content key) in order."""

    def one(stored: AnyImage, name: str) -> tuple[Pixels, int]:
        image = read_rgb(stored, name=name)
        return preprocess.resize(image, name=name), content_key(image)

    return in_threads(one, images, progress)


def in_threads(
    function: Callable[[AnyImage, str], T], images: Images, progress: Callable[[int, int], None] | None
) -> Iterator[T]:
    """Yield what a function of stored image and name returns, in order. Images are fetched on this thread alone.

    `progress`: called with (done, n) once in a while.
    """
    n = len(images)
    with ThreadPoolExecutor(usable_cores()) as pool:
        for start in range(0, n, _CHUNK):
            chunk = range(start, min(start + _CHUNK, n))
            stored = [images.stored[int(images.rows[i])] for i in chunk]
            yield from pool.map(function, stored, [images.name(i) for i in chunk])
            if progress is not None:
                progress(chunk.stop, n)


def _backed_by(images: Images, pixels: Pixels, keys: Keys) -> Images:
    return Images(
        PixelArray(pixels, name=images.name),
        labels=images.labels,
        class_names=images.class_names,
        keys=keys,
        base_fingerprint=images.fingerprint,
    )
