"""Tables of other origin, with a confidence and a prediction per exit, read for `from_table` of the traces."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import ArrayLike, NDArray

from exeunt import _arrays
from exeunt._arrays import Floats
from exeunt._csv import read_csv
from exeunt._text import counted
from exeunt.costs import CostModel
from exeunt.errors import InputError
from exeunt.trace.class_codes import check_filled, class_codes
from exeunt.trace.groups import Groups

_PERCENT = r"^\s*-?\d+(\.\d+|,\d{1,2})?\s*%\s*$"  # 12,345% may be twelve or twelve thousand

CostIs: TypeAlias = Literal["cumulative", "per-call"]


def read_columns(
    table: Any,
    *,
    confidence: str | Sequence[str],
    prediction: str | Sequence[str],
    label: str | None,
    id_: str | None,
    classes: Sequence[Any] | None,
    groups: str | None = None,
    rows_per_group: int = 1,
) -> dict[str, Any]:
    """Return the arguments of `ExitTrace.from_scores` but for the cost (see `ExitTrace.from_table`)."""
    for what, given in {"label": label, "id": id_, "groups": groups}.items():
        if not isinstance(given, str | None):
            raise InputError(f"{what} must name a column of the table, got {type(given).__name__}")
    if rows_per_group != 1 and groups is None:
        raise InputError("rows_per_group is about groups: name their column with groups=...")
    data = read_table(table)
    confidences, predictions = exit_columns(confidence, prediction, data.column_names)
    if not confidences or len(confidences) != len(predictions):
        raise InputError(
            f"give one confidence and one prediction column per exit, got {len(confidences)} and "
            f"{len(predictions)}: {', '.join(confidences) or 'none'}; {', '.join(predictions) or 'none'}"
        )
    _check_columns(
        data, [*confidences, *predictions, *(name for name in (label, id_, groups) if name is not None)]
    )
    named = {name: _column(data, name) for name in (*predictions, *([] if label is None else [label]))}
    codes = class_codes(named, labelled=label is not None, classes=classes)
    m = len(predictions)
    if label is not None and not any((codes[exit_] == codes[m]).any() for exit_ in range(m)):
        predicted, meant = data[predictions[-1]][0].as_py(), data[label][0].as_py()
        raise InputError(
            f"no prediction equals its label in any row (row 0: {predictions[-1]!r} is {predicted!r}, {label!r} is "
            f"{meant!r}): write classes alike in both, or name the right column of labels"
        )
    return {
        "score": np.stack([_numbers(data, name) for name in confidences], axis=1),
        "prediction": np.stack(codes[:m], axis=1),
        "label": None if label is None else codes[m],
        "id": None if id_ is None else _ids(data, id_),
        "groups": None if groups is None else Groups(_ids(data, groups), rows_per_group),
        "name": "confidence",
    }


def read_prices(table: pa.Table, price: float | str) -> float | Floats:
    """Return a price above 0, or the column of this name with the price of each input (n,)."""
    if isinstance(price, str):
        _check_columns(table, [price])
    values = _numbers(table, price) if isinstance(price, str) else np.array(_arrays.finite(price, "price"))
    if (bad := values <= 0).any():
        where = f" in row {int(np.argmax(bad))} of column {price!r}" if isinstance(price, str) else ""
        raise InputError(
            f"prices must be above 0, got {values[bad].flat[0]:g}{where}: give what is free a price that does not "
            "count, such as a millionth of the highest"
        )
    return values


def read_table(table: Any, **format_: str | None) -> pa.Table:
    """Return a table, read from a CSV or Parquet file if it is a path. Raises InputError for anything else.

    `format_`: of CSV, see `read_csv`.
    """
    if isinstance(table, pa.Table):
        return table
    file = Path(table)
    suffix = file.suffix.lower()
    if not file.is_file():
        raise InputError(f"there is no file {file}")
    if suffix not in (".csv", ".tsv", ".txt", ".parquet"):
        raise InputError(f"a table is a .csv, .tsv, .txt or .parquet file, got {file}")
    try:
        if suffix == ".parquet":
            return pq.read_table(file, page_checksum_verification=True)
        return read_csv(file, **format_)
    except (pa.ArrowException, OSError, LookupError, UnicodeError) as error:
        raise InputError(f"{file} is not a readable table: {error}") from None


def table_cost(cost: CostModel | ArrayLike, cost_is: str, unit: str, *, n_exits: int) -> CostModel:
    """Return the costs of a table's exits: a CostModel unchanged, or one of cumulative costs or prices per call."""
    if cost_is not in ("cumulative", "per-call"):
        raise InputError(f"cost_is must be 'cumulative' or 'per-call', got {cost_is!r}")
    if isinstance(cost, CostModel):
        return cost
    prices = _arrays.floats(cost, "cost", ndim=1)
    if len(prices) != n_exits:
        raise InputError(f"give one cost per exit, got {len(prices)} for {counted(n_exits, 'exit')}")
    if cost_is == "cumulative":
        if len(falls := np.flatnonzero(np.diff(prices) <= 0) + 1):
            raise InputError(
                f"costs up to each exit must be strictly increasing, got {prices[falls[0]]:g} at exit {falls[0]} after "
                f"{prices[falls[0] - 1]:g}: if they are prices of single calls, say that they are 'per-call'"
            )
        return CostModel(prices, unit=unit)
    if len(bad := np.flatnonzero(~(np.isfinite(prices) & (prices > 0)))):
        raise InputError(
            f"prices per call must be above 0 and finite, got {prices[bad[0]]:g} at exit {bad[0]}"
        )
    return CostModel(np.cumsum(prices), unit=unit, source="price per call")


def exit_columns(
    confidence: str | Sequence[str], prediction: str | Sequence[str], there: Sequence[str]
) -> tuple[list[str], list[str]]:
    """Return the columns of confidences and of predictions, in the order of the exits: listed, or named by patterns.

    Raises InputError for patterns that number the exits differently: each pair would mix two exits.
    """
    patterns = [text for text in (confidence, prediction) if isinstance(text, str) and "{}" in text]
    numbers = [", ".join(map(str, _numbered(pattern, there))) for pattern in patterns]
    if len(set(numbers)) > 1:
        raise InputError(
            f"the columns {confidence} are numbered {numbers[0]} and the columns {prediction} are numbered "
            f"{numbers[1]}: rename them, or list them in the order of the exits"
        )
    confidences, predictions = (
        matching_columns(names, there) if isinstance(names, str) else list(names)
        for names in (confidence, prediction)
    )
    return confidences, predictions


def matching_columns(pattern: str, there: Sequence[str]) -> list[str]:
    """Return the columns that a text names: a list "a,b", or all numbered columns "conf_{}" by their numbers.

    Raises InputError for a listed column that is missing, or a pattern without a column.
    """
    if "{}" in pattern:
        return list(_numbered(pattern, there).values())
    listed = [name.strip() for name in pattern.split(",")]
    if missing := [name for name in listed if name not in there]:
        hint = " (a pattern has {} in place of the exit's number: conf_{})"
        raise InputError(_has_no_column(", ".join(missing), there) + hint)
    return listed


def _has_no_column(name: str, there: Sequence[str], suffix: str = "") -> str:
    return f"the table has no column {name}{suffix}; it has {', '.join(there) or 'none'}"


def _numbered(pattern: str, there: Sequence[str]) -> dict[int, str]:
    """Return the columns of a pattern by their numbers, in order."""
    numbered = re.compile(re.escape(pattern).replace(re.escape("{}"), r"(\d+)"))
    matches = [match for name in there if (match := numbered.fullmatch(name))]
    found = {int(match[1]): match[0] for match in matches}
    if not found:
        raise InputError(_has_no_column(pattern, there, " with a number for {}"))
    if len(found) < len(matches):
        raise InputError(
            f"two columns {pattern} have the same number: {', '.join(match[0] for match in matches)}; list them "
            "one by one"
        )
    return dict(sorted(found.items()))


def model_columns(pattern: str, names: Sequence[str], what: str) -> list[str]:
    """Return the columns of models, from a pattern with {} in place of a model's name. `what`: for messages."""
    if "{}" not in pattern:
        raise InputError(f"{what} must hold {{}} in place of a model's name, got {pattern!r}")
    if other := [name for name in names if not isinstance(name, str)]:
        raise InputError(f"models are named by texts, got {other[0]!r}: write {str(other[0])!r}")
    return [pattern.replace("{}", name) for name in names]


def _check_columns(table: pa.Table, wanted: Sequence[str]) -> None:
    """Raise InputError unless the table has rows, and each wanted column once, wanted for one purpose."""
    there = table.column_names
    if missing := [name for name in wanted if name not in there]:
        raise InputError(_has_no_column(", ".join(missing), there))
    for name in wanted:
        if there.count(name) > 1:
            raise InputError(f"the table has {there.count(name)} columns named {name!r}: rename all but one")
        if wanted.count(name) > 1:
            raise InputError(
                f"the column {name!r} is named twice: confidences, predictions, labels, ids and groups each have "
                "their own"
            )
    if table.num_rows == 0:
        raise InputError("the table has no rows")


def _column(table: pa.Table, name: str) -> pa.Array:
    """Return a column, decoded if it is a dictionary. Raises InputError for empty cells."""
    column = table[name].combine_chunks()
    if isinstance(column, pa.ChunkedArray):  # of no chunks, or too long for one
        column = pa.concat_arrays(column.chunks)
    if column.null_count:
        check_filled(column.is_valid().to_numpy(zero_copy_only=False), name)
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column


def _numbers(table: pa.Table, name: str) -> Floats:
    """Return a column of finite numbers (n,), also percentages. Raises InputError, naming the row, for others."""
    column = _column(table, name)
    if pa.types.is_string(column.type) and pc.all(pc.match_substring_regex(column, _PERCENT)).as_py():
        digits = pc.replace_substring(pc.replace_substring_regex(column, r"[%\s]", ""), ",", ".")
        column = pc.divide(digits.cast(pa.float64()), 100.0)
    if not (pa.types.is_floating(column.type) or pa.types.is_integer(column.type)):
        raise InputError(f"column {name!r} must hold numbers, got {_not_a_number(column)}")
    values: Floats = column.to_numpy(zero_copy_only=False).astype(np.float64)
    if len(bad := np.flatnonzero(~np.isfinite(values))):
        raise InputError(
            f"column {name!r} must be finite, got {values[bad[0]]:g} in row {bad[0]} (rows count from 0)"
        )
    return values


def _not_a_number(column: pa.Array) -> str:
    """Describe what in a column is no number: a text with its row, else the column's type."""
    if not pa.types.is_string(column.type):
        return f"{column.type}"
    number = pc.match_substring_regex(column, r"^\s*[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?\s*$")
    row = max(pc.index(number, value=False).as_py(), 0)
    cell = column[row].as_py()
    hint = ": if the comma is a decimal point, add --decimal ," if re.search(r"\d,\d", cell) else ""
    return f"{cell!r} in row {row} (rows count from 0){hint}"


def _ids(table: pa.Table, name: str) -> NDArray[Any]:
    """Return ids (n,): integers unchanged, anything else as texts."""
    column = _column(table, name)
    if pa.types.is_integer(column.type):
        return np.asarray(column.to_numpy(zero_copy_only=False).astype(np.uint64))
    texts = np.array([str(value) for value in column.to_pylist()])
    check_filled(texts != "", name)
    return texts
