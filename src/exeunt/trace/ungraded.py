"""Rows of a table in which an answer has no grade, or that have no label, and what may become of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy.stats import ks_2samp

from exeunt._support.arrays import Booleans
from exeunt._support.text import counted, listed
from exeunt.errors import InputError
from exeunt.trace.table_columns import check_columns

_SURE = 0.01
"""Rows are said to differ where the smallest p-value, times the number of columns, is below this."""


def ungraded_rows(table: pa.Table, names: Sequence[str]) -> Booleans:
    """Return the rows (n,) in which one of these columns is empty.

    Raises InputError if that is so in all rows, and for columns that are missing.
    """
    check_columns(table, names)
    empty = np.array([_empty(table, name) for name in names])
    if table.num_rows and empty.any(axis=0).all():
        always = [name for name, cells in zip(names, empty, strict=True) if cells.all()]
        what = f"column {always[0]!r}" if always else f"one of {', '.join(names)}"
        raise InputError(f"no row can be used, because {what} is empty in every row: name the right columns")
    rows: Booleans = np.logical_or.reduce(empty)
    return rows


def _empty(table: pa.Table, name: str) -> Booleans:
    column = table[name]
    missing = column.is_null(nan_is_null=True)
    if pa.types.is_string(column.type):
        missing = pc.or_kleene(missing, pc.equal(pc.utf8_trim_whitespace(column), ""))
    return np.asarray(missing.to_numpy(zero_copy_only=False), dtype=bool)


def difference(table: pa.Table, rows: Booleans, names: Sequence[str]) -> str:
    """Return in a sentence whether some rows differ from the others in these columns of numbers.

    Each column is tested by the two-sample test of Kolmogorov and Smirnov (`scipy.stats.ks_2samp`), and the smallest
    p-value counts as often as there are columns (Bonferroni).
    """
    tested: dict[str, float] = {}
    for name in names:
        numbers = table[name].to_numpy().astype(np.float64)
        known = np.isfinite(numbers)
        if (known & rows).any() and (known & ~rows).any():
            tested[name] = float(ks_2samp(numbers[known & rows], numbers[known & ~rows]).pvalue) * len(names)
    if not tested:
        return "nothing is known by which they could be compared with the others"
    different = [name for name, p in tested.items() if p < _SURE]
    smallest = min(1.0, *tested.values())
    if different:
        return f"they differ from the others in {listed(different, 3)} (p = {smallest:.2g})"
    columns = f"{counted(len(tested), 'column')} of scores and prices"
    return f"no difference from the others shows in {columns} (p = {smallest:.2g})"


def worst_grades(table: pa.Table, losses: Mapping[str, str], *, better: str, reference: str) -> pa.Table:
    """Return the table with the worst grades there can be in place of missing ones.

    `losses`: by model, its column. The worst for a loss against the model `reference`: its own answer was perfect, and
    that of every other model worthless.
    """
    good, bad = (1.0, 0.0) if better == "higher" else (0.0, 1.0)
    for model, name in losses.items():
        filled = pc.if_else(pa.array(_empty(table, name)), good if model == reference else bad, table[name])
        table = table.set_column(table.column_names.index(name), name, filled)
    return table
