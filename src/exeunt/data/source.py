"""A source of data, such as "data/cifar100" or "sklearn:digits": training, test and validation data, and classes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from exeunt._support.arrays import Booleans, Integers
from exeunt._support.text import listed
from exeunt.data.columns import NO_LABELS
from exeunt.data.dataset import Dataset, Images, Texts
from exeunt.data.decode_all import decoded, select_readable
from exeunt.data.preprocess import Preprocess
from exeunt.data.stored_inputs import KeptColumn, LabelCells, StoredInputs, TableColumn
from exeunt.errors import InputError, UnreadableImage

TRAIN_NAMES = ("train", "training")
TEST_NAMES = ("test", "val", "valid", "validation", "dev")
"""Names of tables and folders with training data and test data, the preferred ones first."""

_KINDS: dict[str, type[Dataset]] = {"image": Images, "text": Texts}
_SHOWN = 12  # classes in a message
_MOST_NUMBERED = 100_000
"""Most classes that integer labels may number: each number up to the highest label is a class."""


@dataclass(frozen=True, kw_only=True)
class DataSource:
    """Training data, test data, or both, of one kind ("image" or "text") and with the same classes.

    `validation`: labelled data beside both, to fit and calibrate policies on; `asked_for`: they were given as such, and
    not only found.
    """

    name: str
    kind: str
    train: Dataset | None
    test: Dataset | None
    class_names: tuple[str, ...] | None
    validation: Dataset | None = None
    asked_for: bool = False

    @property
    def n_classes(self) -> int:
        """Number of classes. Raises InputError for unlabelled data, and for training data of one class."""
        if self.class_names is None:
            raise InputError(
                f"{self.name} has no labels, so it has no classes: if a column holds them, name it (--label-column); "
                "heads learn without labels from a trained network's own outputs (--unlabelled)"
            )
        labels = None if self.train is None else self.train.labels
        known = [] if labels is None else labels[labels >= 0].tolist()
        if len(known) > 1 and len({*known}) == 1:
            raise InputError(
                f"all labels of the training data of {self.name} are {self.class_names[known[0]]!r}, and one class "
                "teaches nothing: name the column of the classes (--label-column), or learn from a trained network's "
                f"own outputs (--unlabelled --label-column {NO_LABELS})"
            )
        return len(self.class_names)

    def with_classes(self, names: Sequence[str]) -> DataSource:
        """Return the source with the classes of a network, for data that lack some or all labels.

        Labels are matched by name, or else by number. Raises InputError for a label that is neither.
        """
        names, own = tuple(names), self.class_names or ()
        if own == names:
            return self
        numbers = tuple(map(str, range(len(names))))
        place = {name: k for k, name in enumerate(names if {*own} <= {*names} else numbers)}
        if other := [name for name in own if name not in place]:
            raise InputError(
                f"{self.name} has the label {other[-1]!r}, and the network's classes are {listed(names, 5)}: write "
                "labels as the network names or numbers its classes"
            )
        code = np.array([place[name] for name in own], dtype=np.int64)
        renamed: dict[str, Any] = {
            which: data.with_classes(names, code) for which, data in self.datasets.items()
        }
        return replace(self, class_names=names, **renamed)

    @property
    def fingerprint(self) -> str:
        """Hash of the training data, the test data and any validation data, 32 hexadecimal digits."""
        more = [] if self.validation is None else [self.validation]
        prints = [None if data is None else data.fingerprint for data in (self.train, self.test, *more)]
        return hashlib.blake2b(repr(prints).encode(), digest_size=16).hexdigest()

    @property
    def datasets(self) -> dict[str, Dataset]:
        """The data sets there are, under "train", "test" and "validation"."""
        known = {"train": self.train, "test": self.test, "validation": self.validation}
        return {name: data for name, data in known.items() if data is not None}

    def dataset(self, name: str) -> Dataset:
        """Return the "train", "test" or "validation" data. Raises InputError if there are none."""
        datasets = self.datasets
        if name not in datasets:
            raise InputError(f"{self.name} has no {name!r} data, only {' and '.join(datasets)}")
        return datasets[name]

    def decoded(
        self,
        preprocess: Preprocess,
        *,
        cache: Path | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> DataSource:
        """Return the source with its images decoded, or with their content keys (see `decoded`). Texts are unchanged.

        `cache`: folder that keeps both for the next call. `progress`: called with (done, n).
        """
        ready: dict[str, Any] = {
            name: decoded(data, preprocess, cache=cache, progress=progress)
            for name, data in self.datasets.items()
            if isinstance(data, Images)
        }
        return replace(self, **ready)

    def without_unreadable(
        self, *, progress: Callable[[int, int], None] | None = None
    ) -> tuple[DataSource, dict[str, list[UnreadableImage]]]:
        """Return the source without unreadable images, and their errors by data set, such as "train".

        All images are decoded. `progress`: called with (done, n). Raises InputError if none can be read.
        """
        readable = {
            name: select_readable(data, progress=progress)
            for name, data in self.datasets.items()
            if isinstance(data, Images)
        }
        for name, (images, refused) in readable.items():
            if refused and not len(images):
                raise InputError(f"none of the {name} images of {self.name} can be read; {refused[0]}")
        rest: dict[str, Any] = {name: images for name, (images, _) in readable.items()}
        return replace(self, **rest), {name: refused for name, (_, refused) in readable.items()}


@dataclass(frozen=True, kw_only=True)
class RawData:
    """Inputs and labels as read, before training and test data agree on the classes.

    kind: "image" or "text".
    labels: integers or strings, shape (n,), or None; unknown ones are -1 or "". For inputs to predict cells of any
        content, or a column of them.
    class_names: names of integer labels, if the data have any.
    kept: columns that come back beside the predictions, by name.
    """

    kind: str
    stored: StoredInputs
    labels: Any = None
    class_names: tuple[str, ...] | None = None
    kept: Mapping[str, KeptColumn] = field(default_factory=dict)


class RawParts(NamedTuple):
    """Training, test and validation data as read, each None if there are none."""

    train: RawData | None
    test: RawData | None
    validation: RawData | None = None


def find_parts(read: Callable[[str], RawData | None], *, validation: bool = True) -> RawParts:
    """Return training and test data: of the names that `read` finds, the first with labels, else the first.

    With `validation`, also the labelled data of the next name for test data, where the test data are called "test".
    """

    def first(names: Sequence[str]) -> RawData | None:
        unlabelled = None
        for name in names:
            raw = read(name)
            if raw is not None and raw.labels is not None:
                return raw
            unlabelled = unlabelled or raw
        return unlabelled

    train, test = first(TRAIN_NAMES), first(TEST_NAMES[:1])
    others = first(TEST_NAMES[1:]) if validation or test is None or test.labels is None else None
    labelled = others is not None and others.labels is not None
    if test is None or (test.labels is None and labelled):
        return RawParts(train, others)
    return RawParts(train, test, others if validation and labelled else None)


def make_source(
    name: str, parts: RawParts, *, asked_for: bool = False, unlabelled: bool = False
) -> DataSource:
    """Return the source of these training, test and validation data, with labels coded in 0..k-1.

    Classes are those that the data name; else the sorted text labels of the training data, or of the test data if
    there are no others; else "0", "1", ... up to the highest label. With `unlabelled` some labels may be unknown, and
    those of all parts are looked at.
    Raises InputError if the parts differ in kind or in the kind of their labels, a label has no class, or with
    `unlabelled` all inputs to train on have one.
    """
    raw_parts = {which: raw for which, raw in parts._asdict().items() if raw is not None}
    labels = next(iter(raw_parts.values())).labels
    if unlabelled and labels is not None and len(labels) and _known(np.asarray(labels)).all():
        raise InputError(
            f"every input of {name} has a label, and --unlabelled was given. To learn from the labels, leave out "
            f"--unlabelled; to leave them alone, add --label-column {NO_LABELS}"
        )
    kinds = {raw.kind for raw in raw_parts.values()}
    if len(kinds) > 1:
        raise InputError(f"{name} mixes images and texts: give two sources")
    labelled = [raw for raw in raw_parts.values() if raw.labels is not None]
    classes = _class_names(labelled, name, all_parts=unlabelled)
    datasets = {
        which: _KINDS[raw.kind](
            raw.stored,
            labels=None if raw.labels is None else _coded(raw, classes or (), unlabelled=unlabelled),
            class_names=classes,
        )
        for which, raw in raw_parts.items()
    }
    return DataSource(
        name=name,
        kind=kinds.pop(),
        class_names=classes,
        asked_for=asked_for,
        **{which: datasets.get(which) for which in RawParts._fields},
    )


def make_inputs(parts: RawParts) -> Dataset:
    """Return the inputs to predict: the test data, or the training data if there are no others.

    Their labels are read on demand, and their classes are those that occur.
    """
    raw = next(part for part in (parts.test, parts.train) if part is not None)
    if (labels := raw.labels) is None:
        return _KINDS[raw.kind](raw.stored, kept=raw.kept)
    cells = labels if hasattr(labels, "cell") else TableColumn(labels, name=raw.stored.name)
    return _KINDS[raw.kind](raw.stored, cells=LabelCells(cells, raw.class_names), kept=raw.kept)


def _known(labels: NDArray[Any]) -> Booleans:
    """Return which labels are known, (n,)."""
    return np.asarray(labels != ("" if labels.dtype.kind in "UO" else -1))


def _class_names(labelled: list[RawData], name: str, *, all_parts: bool) -> tuple[str, ...] | None:
    if not labelled:
        return None
    named = {raw.class_names for raw in labelled if raw.class_names is not None}
    if len(named) > 1:
        raise InputError(f"the train and test data of {name} name different classes")
    if named:
        return named.pop()
    filled = [(raw, labels) for raw in labelled if (labels := np.asarray(raw.labels)).size]
    texts = [(raw, labels) for raw, labels in filled if labels.dtype.kind in "UO"]
    if 0 < len(texts) < len(filled):
        odd = (
            f", such as {text!r} in {raw.stored.name(row)}"
            for raw, labels in texts
            for row, text in enumerate(labels.tolist())
            if not str(text).isdecimal()
        )
        raise InputError(
            f"{name} has numbers for labels in one of train and test, and texts in the other{next(odd, '')}"
        )
    if not filled:
        return ()
    raw, first = filled[0]
    if texts:
        used = filled if all_parts else filled[:1]
        return tuple(sorted({str(label) for _, labels in used for label in labels[_known(labels)]}))
    if all_parts:
        raw, first = max(filled, key=lambda pair: int(pair[1].max()))
    row = int(first.argmax())
    if first[row] >= _MOST_NUMBERED:
        raise InputError(
            f"{raw.stored.name(row)} has the label {first[row]}, and numbers of classes go from 0 to at most "
            f"{_MOST_NUMBERED - 1:,}: number the classes without gaps, or give them names"
        )
    return tuple(str(k) for k in range(int(first[row]) + 1))


def _coded(raw: RawData, classes: tuple[str, ...], *, unlabelled: bool) -> Integers:
    """Return labels as int64 in 0..k-1. Raises InputError, naming the row, for a label that is no class.

    With `unlabelled`, unknown labels are -1.
    """
    labels = np.asarray(raw.labels)
    if labels.dtype.kind in "UO":
        code = {name: k for k, name in enumerate(classes)}
        coded = np.array([code.get(str(label), -1) for label in labels], dtype=np.int64)
    else:
        coded = labels.astype(np.int64)
    wrong = (coded < 0) | (coded >= len(classes))
    if unlabelled:
        wrong &= _known(labels)
    if len(unknown := np.flatnonzero(wrong)):
        row = int(unknown[0])
        known = ", ".join(classes) if len(classes) <= _SHOWN else f"{', '.join(classes[:_SHOWN])}, ..."
        others = f" ({len(unknown)} rows have such labels)" if len(unknown) > 1 else ""
        raise InputError(
            f"{raw.stored.name(row)} has the label {labels[row].item()!r}, and the classes of the training data are "
            f"{known or 'none'}{others}: correct it, drop it, or add training data of its class"
        )
    return coded
