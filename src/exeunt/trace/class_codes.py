"""Classes as other people's tables write them, names or numbers, as whole numbers."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from exeunt._arrays import Integers
from exeunt._text import counted
from exeunt.errors import InputError

__all__ = ["class_codes"]


def class_codes(
    said: Mapping[str, pa.Array], *, labelled: bool, classes: Sequence[Any] | None
) -> list[Integers]:
    """Return columns of classes, by name, as whole numbers from one code table, (n,) each.

    `labelled`: the last column holds the labels. `classes`: names or numbers, in the order of their numbers.
    Numbers of 0 and above stay what they are, unless `classes` says which class has which number. Anything else, such
    as names, is numbered in order of its text: `classes` or those of the last column first, so that answers which are
    no label come after all of them.
    """
    names, columns = list(said), list(said.values())
    if classes is None and all(pa.types.is_integer(column.type) for column in columns):
        numbers = [column.to_numpy(zero_copy_only=False) for column in columns]
        if all(values.min() >= 0 for values in numbers):
            return [values.astype(np.int64) for values in numbers]
    texts = [_texts(column, name) for name, column in said.items()]
    named = np.array([], dtype=np.str_) if classes is None else np.array([str(one) for one in classes])
    if len({_is_text(column) for column in columns}) > 1:
        *texts, named = (_as_typed(text) for text in (*texts, named))
    if len(np.unique(named)) < len(named):
        raise InputError(f"classes must each be named once, got {', '.join(named)}")
    if labelled:
        _check_alike(names, texts)
        _check_labels(texts[-1], names[-1], named)
    first = np.unique(texts[-1]) if classes is None else named
    every = np.concatenate([first, np.setdiff1d(np.concatenate(texts), first)])
    order = np.argsort(every)
    return [order[np.searchsorted(every, text, sorter=order)] for text in texts]


def _is_text(column: pa.Array) -> bool:
    return bool(pa.types.is_string(column.type) or pa.types.is_large_string(column.type))


def _as_typed(texts: NDArray[np.str_]) -> NDArray[np.str_]:
    """Return classes as columns of numbers or booleans write them: "01" and "1.0" are 1, "True" is true.

    A column of a CSV file is text where one of its cells is.
    """

    def typed(text: str) -> str:
        whole = re.fullmatch(r"\s*([-+]?\d+)(\.0*)?\s*", text)
        return str(int(whole[1])) if whole else {"true": "true", "false": "false"}.get(text.lower(), text)

    there, at = np.unique(texts, return_inverse=True)
    return np.array([typed(text) for text in there.tolist()], dtype=np.str_)[at]


def _check_labels(labels: NDArray[np.str_], name: str, classes: NDArray[np.str_]) -> None:
    """Raise InputError for an empty label, or for one that is none of the classes, if they are given."""
    empty = labels == ""
    if empty.any():
        raise InputError(
            f"column {name!r} has {counted(int(empty.sum()), 'empty cell')}, the first in row {int(empty.argmax())} "
            "(rows count from 0): drop these inputs"
        )
    other = ~np.isin(labels, classes)
    if len(classes) and other.any():
        row = int(other.argmax())
        raise InputError(
            f"column {name!r} has the label {str(labels[row])!r} in row {row} (rows count from 0), which is none of "
            f"classes: {', '.join(classes)}"
        )


def _check_alike(names: Sequence[str], texts: Sequence[NDArray[np.str_]]) -> None:
    """Raise InputError for a predicted class that is no label, but is one but for capitals and spaces."""
    labels = {str(text) for text in np.unique(texts[-1])}
    alike = {text.strip().casefold(): text for text in labels}
    for name, predicted in zip(names[:-1], texts[:-1], strict=True):
        for text in map(str, np.unique(predicted)):
            meant = alike.get(text.strip().casefold())
            if text not in labels and meant is not None:
                raise InputError(
                    f"column {name!r} has the class {text!r}, which {names[-1]!r} writes {meant!r}: write classes "
                    "alike in both"
                )


def _texts(column: pa.Array, name: str) -> NDArray[np.str_]:
    """Return classes as text (n,); whole-numbered floats read like the integers that they are."""
    if pa.types.is_floating(column.type):
        values = column.to_numpy(zero_copy_only=False)
        bad = ~np.isfinite(values) | (values != np.floor(values))
        if bad.any():
            row = int(np.argmax(bad))
            raise InputError(
                f"column {name!r} must hold classes, as names or whole numbers, got {values[row]:g} in row {row} "
                "(rows count from 0)"
            )
        column = pa.array(values.astype(np.int64))
    try:
        return np.asarray(column.cast(pa.string()).to_pylist(), dtype=np.str_)
    except pa.ArrowException:
        remedy = ": save the file as UTF-8" if pa.types.is_binary(column.type) else ""
        raise InputError(
            f"column {name!r} must hold classes, as names or whole numbers, got {column.type}{remedy}"
        ) from None
