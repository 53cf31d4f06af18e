"""Data sets: labelled or unlabelled inputs, read lazily. `take` selects some of them without copying."""

from __future__ import annotations

import hashlib
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from exeunt._arrays import Integers, Keys, check_length
from exeunt.data.content_keys import content_key, fingerprint, stored_key
from exeunt.data.read_image import Pixels, read_rgb
from exeunt.data.stored_inputs import PixelArray, StoredInputs, is_small
from exeunt.data.stored_texts import BadCell, StoredTexts
from exeunt.data.unreadable import UnreadableText
from exeunt.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray
    from typing_extensions import Self


class Dataset:
    """n inputs with labels (n,) in 0..k-1, or without.

    stored: the inputs as they are stored.
    labels: one per stored input.
    rows: which of the stored inputs belong to the data set, in order; default all.
    keys: content keys of all stored inputs, shape (len(stored),) uint64, where already known.
    base_fingerprint: `fingerprint` of all stored inputs, where already known.
    """

    kind = "any"

    def __init__(
        self,
        stored: StoredInputs,
        *,
        labels: Integers | None = None,
        class_names: tuple[str, ...] | None = None,
        rows: Integers | None = None,
        keys: Keys | None = None,
        base_fingerprint: str | None = None,
    ) -> None:
        if labels is not None:
            check_length(labels, "labels", len(stored))
        self.stored = stored
        self.class_names = class_names
        self._all_labels = labels
        self._keys = keys
        self._whole = rows is None
        self.rows: Integers = np.arange(len(stored)) if rows is None else rows
        self._base_fingerprint = base_fingerprint

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def labels(self) -> Integers | None:
        """True classes, shape (n,), or None."""
        return None if self._all_labels is None else self._all_labels[self.rows]

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the inputs and the labels, the same wherever the data are stored."""
        whole = self._base_fingerprint or fingerprint(self.stored, self._all_labels, self.class_names)
        if self._whole:
            return whole
        rows = self.rows.astype("<i8").tobytes()
        return hashlib.blake2b(whole.encode() + rows, digest_size=16).hexdigest()

    @property
    def is_small(self) -> bool:
        """Whether all stored inputs together take at most 1 GiB, so that they are read in full for hashes."""
        return is_small(self.stored)

    def name(self, i: int) -> str:
        """Return the file name of input i, or its row such as "test.parquet#17"."""
        return self.stored.name(int(self.rows[i]))

    def take(self, indices: Any) -> Self:
        """Return a view of the inputs `indices` (positions or a mask of this data set)."""
        rows = self.rows[np.asarray(indices)] if np.size(indices) else self.rows[:0]
        return self._copy(rows, self._keys)

    def with_keys(self, keys: Keys) -> Self:
        """Return a copy that knows the content keys (n,) of its inputs."""
        check_length(keys, "keys", len(self))
        stored: Keys = np.zeros(len(self.stored), dtype=np.uint64)
        stored[self.rows] = keys  # those of a view's views, too, and nobody asks for others
        return self._copy(None if self._whole else self.rows, stored)

    def _copy(self, rows: Integers | None, keys: Keys | None) -> Self:
        return type(self)(
            self.stored,
            labels=self._all_labels,
            class_names=self.class_names,
            rows=rows,
            keys=keys,
            # A view must not read all stored inputs again for a hash that is known.
            base_fingerprint=self._base_fingerprint
            or (self.__dict__.get("fingerprint") if self._whole else None),
        )

    def content_keys(self, indices: Iterable[int] | None = None) -> Keys:
        """Return the 64-bit keys of the decoded inputs, shape (n,) uint64; with `indices`, of those inputs.

        Equal inputs have equal keys, whatever their file format, position or label.
        """
        chosen = range(len(self)) if indices is None else indices
        if self._keys is not None:
            return self._keys[self.rows[np.fromiter(chosen, dtype=np.int64)]]
        return np.fromiter((content_key(self.content(i)) for i in chosen), dtype=np.uint64)

    def stored_keys(self) -> Keys:
        """Return the 64-bit keys of the inputs as stored (not decoded), shape (n,) uint64."""
        return np.fromiter((stored_key(self.stored[int(row)]) for row in self.rows), dtype=np.uint64)

    def content(self, i: int) -> Pixels | str | tuple[str, ...]:
        """Return the decoded input i: pixels (h, w, 3), a text, or a pair of texts. Raises UnreadableInput."""
        raise NotImplementedError


class Images(Dataset):
    """Images of any size and format."""

    kind = "image"

    def content(self, i: int) -> Pixels:
        """Return image i as RGB pixels, shape (h, w, 3), uint8. Raises UnreadableImage."""
        return read_rgb(self.stored[int(self.rows[i])], name=self.name(i))

    @property
    def pixels(self) -> Pixels | None:
        """All stored images, shape (len(stored), h, w, 3), if they are in memory; index it with `rows`."""
        return self.stored.pixels if isinstance(self.stored, PixelArray) else None

    def stack(self, indices: NDArray[np.int64]) -> Pixels:
        """Return the images `indices` as one array (b, h, w, 3). Raises InputError if they differ in size."""
        if self.pixels is not None:
            return self.pixels[self.rows[indices]]
        images = [self.content(int(i)) for i in indices]
        if len({image.shape for image in images}) > 1:
            raise InputError("the images differ in size: give Preprocess a size")
        return np.stack(images) if images else np.zeros((0, 0, 0, 3), dtype=np.uint8)


class Texts(Dataset):
    """Texts for sequence models, or pairs of texts."""

    kind = "text"

    @property
    def per_input(self) -> int:
        """How many texts an input is: 1, or 2 for pairs."""
        return self.stored.per_input if isinstance(self.stored, StoredTexts) else 1

    def content(self, i: int) -> str | tuple[str, ...]:
        """Return text i, or pair i. Raises UnreadableText."""
        found = self.stored[int(self.rows[i])]
        if isinstance(found, BadCell):
            raise UnreadableText(self.name(i), found.reason)
        text: str | tuple[str, ...] = found
        return text
