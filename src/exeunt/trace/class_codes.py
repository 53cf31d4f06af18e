"""Whole numbers for the classes of a table of other origin, which may be names or numbers."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from exeunt._support.arrays import Integers
from exeunt.errors import InputError


def class_codes(
    named: Mapping[str, pa.Array], *, labelled: bool, classes: Sequence[Any] | None
) -> list[Integers]:
    """Return columns of classes, given by name, as whole numbers (n,) from one code table.

    `labelled`: the last column holds the labels. `classes`: names or numbers, in the order of their codes.
    Numbers of 0 and above keep their value, unless `classes` assigns codes. Anything else, such as names, is coded in
    order of its text: first `classes` or the classes of the last column, then predictions that are no label.
    """
    names, columns = list(named), list(named.values())
    if classes is None and all(pa.types.is_integer(column.type) for column in columns):
        numbers = [column.to_numpy(zero_copy_only=False) for column in columns]
        if all(values.min() >= 0 for values in numbers):
            return [values.astype(np.int64) for values in numbers]
    texts = [column_texts(column, name) for name, column in named.items()]
    class_texts = np.array([str(class_) for class_ in (() if classes is None else classes)], dtype=np.str_)
    if (
        len({pa.types.is_string(column.type) or pa.types.is_large_string(column.type) for column in columns})
        > 1
    ):
        *texts, class_texts = (_as_typed(text) for text in (*texts, class_texts))
    if len(np.unique(class_texts)) < len(class_texts):
        raise InputError(f"classes must each be named once, got {', '.join(class_texts)}")
    if labelled:
        _check_alike(names, texts)
        _check_labels(texts[-1], names[-1], class_texts)
    first = np.unique(texts[-1]) if classes is None else class_texts
    every = np.concatenate([first, np.setdiff1d(np.concatenate(texts), first)])
    order = np.argsort(every)
    return [order[np.searchsorted(every, text, sorter=order)] for text in texts]


def _as_typed(texts: NDArray[np.str_]) -> NDArray[np.str_]:
    """Return classes as a column of numbers or booleans would write them: "01" and "1.0" become "1", "True" "true".

    A column of a CSV file is text if one of its cells is.
    """

    def typed(text: str) -> str:
        number = re.fullmatch(r"\s*([-+]?\d+)(\.0*)?\s*", text)
        return str(int(number[1])) if number else {"true": "true", "false": "false"}.get(text.lower(), text)

    there, codes = np.unique(texts, return_inverse=True)
    return np.array([typed(text) for text in there.tolist()], dtype=np.str_)[codes]


def check_filled(filled: NDArray[np.bool_], name: str, remedy: str = "drop these inputs") -> None:
    """Raise InputError, with a remedy, unless all cells (n,) of a column are filled."""
    if len(empty := np.flatnonzero(~filled)):
        cells = "1 empty cell" if len(empty) == 1 else f"{len(empty)} empty cells, the first"
        raise InputError(f"column {name!r} has {cells} in row {empty[0]} (rows count from 0): {remedy}")


def _check_labels(labels: NDArray[np.str_], name: str, classes: NDArray[np.str_]) -> None:
    """Raise InputError for an empty label, or for one that is not among the classes, if they are given."""
    check_filled(labels != "", name)
    if len(classes) and len(other := np.flatnonzero(~np.isin(labels, classes))):
        raise InputError(
            f"column {name!r} has the label {str(labels[other[0]])!r} in row {other[0]} (rows count from 0), which is "
            f"none of classes: {', '.join(classes)}"
        )


def _check_alike(names: Sequence[str], texts: Sequence[NDArray[np.str_]]) -> None:
    """Raise InputError for a predicted class that differs from a label only in capitals and spaces."""
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


def column_texts(column: pa.Array, name: str) -> NDArray[np.str_]:
    """Return classes as text (n,); floats with whole values become integers."""
    if pa.types.is_floating(column.type):
        values = column.to_numpy(zero_copy_only=False)
        if len(bad := np.flatnonzero(~np.isfinite(values) | (values != np.floor(values)))):
            raise InputError(
                f"column {name!r} must hold classes, as names or whole numbers, got {values[bad[0]]:g} in row {bad[0]} "
                "(rows count from 0)"
            )
        column = pa.array(values.astype(np.int64))
    try:
        return np.asarray(column.cast(pa.string()).to_pylist(), dtype=np.str_)
    except pa.ArrowException:
        as_utf_8 = ": save the file as UTF-8, or add --encoding, such as cp1252"
        remedy = as_utf_8 if pa.types.is_binary(column.type) else ""
        raise InputError(
            f"column {name!r} must hold classes, as names or whole numbers, got {column.type}{remedy}"
        ) from None
