"""Other people's tables, with a confidence and a prediction per exit, read for `ExitTrace.from_table`."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
from numpy.typing import ArrayLike

from exeunt import _arrays
from exeunt._arrays import Floats, Integers, Keys
from exeunt._text import counted
from exeunt.costs import CostModel
from exeunt.errors import InputError
from exeunt.trace.class_codes import class_codes
from exeunt.trace.column_patterns import exit_columns

__all__ = ["CostIs", "read_columns", "read_prices", "read_table"]

CostIs: TypeAlias = Literal["cumulative", "per-call"]


def read_columns(
    table: Any,
    *,
    confidence: str | Sequence[str],
    prediction: str | Sequence[str],
    cost: CostModel | ArrayLike,
    label: str | None,
    cost_is: CostIs,
    unit: str,
    id_: str | None,
    classes: Sequence[Any] | None = None,
) -> dict[str, Any]:
    """Return what `ExitTrace.from_scores` needs, from a table with one row per input (see `ExitTrace.from_table`)."""
    data = read_table(table)
    confidences, predictions = exit_columns(confidence, prediction, data.column_names)
    if not confidences or len(confidences) != len(predictions):
        raise InputError(
            f"give one confidence and one prediction column per exit, got {len(confidences)} and "
            f"{len(predictions)}: {', '.join(confidences) or 'none'}; {', '.join(predictions) or 'none'}"
        )
    _check_columns(data, [*confidences, *predictions, *(name for name in (label, id_) if name is not None)])
    model = _cost(cost, cost_is, unit, n_exits=len(confidences))
    said = {name: _column(data, name) for name in (*predictions, *([] if label is None else [label]))}
    answers = class_codes(said, labelled=label is not None, classes=classes)
    m = len(predictions)
    if label is not None:
        _check_spelling(data, answers[:m], answers[m], predictions[-1], label)
    return {
        "score": np.stack([_numbers(data, name) for name in confidences], axis=1),
        "prediction": np.stack(answers[:m], axis=1),
        "cost": model,
        "label": None if label is None else answers[m],
        "id": None if id_ is None else _keys(data, id_),
        "name": "confidence",
    }


def read_prices(table: pa.Table, price: float | str) -> float | Floats:
    """Return a price above 0, or that of each input (n,) from the column of this name."""
    if isinstance(price, str):
        _check_columns(table, [price])
    values = _numbers(table, price) if isinstance(price, str) else np.array(_arrays.finite(price, "price"))
    bad = values <= 0
    if bad.any():
        where = f" in row {int(np.argmax(bad))} of column {price!r}" if isinstance(price, str) else ""
        raise InputError(
            f"prices must be above 0, got {values[bad].flat[0]:g}{where}: give what is free a price that does not "
            "count, such as a millionth of the highest"
        )
    return values


def read_table(table: Any) -> pa.Table:
    """Return a table, read from a CSV or Parquet file if it is a path. Raises InputError for anything else."""
    if isinstance(table, pa.Table):
        return table
    file = Path(table)
    suffix = file.suffix.lower()
    if not file.is_file():
        raise InputError(f"there is no file {file}")
    if suffix not in (".csv", ".parquet"):
        raise InputError(f"a table is a .csv or .parquet file, got {file}")
    try:
        table = pyarrow.csv.read_csv(file) if suffix == ".csv" else pq.read_table(file)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{file} is not a readable table: {error}") from None
    if suffix == ".csv":
        _check_separator(file, table.column_names)
    return table


def _check_separator(file: Path, names: Sequence[str]) -> None:
    """Raise InputError for one column that reads like several: every later complaint would miss the point."""
    other = next((mark for mark in ";\t|" if len(names) == 1 and mark in names[0]), None)
    if other is not None:
        raise InputError(f"{file} has one column, {names[0]!r}: separate columns by commas, not by {other!r}")


def _check_columns(table: pa.Table, wanted: Sequence[str]) -> None:
    """Raise InputError unless every wanted column is named once, and there once."""
    there = table.column_names
    missing = [name for name in wanted if name not in there]
    if missing:
        raise InputError(f"the table has no column {', '.join(missing)}; it has {', '.join(there) or 'none'}")
    for name in wanted:
        if there.count(name) > 1:
            raise InputError(f"the table has {there.count(name)} columns named {name!r}: rename all but one")
        if wanted.count(name) > 1:
            raise InputError(
                f"the column {name!r} is named twice: confidences, predictions, labels and ids each have their own"
            )
    if table.num_rows == 0:
        raise InputError("the table has no rows")


def _cost(cost: CostModel | ArrayLike, cost_is: str, unit: str, *, n_exits: int) -> CostModel:
    if cost_is not in ("cumulative", "per-call"):
        raise InputError(f"cost_is must be 'cumulative' or 'per-call', got {cost_is!r}")
    if isinstance(cost, CostModel):
        return cost
    prices = _arrays.floats(cost, "cost", ndim=1)
    if len(prices) != n_exits:
        raise InputError(f"give one cost per exit, got {len(prices)} for {counted(n_exits, 'exit')}")
    if cost_is == "cumulative":
        _check_rising(prices)
        return CostModel(prices, unit=unit)
    bad = ~(np.isfinite(prices) & (prices > 0))
    if bad.any():
        exit_ = int(np.argmax(bad))
        raise InputError(f"prices per call must be above 0 and finite, got {prices[exit_]:g} at exit {exit_}")
    return CostModel(np.cumsum(prices), unit=unit, source="price per call")


def _check_rising(prices: Floats) -> None:
    """Raise InputError for costs that fall: most likely they are prices of single calls."""
    falls = np.flatnonzero(np.diff(prices) <= 0)
    if len(falls):
        at = int(falls[0]) + 1
        raise InputError(
            f"costs up to each exit must be strictly increasing, got {prices[at]:g} at exit {at} after "
            f"{prices[at - 1]:g}: if they are prices of single calls, say that they are 'per-call'"
        )


def _check_spelling(
    table: pa.Table, predictions: Sequence[Integers], labels: Integers, prediction: str, label: str
) -> None:
    """Raise InputError where no exit is ever right: the classes are then written in two ways."""
    if any((exit_ == labels).any() for exit_ in predictions):
        return
    said, meant = table[prediction][0].as_py(), table[label][0].as_py()
    raise InputError(
        f"no prediction equals its label in any row (row 0: {prediction!r} is {said!r}, {label!r} is {meant!r}): "
        "write classes alike in both, or name the right column of labels"
    )


def _column(table: pa.Table, name: str) -> pa.Array:
    """Return a column without gaps, plain where it was a dictionary."""
    column = table[name].combine_chunks()
    if isinstance(column, pa.ChunkedArray):  # of no chunks, or too long for one
        column = pa.concat_arrays(column.chunks)
    if column.null_count:
        row = pc.index(column.is_null(), value=True).as_py()
        cells = "1 empty cell" if column.null_count == 1 else f"{column.null_count} empty cells, the first"
        raise InputError(f"column {name!r} has {cells} in row {row} (rows count from 0): drop these inputs")
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column


def _numbers(table: pa.Table, name: str) -> Floats:
    """Return a column of confidences (n,)."""
    column = _column(table, name)
    if not (pa.types.is_floating(column.type) or pa.types.is_integer(column.type)):
        raise InputError(f"column {name!r} must hold numbers, got {_not_a_number(column)}")
    values: Floats = column.to_numpy(zero_copy_only=False).astype(np.float64)
    bad = ~np.isfinite(values)
    if bad.any():
        row = int(np.argmax(bad))
        raise InputError(
            f"column {name!r} must be finite, got {values[row]:g} in row {row} (rows count from 0)"
        )
    return values


def _not_a_number(column: pa.Array) -> str:
    """Say what in a column is no number, with its row if it is a text among numbers."""
    if not pa.types.is_string(column.type):
        return f"{column.type}"
    number = pc.match_substring_regex(column, r"^\s*[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?\s*$")
    row = max(pc.index(number, value=False).as_py(), 0)
    return f"{column[row].as_py()!r} in row {row} (rows count from 0)"


def _keys(table: pa.Table, name: str) -> Keys:
    """Return 64-bit keys (n,): whole numbers as they are, a digest of anything else."""
    column = _column(table, name)
    if pa.types.is_integer(column.type):
        keys: Keys = column.to_numpy(zero_copy_only=False).astype(np.uint64)
        return keys
    digests = [hashlib.blake2b(str(value).encode(), digest_size=8).digest() for value in column.to_pylist()]
    return np.frombuffer(b"".join(digests), dtype=np.uint64)
