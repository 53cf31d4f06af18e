"""Decoding all images: into one array that a cache keeps on disk, for their keys, or to find unreadable ones."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from exeunt._support.arrays import Keys
from exeunt._support.files import atomic_path, make_folder
from exeunt._support.limits import usable_cores
from exeunt.data.dataset import Images, content_key
from exeunt.data.preprocess import Preprocess
from exeunt.data.read_image import AnyImage, Pixels, read_rgb
from exeunt.data.stored_inputs import PixelArray
from exeunt.errors import InputError, UnreadableImage

T = TypeVar("T")
_Forms: TypeAlias = dict[str, tuple[int, type]]
"""Number of dimensions and type of arrays, by the ending of their files."""

ARRAY_BYTES = 4 << 30
"""Images that take more than this when decoded stay encoded."""

_CHUNK = 256


def default_cache() -> Path:
    """Return the user's cache folder for Exeunt: $XDG_CACHE_HOME/exeunt, else ~/.cache/exeunt."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "exeunt"


def decoded(
    images: Images,
    preprocess: Preprocess,
    *,
    cache: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Images:
    """Return `images` as one uint8 array at the size that `preprocess` gives them.

    Images whose array would take more than ARRAY_BYTES stay encoded, with their content keys computed, or unchanged if
    they take more than 1 GiB as stored. Content keys are those of the images before resizing. `cache`: folder that
    keeps array and keys under the data's fingerprint; the next call reads them there. What takes more than 1 GiB as
    stored is not kept, because it is not hashed in full. `progress`: called with (done, n).

    Raises UnreadableImage for the first image that cannot be read, InputError if sizes differ and `preprocess` has
    no size.
    """
    n = len(images)
    shape = preprocess.size or (images.content(0).shape[:2] if n else (0, 0))
    if n * math.prod(shape) * 3 <= ARRAY_BYTES:

        def made() -> tuple[Pixels, Keys]:
            pixels, keys = np.zeros((n, *shape, 3), dtype=np.uint8), np.zeros(n, dtype=np.uint64)
            for i, (image, key) in enumerate(_resized(images, preprocess, progress)):
                if image.shape != pixels.shape[1:]:
                    raise InputError(
                        f"the images differ in size: {images.name(0)} is {shape[0]}x{shape[1]}, "
                        f"{images.name(i)} is {image.shape[0]}x{image.shape[1]}: give Preprocess a size"
                    )
                pixels[i], keys[i] = image, key
            return pixels, keys

        name = f"-{preprocess.geometry}"
        forms: _Forms = {f"{name}.npy": (4, np.uint8), f"{name}.keys.npy": (1, np.uint64)}
        pixels, keys = _cached(images, cache, forms, made)
        return images.stored_as(PixelArray(pixels, name=images.name), keys)
    if not images.is_small:
        return images

    def found() -> tuple[Keys]:
        return (np.fromiter((key for _, key in _resized(images, Preprocess(), progress)), dtype=np.uint64),)

    return images.with_keys(*_cached(images, cache, {".keys.npy": (1, np.uint64)}, found))


def select_readable(
    images: Images, *, progress: Callable[[int, int], None] | None = None
) -> tuple[Images, list[UnreadableImage]]:
    """Return the images that can be read, and the errors of the others. All are decoded to find out.

    `progress`: called with (done, n).
    """

    def why_not(stored: AnyImage, name: str) -> UnreadableImage | None:
        try:
            read_rgb(stored, name=name)
        except UnreadableImage as error:
            return error
        return None

    reasons = list(_in_threads(why_not, images, progress))
    refused = [reason for reason in reasons if reason is not None]
    readable = [i for i, reason in enumerate(reasons) if reason is None]
    return images.take(readable) if refused else images, refused


def _cached(
    images: Images, cache: Path | None, forms: _Forms, make: Callable[[], tuple[NDArray[Any], ...]]
) -> tuple[NDArray[Any], ...]:
    """Return arrays from the cache, or make them and keep them there, unless the images are not hashed in full."""
    if cache is None or not images.is_small:
        return make()
    files = [cache / f"{images.fingerprint}{ending}" for ending in forms]
    arrays = [_load(file, len(images), *form) for file, form in zip(files, forms.values(), strict=True)]
    if all(array is not None for array in arrays):
        return tuple(arrays)  # type: ignore[arg-type]
    make_folder(cache)
    computed = make()
    for file, array in zip(files, computed, strict=True):
        with atomic_path(file) as temporary, temporary.open("wb") as stream:
            np.save(stream, array, allow_pickle=False)
    return computed


def _load(file: Path, n: int, ndim: int, dtype: type) -> NDArray[Any] | None:
    """Return a kept array of n entries, images mapped from the file; None if it is missing or damaged."""
    if not file.is_file():
        return None
    try:
        array: NDArray[Any] = np.load(file, mmap_mode="r" if n and ndim > 1 else None, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return array if array.ndim == ndim and array.shape[0] == n and array.dtype == dtype else None


def _resized(
    images: Images, preprocess: Preprocess, progress: Callable[[int, int], None] | None
) -> Iterator[tuple[Pixels, int]]:
    """Yield (resized pixels, content key) in order."""

    def resized(stored: AnyImage, name: str) -> tuple[Pixels, int]:
        image = read_rgb(stored, name=name)
        return preprocess.resize(image, name=name), content_key(image)

    return _in_threads(resized, images, progress)


def _in_threads(
    function: Callable[[AnyImage, str], T], images: Images, progress: Callable[[int, int], None] | None
) -> Iterator[T]:
    """Yield the results of a function of (stored image, name), in order. Only this thread fetches images.

    `progress`: called with (done, n) after each chunk.
    """
    n = len(images)
    with ThreadPoolExecutor(usable_cores()) as pool:
        for start in range(0, n, _CHUNK):
            chunk = range(start, min(start + _CHUNK, n))
            stored = [images.stored[int(images.rows[i])] for i in chunk]
            yield from pool.map(function, stored, [images.name(i) for i in chunk])
            if progress is not None:
                progress(chunk.stop, n)
