"""Data sets: labelled or unlabelled inputs, read lazily, cut into parts without copying."""

from __future__ import annotations

import hashlib
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from exeunt._arrays import Integers, Keys, check_length
from exeunt.data.items import ArrayItems, Items, bytes_key, content_key, fingerprint, is_small
from exeunt.data.pictures import Pixels, read_rgb
from exeunt.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray
    from typing_extensions import Self


class Dataset:
    """n inputs with labels (n,) in 0..k-1, or without; `take` gives a view of some of them.

    items: where the raw inputs come from.
    rows: which of the items are meant, in order; default all.
    keys: content keys of all items, where already known, shape (len(items),) uint64.
    """

    kind = "any"

    def __init__(
        self,
        items: Items,
        *,
        labels: Integers | None = None,
        class_names: tuple[str, ...] | None = None,
        rows: Integers | None = None,
        keys: Keys | None = None,
        base_fingerprint: str | None = None,
    ) -> None:
        if labels is not None:
            check_length(labels, "labels", len(items))
        self.items = items
        self.class_names = class_names
        self._all_labels = labels
        self._keys = keys
        self._whole = rows is None
        self.rows: Integers = np.arange(len(items)) if rows is None else rows
        self._base_fingerprint = base_fingerprint

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def labels(self) -> Integers | None:
        """True classes, shape (n,), or None."""
        return None if self._all_labels is None else self._all_labels[self.rows]

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the content and the labels; the same for the same data wherever it lies."""
        whole = self._base_fingerprint or fingerprint(self.items, self._all_labels, self.class_names)
        if self._whole:
            return whole
        rows = self.rows.astype("<i8").tobytes()
        return hashlib.blake2b(whole.encode() + rows, digest_size=16).hexdigest()

    @property
    def is_small(self) -> bool:
        """Whether the source, at most 1 GiB as stored, may be read through without a second thought."""
        return is_small(self.items)

    def name(self, i: int) -> str:
        """Return the file name of input i, or its row such as "test.parquet#17"."""
        return self.items.name(int(self.rows[i]))

    def take(self, indices: Any) -> Self:
        """Return a view of the inputs `indices` (positions or a mask of this data set)."""
        rows = self.rows[np.asarray(indices)] if np.size(indices) else self.rows[:0]
        return self._copy(rows, self._keys)

    def with_keys(self, keys: Keys) -> Self:
        """Return a copy that knows the content keys (n,) of its inputs; only of a whole data set."""
        if not self._whole:
            raise InputError("content keys can be given to a whole data set, not to a view of one")
        check_length(keys, "keys", len(self))
        return self._copy(None, keys)

    def _copy(self, rows: Integers | None, keys: Keys | None) -> Self:
        return type(self)(
            self.items,
            labels=self._all_labels,
            class_names=self.class_names,
            rows=rows,
            keys=keys,
            # Once known it is handed on: a view would read all of the source for it again.
            base_fingerprint=self._base_fingerprint
            or (self.__dict__.get("fingerprint") if self._whole else None),
        )

    def content_id(self, indices: Iterable[int] | None = None) -> Keys:
        """Return the 64-bit keys of the inputs' decoded content, shape (n,) uint64.

        They do not depend on file format, position or label; equal inputs have equal keys.
        """
        chosen = range(len(self)) if indices is None else indices
        if self._keys is not None:
            return self._keys[self.rows[np.fromiter(chosen, dtype=np.int64)]]
        return np.fromiter((content_key(self.content(i)) for i in chosen), dtype=np.uint64)

    def stored_id(self) -> Keys:
        """Return 64-bit keys of the inputs as stored (not decoded), shape (n,) uint64."""
        return np.fromiter((bytes_key(self.items[int(row)]) for row in self.rows), dtype=np.uint64)

    def content(self, i: int) -> Pixels | str:
        """Return the decoded input i: pixels (h, w, 3) or a text."""
        raise NotImplementedError


class Images(Dataset):
    """Images of any size and format."""

    kind = "image"

    def content(self, i: int) -> Pixels:
        """Return input i as RGB pixels, shape (h, w, 3), uint8; raises UnreadableImage."""
        return read_rgb(self.items[int(self.rows[i])], name=self.name(i))

    image = content

    @property
    def pixels(self) -> Pixels | None:
        """All decoded items, shape (len(items), h, w, 3), if in memory; index it with `rows`."""
        return self.items.pixels if isinstance(self.items, ArrayItems) else None

    def batch(self, indices: NDArray[np.int64]) -> Pixels:
        """Return inputs `indices` as one array (b, h, w, 3); they must be of one size."""
        if self.pixels is not None:
            return self.pixels[self.rows[indices]]
        images = [self.image(int(i)) for i in indices]
        if len({image.shape for image in images}) > 1:
            raise InputError("the images differ in size: give Preprocess a size")
        return np.stack(images) if images else np.zeros((0, 0, 0, 3), dtype=np.uint8)


class Texts(Dataset):
    """Texts for sequence models."""

    kind = "text"

    def content(self, i: int) -> str:
        """Return text i."""
        return str(self.items[int(self.rows[i])])

    text = content
