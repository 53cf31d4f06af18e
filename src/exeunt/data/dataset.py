"""Data sets: labelled or unlabelled inputs, read lazily. `take` selects some of them without copying.

Content keys tell inputs apart, keep copies in one part of a split, and break ties in recordings and predictions of data
that are opened by name. Arrays that a runner gets without keys have keys from `exeunt.engine.inputs`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from copy import copy
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from exeunt._support.arrays import Integers, Keys, check_length
from exeunt._support.paths import RemotePath, changed
from exeunt.data.read_image import Pixels, read_rgb
from exeunt.data.stored_inputs import (
    SMALL_BYTES,
    BadCell,
    KeptColumn,
    LabelCells,
    PixelArray,
    StoredInputs,
    StoredTexts,
)
from exeunt.errors import UnreadableText

if TYPE_CHECKING:
    from typing_extensions import Self


_N_SAMPLED = 64  # inputs in the hash of large data


class Dataset:
    """n inputs with labels (n,) in 0..k-1, or without.

    stored: the inputs as they are stored.
    labels: one per stored input; or `cells`, which are read on demand. With `cells` the classes are those that occur.
    rows: the stored inputs that belong to the data set, in order; default all.
    keys: content keys of all stored inputs, shape (len(stored),) uint64, if known.
    base_fingerprint: the fingerprint of all stored inputs, if known.
    kept: columns of the stored inputs that come back beside their predictions, by name.
    """

    kind = "any"

    def __init__(
        self,
        stored: StoredInputs,
        *,
        labels: Integers | None = None,
        class_names: tuple[str, ...] | None = None,
        cells: LabelCells | None = None,
        rows: Integers | None = None,
        keys: Keys | None = None,
        base_fingerprint: str | None = None,
        kept: Mapping[str, KeptColumn] = MappingProxyType({}),
    ) -> None:
        if labels is not None:
            check_length(labels, "labels", len(stored))
        self.stored = stored
        self._class_names = class_names
        self._labels = labels
        self._cells = cells
        self._keys = keys
        self._rows = rows
        self._base_fingerprint = base_fingerprint
        self._kept = dict(kept)

    def _with(self, **changes: Any) -> Self:
        """Return a copy with other values of attributes, without what is derived from them."""
        changed = copy(self)
        for name in ("rows", "true_names", "class_names", "labels", "fingerprint"):
            changed.__dict__.pop(name, None)
        # A view must not read all stored inputs again for a hash that is known.
        known = self.__dict__.get("fingerprint") if self._rows is None else None
        changed.__dict__.update({"_base_fingerprint": self._base_fingerprint or known, **changes})
        return changed

    def __len__(self) -> int:
        return len(self.stored) if self._rows is None else len(self._rows)

    @cached_property
    def rows(self) -> Integers:
        """The stored inputs that belong to the data set, (n,)."""
        return np.arange(len(self.stored)) if self._rows is None else self._rows

    @property
    def is_whole(self) -> bool:
        """Whether all stored inputs belong to the data set, in order."""
        return self._rows is None

    @cached_property
    def true_names(self) -> list[str | None] | None:
        """The class name of each input, None if it is unknown; None if all are."""
        if self._cells is not None:
            names = [self._cells.name(int(row)) for row in self.rows]
            return names if any(name is not None for name in names) else None
        if self._labels is None or self._class_names is None:
            return None
        return [self._class_names[k] if k >= 0 else None for k in self._labels[self.rows].tolist()]

    @cached_property
    def class_names(self) -> tuple[str, ...] | None:
        """Names of the classes, or None."""
        if self._cells is None:
            return self._class_names
        return tuple(sorted({name for name in self.true_names or () if name is not None})) or None

    @cached_property
    def labels(self) -> Integers | None:
        """True classes, shape (n,), -1 for an unknown one; or None."""
        if self._cells is None:
            return None if self._labels is None else self._labels[self.rows]
        if self.true_names is None:
            return None
        code = {name: k for k, name in enumerate(self.class_names or ())}
        return np.array([-1 if name is None else code[name] for name in self.true_names], dtype=np.int64)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the inputs and the labels, 32 hexadecimal digits, the same wherever the data are stored.

        Up to 1 GiB is read in full. Of larger data the hash covers the labels, the number of inputs, the total size and
        64 evenly spaced inputs, and it starts with "sampled-".
        """
        if self._rows is not None:
            text = self._with(_rows=None).fingerprint.encode() + self.rows.astype("<i8").tobytes()
            return hashlib.blake2b(text, digest_size=16).hexdigest()
        if self._base_fingerprint is not None:
            return self._base_fingerprint
        n, size = len(self), None if self.is_small else self.stored.nbytes
        digest = hashlib.blake2b(repr((n, self.class_names, size)).encode(), digest_size=16)
        if self.labels is not None:
            digest.update(self.labels.astype("<i8").tobytes())
        for row in range(n) if self.is_small else np.linspace(0, n - 1, min(n, _N_SAMPLED)).astype(int):
            raw = _raw(self.stored[int(row)])
            digest.update(len(raw).to_bytes(8, "little"))
            digest.update(raw)
        return ("" if self.is_small else "sampled-") + digest.hexdigest()

    @property
    def is_small(self) -> bool:
        """Whether all stored inputs together take at most SMALL_BYTES, so that they are read in full for hashes."""
        return self.stored.nbytes <= SMALL_BYTES

    def name(self, i: int) -> str:
        """Return the file name of input i, or its row such as "test.parquet#17"."""
        return self.stored.name(i if self._rows is None else int(self._rows[i]))

    @property
    def kept_types(self) -> dict[str, Any]:
        """The columns that come back beside the predictions, and their types in Arrow."""
        return {name: column.type for name, column in self._kept.items()}

    def kept_values(self, name: str) -> list[Any]:
        """Return the values (n,) of a column that comes back beside the predictions."""
        return [self._kept[name].value(row) for row in self.rows.tolist()]

    def block(self, start: int, n: int) -> Self:
        """Return n inputs from `start` on, without the data of others: it can be sent to another machine."""
        rows = np.arange(start, start + n) if self._rows is None else self._rows[start : start + n]
        first, last = (int(rows.min()), int(rows.max())) if n else (0, -1)
        part = slice(first, last + 1)
        return self._with(
            stored=self.stored.part(first, last + 1 - first),
            _labels=None if self._labels is None else self._labels[part],
            _cells=None if self._cells is None else self._cells.part(first, last + 1 - first),
            _rows=rows - first,
            _keys=None if self._keys is None else self._keys[part],
            _kept={name: column.part(first, last + 1 - first) for name, column in self._kept.items()},
            _base_fingerprint="of a block",
        )

    def check_unchanged(self) -> None:
        """Raise InputError if a file of the stored inputs was changed or replaced since it was opened."""
        for column in getattr(self.stored, "columns", (self.stored,)):
            if hasattr(column, "changed") and (file := column.changed()) is not None:
                raise changed(file)

    def take(self, indices: Any) -> Self:
        """Return a view of the inputs `indices` (positions or a mask of this data set)."""
        return self._with(_rows=self.rows[np.asarray(indices)] if np.size(indices) else self.rows[:0])

    def with_classes(self, names: tuple[str, ...], code: Integers) -> Self:
        """Return a copy with other classes. `code`: the number (k,) that each class gets."""
        labels = None if self._labels is None else np.append(code, -1)[self._labels]  # -1 stays
        return self._with(_labels=labels, _class_names=names, _base_fingerprint=None)

    def without_some_labels(self) -> Self:
        """Return the data set, without any labels if some inputs have none."""
        labels = self.labels
        return self if labels is None or (labels >= 0).all() else self._with(_labels=None, _cells=None)

    def with_keys(self, keys: Keys) -> Self:
        """Return a copy that knows the content keys (n,) of its inputs."""
        check_length(keys, "keys", len(self))
        stored: Keys = np.zeros(len(self.stored), dtype=np.uint64)
        stored[self.rows] = keys  # no view of this one asks for the keys of other inputs
        return self._with(_keys=stored)

    def content_keys(self, indices: Iterable[int] | None = None) -> Keys:
        """Return the 64-bit keys of the decoded inputs, shape (n,) uint64; with `indices`, of these inputs.

        Equal inputs have equal keys, whatever their file format, position or label.
        """
        chosen = range(len(self)) if indices is None else indices
        if self._keys is not None:
            return self._keys[self.rows[np.fromiter(chosen, dtype=np.int64)]]
        return np.fromiter((content_key(self.content(i)) for i in chosen), dtype=np.uint64)

    def stored_keys(self) -> Keys:
        """Return the 64-bit keys of the inputs as stored (not decoded), shape (n,) uint64.

        They are cheap, but an image stored in two formats has two keys.
        """
        digests = (hashlib.blake2b(_raw(self.stored[int(row)]), digest_size=8) for row in self.rows)
        return np.fromiter((int.from_bytes(digest.digest(), "little") for digest in digests), dtype=np.uint64)

    def targets(self, positions: Integers, prepare: Any) -> Integers | None:  # noqa: ARG002 - masks are prepared
        """Return what a network learns of inputs: labels (b,) or masks (b, h, w), -1 for no class; or None."""
        return None if self.labels is None else self.labels[positions]

    def content(self, i: int) -> Pixels | str | tuple[str, ...]:
        """Return the decoded input i: pixels (h, w, 3), a text, or a pair of texts. Raises UnreadableInput."""
        raise NotImplementedError


class Images(Dataset):
    """Images of any size and format."""

    kind = "image"

    def content(self, i: int) -> Pixels:
        """Return image i as RGB pixels, shape (h, w, 3), uint8. Raises UnreadableImage."""
        return read_rgb(self.stored[int(self.rows[i])], name=self.name(i))

    def stored_as(self, stored: StoredInputs, keys: Keys) -> Images:
        """Return these images alone, stored otherwise. `keys`: their content keys, (n,)."""
        fields: Any = {"class_names": self.class_names, "base_fingerprint": self.fingerprint}
        return Images(stored, labels=self.labels, keys=keys, **fields)

    @property
    def pixels(self) -> Pixels | None:
        """All stored images, shape (len(stored), h, w, 3), if they are in memory; index them with `rows`."""
        return self.stored.pixels if isinstance(self.stored, PixelArray) else None


class Texts(Dataset):
    """Texts for sequence models, or pairs of texts."""

    kind = "text"

    @property
    def per_input(self) -> int:
        """Number of texts of an input: 1, or 2 for pairs."""
        return self.stored.per_input if isinstance(self.stored, StoredTexts) else 1

    def content(self, i: int) -> str | tuple[str, ...]:
        """Return text i, or pair i. Raises UnreadableText."""
        content = self.stored[int(self.rows[i])]
        if isinstance(content, BadCell):
            raise UnreadableText(self.name(i), content.reason)
        return content  # type: ignore[no-any-return]


def content_key(content: NDArray[np.uint8] | str | tuple[str, ...]) -> int:
    """Return the 64-bit key of a decoded input: blake2b over the shape and the pixels, or over the text or texts.

    An image stored in two formats has one key.
    """
    if isinstance(content, (str, tuple)):
        digest = hashlib.blake2b(_raw(content), digest_size=8)
    else:
        digest = hashlib.blake2b(repr(content.shape).encode(), digest_size=8)
        digest.update(np.ascontiguousarray(content).data)
    return int.from_bytes(digest.digest(), "little")


def _raw(stored: Any) -> bytes:
    if isinstance(stored, (Path, RemotePath)):
        try:
            return stored.read_bytes() if stored.is_file() else b""
        except PermissionError:  # as if the image were missing
            return b""
    if isinstance(stored, str):
        return stored.encode()
    if isinstance(stored, np.ndarray):
        return repr(stored.shape).encode() + stored.tobytes()
    return stored if isinstance(stored, bytes) else repr(stored).encode()  # a pair of texts, or a BadCell
