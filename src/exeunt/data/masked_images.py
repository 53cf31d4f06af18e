"""Images with masks: a class for each pixel, as a PNG file or as a cell of a table, in place of a label."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exeunt._support.arrays import Integers, Keys
from exeunt._support.paths import read_bytes, read_patiently
from exeunt._support.text import listed
from exeunt.data.dataset import Images
from exeunt.data.preprocess import Preprocess
from exeunt.data.read_image import ORIENTATION, PNG_SIGNATURE, open_image
from exeunt.data.stored_inputs import BadCell, StoredInputs
from exeunt.errors import FileError, InputError, UnreadableImage
from exeunt.score.mask_confidence import NO_CLASS, Masks

_MODES = ("L", "P", "1")
_EXACT = ("PNG", "GIF", "BMP", "TIFF", "PPM")  # formats of Pillow that keep the values of pixels
_ROTATED = (5, 6, 7, 8)  # orientations of EXIF: height and width change places


@dataclass(frozen=True)
class MaskCodes:
    """Which class each value of a mask's pixels is.

    `names`: of the values 0, 1, ..., as the data number them. `ignored`: the value among them that is no class, or -1.
    The value 255 never is one.
    """

    names: tuple[str, ...]
    ignored: int = -1

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes."""
        return tuple(name for code, name in enumerate(self.names) if code != self.ignored)

    def __call__(self, mask: Masks, name: str) -> NDArray[np.int16]:
        """Return the class of each pixel (h, w), -1 for none. Raises InputError, with `name`, for an unknown value."""
        table = np.full(256, -2, dtype=np.int16)
        known = [code for code in range(len(self.names)) if code != self.ignored]
        table[known] = np.arange(len(known))
        table[[NO_CLASS, *([self.ignored] if self.ignored >= 0 else [])]] = -1
        codes = table[mask]
        if (unknown := codes == -2).any():
            row, column = (int(places[0]) for places in np.nonzero(unknown))
            raise InputError(
                f"the mask of {name} has the class {mask[row, column]} at row {row}, column {column}, and classes go "
                f"from 0 to {len(self.names) - 1} ({listed(self.names, 3)}), {NO_CLASS} for none: correct the mask, or "
                "name all classes"
            )
        return codes


class MaskedImages(Images):
    """Images with masks. `masks`: one per stored image, a BadCell where there is none. They are read one by one."""

    def __init__(self, stored: StoredInputs, masks: StoredInputs, codes: MaskCodes, **fields: Any) -> None:
        super().__init__(stored, class_names=codes.class_names, **fields)
        self._masks, self._codes = masks, codes
        self._of_masks: Integers = np.arange(len(stored))  # the stored mask of each stored image

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the images and the masks, see `Dataset`."""
        of_images = super().fingerprint
        if self._rows is not None or self._base_fingerprint is not None:
            return of_images
        both = hashlib.blake2b((of_images + Images(self._masks).fingerprint).encode(), digest_size=16)
        return ("" if self.is_small else "sampled-") + both.hexdigest()

    def stored_as(self, stored: StoredInputs, keys: Keys) -> MaskedImages:
        """Return these images alone, stored otherwise."""
        images = MaskedImages(stored, self._masks, self._codes, keys=keys, base_fingerprint=self.fingerprint)
        images._of_masks = self._of_masks[self.rows]
        return images

    def without_some_labels(self) -> Images:  # type: ignore[override]
        """Return the images, without any masks if some of them have none."""
        if all(self.has_mask(i) for i in range(len(self))):
            return self
        return Images(
            self.stored,
            class_names=self.class_names,
            rows=self._rows,
            keys=self._keys,
            base_fingerprint="without masks",
        )

    def targets(self, positions: Integers, prepare: Preprocess) -> NDArray[np.int64]:
        """Return the masks of these images at the size of the prepared ones, (b, h, w), -1 for no class."""
        size = prepare.size or (1, 1)
        masks = [self.codes(int(i)) for i in positions]
        fitted = [np.full(size, -1) if codes is None else _fitted(codes, prepare) for codes in masks]
        return np.stack(fitted).astype(np.int64)

    def has_mask(self, i: int) -> bool:
        """Return whether image i has a mask."""
        return not isinstance(self._stored_mask(i), BadCell)

    def _stored_mask(self, i: int) -> Any:
        return self._masks[int(self._of_masks[self.rows[i]])]

    def codes(self, i: int) -> NDArray[np.int16] | None:
        """Return the class of each pixel of image i (h, w), -1 for none, at the size of the mask; None without a mask.

        Raises InputError for a mask that cannot be read, or has an unknown class.
        """
        cell = self._stored_mask(i)
        return None if isinstance(cell, BadCell) else self._codes(_read(cell, self.name(i)), self.name(i))

    def pixels_by_class(self, *, progress: Callable[[int, int], None] | None = None) -> Integers:
        """Return how many pixels each class has in all masks, (k,). `progress`: called with (done, n).

        Raises InputError for the first mask of another size than its image, with an unknown class, or without any
        class; only for images as they were opened, since decoded ones have another size.
        """
        counts = np.zeros(len(self._codes.class_names), dtype=np.int64)
        for i in range(len(self)):
            with suppress(UnreadableImage):  # whoever decodes the images says so, or leaves them out
                counts += self._pixels_by_class(i)
            if progress is not None:
                progress(i + 1, len(self))
        return counts

    def _pixels_by_class(self, i: int) -> Integers:
        """Return how many pixels each class has in the mask of an image, (k,); none without a mask."""
        k = len(self._codes.class_names)
        if (codes := self.codes(i)) is None:
            return np.zeros(k, dtype=np.int64)
        size = self._size(i)
        if codes.shape != size:
            raise InputError(
                f"the mask of {self.name(i)} has {codes.shape[0]}x{codes.shape[1]} pixels, and the image "
                f"{size[0]}x{size[1]}: a mask must have the size of its image"
            )
        if not (codes >= 0).any():
            raise InputError(f"the mask of {self.name(i)} has no pixel of a class: leave the image out")
        return np.bincount(codes[codes >= 0], minlength=k)

    def _size(self, i: int) -> tuple[int, int]:
        """Return height and width of an image, without decoding it."""
        stored: Any = self.stored[int(self.rows[i])]
        if not isinstance(stored, (np.ndarray, BadCell)):
            with suppress(Exception), open_image(_bytes_of(stored)) as image:
                height, width = image.height, image.width
                return (width, height) if image.getexif().get(ORIENTATION) in _ROTATED else (height, width)
        height, width = self.content(i).shape[:2]  # raises what is wrong with an image that cannot be opened
        return height, width


def balanced_weights(counts: Integers) -> tuple[float, ...]:
    """Return a weight for each class (k,) from its number of pixels, so that rare classes count more.

    The weights are 1 / log(1.02 + share of the class) (ENet, Paszke et al. 2016), and their mean over pixels is 1.

    >>> [round(weight, 2) for weight in balanced_weights(np.array([90, 9, 1]))]
    [0.44, 5.8, 14.14]
    """
    shares = counts / max(counts.sum(), 1)
    weights = 1 / np.log(1.02 + shares)
    return tuple((weights / (weights @ shares)).tolist())


def highest_value(masks: StoredInputs) -> int:
    """Return the highest value of any pixel of these masks, but for 255; -1 if there is none."""
    highest = -1
    for row in range(len(masks)):
        if not isinstance(cell := masks[row], BadCell):
            values = _read(cell, masks.name(row))
            highest = max(highest, int(values.max(where=values != NO_CLASS, initial=0)))
    return highest


def _read(mask: Any, name: str) -> Masks:
    """Return the values (h, w) of a mask's pixels. Raises InputError for a file that is no mask."""
    try:
        with open_image(encoded := _bytes_of(mask)) as image:
            if image.format not in _EXACT:
                why = f"it is a {image.format}, which may change the values of pixels"
            elif image.mode in _MODES:
                return np.array(image, dtype=np.uint8) // (_spread(encoded) if image.mode == "L" else 1)
            else:
                why = f"it holds {image.mode} pixels"
    except FileError:
        raise
    except FileNotFoundError as error:
        why = f"there is no file {error.filename}"
    except Exception as error:  # decoders of damaged files raise almost anything
        unknown = type(error).__name__ == "UnidentifiedImageError"  # which shows an address in memory
        why = (
            "it is not an image in a format that Pillow knows"
            if unknown
            else f"{type(error).__name__}: {error}"
        )
    raise InputError(
        f"the mask of {name} cannot be read: {why}; a mask is a PNG of 8 bits whose pixels are numbers of classes"
    )


def _spread(encoded: bytes) -> int:
    """Return what Pillow multiplies the values of a grey image by: those of a PNG of 2 or 4 bits reach 255."""
    bits = encoded[24] if encoded.startswith(PNG_SIGNATURE) else 8
    return int(255 // (2**bits - 1))


def _bytes_of(stored: Any) -> bytes:
    return stored if isinstance(stored, bytes) else read_patiently(stored, partial(read_bytes, stored))


def _fitted(codes: NDArray[np.int16], prepare: Preprocess) -> NDArray[Any]:
    """Return a mask cut and scaled as the image is, by the nearest pixel; what is padded has no class."""
    raised = (codes + 1).astype(np.uint8)  # 0 for no class, with which Preprocess pads
    nearest = replace(prepare, interpolation="nearest")
    return nearest.resize(np.repeat(raised[..., None], 3, axis=2))[..., 0].astype(np.int64) - 1
