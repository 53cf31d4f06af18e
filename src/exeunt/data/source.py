"""A source: what a string such as "data/cifar100" or "sklearn:digits" names, as train and test files."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from exeunt.data.dataset import Dataset, Images, Texts
from exeunt.data.decoding import decode, fits_in_memory, with_keys
from exeunt.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from exeunt._arrays import Integers
    from exeunt.data.items import Items
    from exeunt.data.preprocess import Preprocess

FILES = ("train", "test")


@dataclass(frozen=True, kw_only=True)
class Source:
    """The data under one name: a training file, a test file, or both, of one kind and one set of classes.

    kind: "image" or "text".
    """

    name: str
    kind: str
    train: Dataset | None
    test: Dataset | None
    class_names: tuple[str, ...] | None

    @property
    def n_classes(self) -> int:
        """Number of classes; raises InputError for unlabelled data."""
        if self.class_names is None:
            raise InputError(f"{self.name} has no labels, so it has no classes")
        return len(self.class_names)

    @property
    def fingerprint(self) -> str:
        """Hash of both files' content, 32 hexadecimal digits."""
        parts = [None if data is None else data.fingerprint for data in (self.train, self.test)]
        return hashlib.blake2b(repr(parts).encode(), digest_size=16).hexdigest()

    def file(self, name: str) -> Dataset:
        """Return the "train" or the "test" data; raises InputError where there is none."""
        found = {"train": self.train, "test": self.test}.get(name)
        if found is None:
            there = " and ".join(f for f in FILES if getattr(self, f) is not None)
            raise InputError(f"{self.name} has no {name!r} data, only {there}")
        return found

    def decoded(
        self,
        preprocess: Preprocess,
        *,
        cache: Path | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Source:
        """Return the source decoded once, and the next time read from the folder `cache`.

        Images that fit in memory at the size that `preprocess` asks for are decoded into an array (`decode`);
        of others the content keys are worked out (`with_keys`), unless the source is above 1 GiB.
        Texts stay as they are.
        """
        parts: dict[str, Any] = {}
        for name in FILES:
            data = getattr(self, name)
            if not isinstance(data, Images):
                continue
            if fits_in_memory(data, preprocess):
                parts[name] = decode(data, preprocess, cache=cache, progress=progress)
            elif data.is_small:
                parts[name] = with_keys(data, cache=cache, progress=progress)
        return replace(self, **parts)


@dataclass(frozen=True, kw_only=True)
class RawPart:
    """Inputs and labels as read, before class names are settled.

    labels: integers or strings, shape (n,), or None.
    class_names: where the file itself names its classes.
    """

    items: Items
    labels: Any = None
    class_names: tuple[str, ...] | None = None


def build(name: str, kind: str, *, train: RawPart | None, test: RawPart | None) -> Source:
    """Settle the classes over both parts and return the source."""
    parts = {"train": train, "test": test}
    given = {f: part for f, part in parts.items() if part is not None}
    classes = _class_names({f: part for f, part in given.items() if part.labels is not None}, name)
    made = {f: _dataset(part, kind, classes, f"{name} ({f})") for f, part in given.items()}
    return Source(name=name, kind=kind, train=made.get("train"), test=made.get("test"), class_names=classes)


def _dataset(part: RawPart, kind: str, classes: tuple[str, ...] | None, where: str) -> Dataset:
    labels = None if part.labels is None else _coded(np.asarray(part.labels), classes or (), where)
    make = Images if kind == "image" else Texts
    return make(part.items, labels=labels, class_names=classes)


def _class_names(parts: dict[str, RawPart], name: str) -> tuple[str, ...] | None:
    """Return the names given; else sorted text labels; else "0", "1", ... up to the highest label."""
    if not parts:
        return None
    named = {part.class_names for part in parts.values() if part.class_names is not None}
    if len(named) > 1:
        raise InputError(f"the train and test data of {name} name different classes")
    if named:
        return next(iter(named))
    columns = [np.asarray(part.labels) for part in parts.values()]
    textual = {column.dtype.kind in "UO" for column in columns if column.size}
    if len(textual) > 1:
        raise InputError(f"{name} has text labels in one file and numbers in the other")
    if True in textual:
        return tuple(sorted({str(label) for column in columns for label in column}))
    highest = max((int(column.max()) for column in columns if column.size), default=-1)
    return tuple(str(k) for k in range(highest + 1))


def _coded(labels: Any, classes: tuple[str, ...], where: str) -> Integers:
    """Return labels as int64 in 0..k-1."""
    if labels.dtype.kind in "UO":
        code = {name: k for k, name in enumerate(classes)}
        unknown = sorted({str(label) for label in labels} - set(code))
        if unknown:
            raise InputError(f"{where} has classes that are not known: {', '.join(unknown[:5])}")
        return np.array([code[str(label)] for label in labels], dtype=np.int64)
    coded: Integers = labels.astype(np.int64)
    if coded.size and not (coded.min() >= 0 and coded.max() < len(classes)):
        raise InputError(
            f"labels of {where} must lie in 0..{len(classes) - 1}, got {coded.min()} to {coded.max()}"
        )
    return coded
