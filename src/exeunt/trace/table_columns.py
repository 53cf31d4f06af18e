"""Columns of tables of other origin, with a confidence and a prediction per exit: for `from_table` of the traces."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypedDict, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import ArrayLike, NDArray

from exeunt._support import arrays
from exeunt._support.arrays import Booleans, Floats
from exeunt._support.csv_text import read_csv
from exeunt._support.text import counted, did_you_mean
from exeunt.costs.cost_model import CostModel
from exeunt.errors import InputError
from exeunt.trace.class_codes import check_filled, class_codes, column_texts
from exeunt.trace.grades import Better, check_range
from exeunt.trace.groups import Groups

_PERCENT = r"^\s*-?\d+(\.\d+|,\d{1,2})?\s*%\s*$"  # 12,345% may be twelve or twelve thousand

_NO_ANSWER = (
    "drop these inputs, or say that no answer was given there (empty_is_no_answer, --empty-is-no-answer)"
)

CostIs: TypeAlias = Literal["cumulative", "per-call"]


class TableColumns(TypedDict, total=False):
    """What the columns of a table with a row per input mean.

    `confidence`, `prediction`, `loss`: a column per exit, in order, or a pattern such as "conf_{}" with {} for the
    exit's number; of models, with {} for the model's name. `loss` takes the place of `label` where answers are graded;
    `better`, `measure`, and what may be left out are as in `ExitTrace.from_losses`. `empty_is_no_answer`: where a cell
    of an exit is empty, it gave no answer. `label`, `id`, `groups`: a column each. `rows_per_group`: see `Groups`.

    `classes`: names or numbers, alike in all columns, in the order of their numbers; by default in order of the labels'
    text. A policy needs the same numbers on other tables. A prediction that is no label is always wrong.
    """

    confidence: str | Sequence[str] | None
    prediction: str | Sequence[str] | None
    label: str | None
    loss: str | Sequence[str] | None
    better: Better
    measure: str
    empty_is_no_answer: bool
    id: str | None
    groups: str | None
    rows_per_group: int
    classes: Sequence[Any] | None


def class_names(table: pa.Table, columns: TableColumns) -> list[str]:
    """Return the classes of a table's labels, or without labels of its predictions, in order of their text."""
    label, predictions = columns.get("label"), columns.get("prediction") or ()
    named = {name: table[name].drop_null() for name in ([*predictions] if label is None else [label])}
    return sorted(
        set().union(*(column_texts(column.unique(), name).tolist() for name, column in named.items()))
    )


def read_columns(table: Any, columns: TableColumns) -> dict[str, Any]:
    """Return the arguments of `ExitTrace.from_losses`, or with labels of `from_scores`, but for the cost.

    Raises InputError for columns that are missing, named twice, or hold gaps, text for numbers, or infinity.
    """
    if unknown := columns.keys() - TableColumns.__annotations__.keys():
        raise TypeError(
            f"there is no {unknown.pop()!r}: a table has {', '.join(TableColumns.__annotations__)}"
        )
    label, groups, rows_per_group = (
        columns.get("label"),
        columns.get("groups"),
        columns.get("rows_per_group", 1),
    )
    per_exit = {role: columns.get(role) for role in ("confidence", "prediction", "loss")}
    column_names: dict[str, Any] = {role: names for role, names in per_exit.items() if names is not None}
    single = {"label": label, "id": columns.get("id"), "groups": groups}
    _check_roles(column_names, single, rows_per_group)
    data = read_table(table)
    columns_of = dict(
        zip(column_names, exit_columns(list(column_names.values()), data.column_names), strict=True)
    )
    m = len(next(iter(columns_of.values())))
    _check_as_many(columns_of)
    check_columns(
        data,
        [*(name for names in columns_of.values() for name in names), *filter(None, single.values())],
    )
    empty = np.zeros((data.num_rows, m), dtype=bool)
    columns_of_exits = partial(
        _of_exits, data, columns_of, empty if columns.get("empty_is_no_answer") else None
    )
    named = dict(zip(columns_of.get("prediction", []), columns_of_exits("prediction", _column), strict=True))
    if label is not None:
        named[label] = _column(data, label)
    codes = class_codes(named, labelled=label is not None, classes=columns.get("classes")) if named else []
    if label is not None and not any((codes[exit_] == codes[m]).any() for exit_ in range(m)):
        raise InputError(_never_right(data, columns_of["prediction"][-1], label))
    numbers = {role: columns_of_exits(role, _numbers) for role in columns_of if role != "prediction"}
    fields: dict[str, Any] = {
        "score": np.stack(numbers["confidence"], axis=1) if "confidence" in numbers else None,
        "prediction": np.stack(codes[:m], axis=1) if "prediction" in columns_of else None,
        "no_answer": empty,
        "id": None if single["id"] is None else _ids(data, single["id"]),
        "groups": None if groups is None else Groups(_ids(data, groups), rows_per_group),
        "name": "confidence",
    }
    if "loss" not in numbers:
        return {**fields, "label": None if label is None else codes[m]}
    values, better = np.stack(numbers["loss"], axis=1), columns.get("better", "lower")
    role = "losses" if better == "lower" else "qualities"
    check_range(np.where(empty, 0.0, values), role, columns_of["loss"])
    return {**fields, "loss": values, "better": better, "measure": columns.get("measure", "quality")}


def _check_roles(of_exits: Mapping[str, Any], single: Mapping[str, Any], rows_per_group: int) -> None:
    """Raise InputError unless the columns that are named say how good answers are, in one way, and groups are named."""
    if "loss" not in of_exits and not {"confidence", "prediction"} <= of_exits.keys():
        raise InputError(
            "name the columns of confidences and predictions, or those of losses where answers are graded"
        )
    if "loss" in of_exits and single["label"] is not None:
        raise InputError(
            "answers are graded, or right or wrong by labels: name columns of losses or of labels, not both"
        )
    for role, name in single.items():
        if not isinstance(name, str | None):
            raise InputError(f"{role} must name a column of the table, got {type(name).__name__}")
    if rows_per_group != 1 and single["groups"] is None:
        raise InputError("rows_per_group is about groups: name their column with groups=...")


def _check_as_many(columns_of: Mapping[str, Sequence[str]]) -> None:
    """Raise InputError unless each kind, such as confidences, has as many columns, one per exit."""
    if len({len(names) for names in columns_of.values()}) > 1 or not all(columns_of.values()):
        raise InputError(
            f"give one {' and one '.join(columns_of)} column per exit, got "
            f"{' and '.join(str(len(names)) for names in columns_of.values())}: "
            f"{'; '.join(', '.join(names) or 'none' for names in columns_of.values())}"
        )


def _never_right(data: pa.Table, prediction: str, label: str) -> str:
    """Say that no prediction equals its label, with both of the first row."""
    predicted, meant = data[prediction][0].as_py(), data[label][0].as_py()
    return (
        f"no prediction equals its label in any row (row 0: {prediction!r} is {predicted!r}, {label!r} is {meant!r}): "
        "write classes alike in both, or name the right column of labels"
    )


def _of_exits(
    data: pa.Table,
    columns: Mapping[str, Sequence[str]],
    empty: Booleans | None,
    role: str,
    read: Callable[..., Any],
) -> list[Any]:
    """Return the columns of one kind. `empty` (n, m): set to True where cells are empty, if they may be."""
    return [
        read(data, name, remedy=_NO_ANSWER, empty=None if empty is None else empty[:, exit_])
        for exit_, name in enumerate(columns.get(role, []))
    ]


def read_prices(table: pa.Table, price: float | str) -> float | Floats:
    """Return a price above 0, or the column of this name with the price of each input (n,)."""
    if isinstance(price, str):
        check_columns(table, [price])
    values = _numbers(table, price) if isinstance(price, str) else np.array(arrays.finite(price, "price"))
    if (bad := values <= 0).any():
        where = (
            f" in row {int(np.argmax(bad))} of column {price!r} (rows count from 0)"
            if isinstance(price, str)
            else ""
        )
        mend = "mend it" if values[bad].flat[0] < 0 else "a millionth of the highest price does not count"
        raise InputError(f"prices must be above 0, got {values[bad].flat[0]:g}{where}: {mend}")
    return values


def model_costs(
    table: pa.Table,
    price: Mapping[str, float | str],
    highest: Mapping[str, float],
    unit: str,
    price_per: float,
) -> dict[str, CostModel]:
    """Return the costs of an answer of each model, see `CascadeTrace.from_table`."""
    arrays.check_positive(price_per, "price_per")
    if unknown := {name for name in highest if not isinstance(price.get(name), str)}:
        raise InputError(f"highest is of prices that are columns of the table, but names {sorted(unknown)}")
    return {
        name: CostModel(
            np.asarray(read_prices(table, column) / price_per)[..., None],
            unit=unit,
            source="price per call",
            highest=highest[name] / price_per if name in highest else None,
        )
        for name, column in price.items()
    }


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
    prices = arrays.floats(cost, "cost", ndim=1)
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


def exit_columns(kinds: Sequence[str | Sequence[str]], there: Sequence[str]) -> list[list[str]]:
    """Return the columns of each kind, such as confidences, in the order of the exits: listed, or named by a pattern.

    Raises InputError for patterns that number the exits differently: each pair would mix two exits.
    """
    patterns = [text for text in kinds if isinstance(text, str) and "{}" in text]
    numbers = {pattern: ", ".join(map(str, _numbered(pattern, there))) for pattern in patterns}
    if len(set(numbers.values())) > 1:
        raise InputError(
            " and ".join(f"the columns {pattern} are numbered {those}" for pattern, those in numbers.items())
            + ": rename them, or list them in the order of the exits"
        )
    return [matching_columns(names, there) if isinstance(names, str) else list(names) for names in kinds]


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
    return f"the table has no column {name}{suffix}{did_you_mean(name, there)}; it has {', '.join(there) or 'none'}"


def _numbered(pattern: str, there: Sequence[str]) -> dict[int, str]:
    """Return the columns of a pattern by their numbers, in order."""
    numbered = re.compile(re.escape(pattern).replace(re.escape("{}"), r"(\d+)"))
    matches = [match for name in there if (match := numbered.fullmatch(name))]
    by_number = {int(match[1]): match[0] for match in matches}
    if not by_number:
        raise InputError(_has_no_column(pattern, there, " with a number for {}"))
    if len(by_number) < len(matches):
        raise InputError(
            f"two columns {pattern} have the same number: {', '.join(match[0] for match in matches)}; list them "
            "one by one"
        )
    return dict(sorted(by_number.items()))


def read_features(table: pa.Table, names: Sequence[str]) -> Floats:
    """Return features (n, d) of columns of numbers, or of lists of numbers, side by side.

    Raises InputError for columns that are missing, or hold something else, gaps, or lists of several lengths.
    """
    check_columns(table, names)
    return np.hstack([_feature(table, name) for name in names])


def _feature(table: pa.Table, name: str) -> Floats:
    column = _column(table, name)
    if not (pa.types.is_list(column.type) or pa.types.is_fixed_size_list(column.type)):
        return _numbers(table, name)[:, None]
    values, lengths = column.flatten(), pc.list_value_length(column)
    if len(pc.unique(lengths)) != 1 or values.null_count or not _is_number(values.type):
        raise InputError(
            f"column {name!r} must hold lists of equally many numbers, got {column.type} of other lengths"
        )
    return np.asarray(values.to_numpy(zero_copy_only=False), dtype=np.float64).reshape(len(column), -1)


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_floating(kind) or pa.types.is_integer(kind))


def of_models(columns: TableColumns, names: Sequence[str]) -> TableColumns:
    """Return the columns of these models: patterns with {} in place of a model's name become lists."""
    if other := [name for name in names if not isinstance(name, str)]:
        raise InputError(f"models are named by texts, got {other[0]!r}: write {str(other[0])!r}")
    listed = dict(columns)
    for role in ("confidence", "prediction", "loss"):
        if (pattern := columns.get(role)) is None:
            continue
        if not isinstance(pattern, str) or "{}" not in pattern:
            raise InputError(f"{role} must hold {{}} in place of a model's name, got {pattern!r}")
        listed[role] = [pattern.replace("{}", name) for name in names]
    return cast(TableColumns, listed)


def check_columns(table: pa.Table, wanted: Sequence[str]) -> None:
    """Raise InputError unless the table has rows, and each wanted column once, wanted for one purpose."""
    there = table.column_names
    if missing := [name for name in wanted if name not in there]:
        raise InputError(_has_no_column(", ".join(missing), there))
    for name in wanted:
        if there.count(name) > 1:
            raise InputError(f"the table has {there.count(name)} columns named {name!r}: rename all but one")
        if wanted.count(name) > 1:
            raise InputError(
                f"the column {name!r} is named twice: confidences, predictions, losses, labels, ids and groups each "
                "have their own"
            )
    if table.num_rows == 0:
        raise InputError("the table has no rows")


def _column(
    table: pa.Table, name: str, *, empty: Booleans | None = None, remedy: str = "drop these inputs"
) -> pa.Array:
    """Return a column, decoded if it is a dictionary. Raises InputError for empty cells, with a remedy.

    With `empty` (n,) they are allowed: it is set to True there, and the column has its first value there.
    """
    column = table[name].combine_chunks()
    if isinstance(column, pa.ChunkedArray):  # of no chunks, or too long for one
        column = pa.concat_arrays(column.chunks)
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    missing = column.is_null(nan_is_null=empty is not None).to_numpy(zero_copy_only=False)
    if empty is None:
        check_filled(~missing, name, remedy)
        return column
    if pa.types.is_string(column.type):
        blank = pc.equal(pc.utf8_trim_whitespace(column), "")
        missing = missing | pc.fill_null(blank, False).to_numpy(zero_copy_only=False)
    if missing.all():
        raise InputError(f"column {name!r} is empty in all rows: leave out this exit")
    empty |= missing
    return pc.if_else(pa.array(missing), column[int(np.argmin(missing))], column)


def _numbers(table: pa.Table, name: str, **about_gaps: Any) -> Floats:
    """Return a column of finite numbers (n,), also percentages. Raises InputError, naming the row, for others.

    `about_gaps`: as for `_column`.
    """
    column = _column(table, name, **about_gaps)
    if pa.types.is_string(column.type) and pc.all(pc.match_substring_regex(column, _PERCENT)).as_py():
        digits = pc.replace_substring(pc.replace_substring_regex(column, r"[%\s]", ""), ",", ".")
        column = pc.divide(digits.cast(pa.float64()), 100.0)
    if not _is_number(column.type):
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
    texts = np.array([str(key) for key in column.to_pylist()])
    check_filled(texts != "", name)
    return texts
