"""Files of predictions: Parquet, CSV or JSON lines, by the ending of their name."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import pyarrow as pa
import pyarrow.parquet as pq

from exeunt._files import atomic_path, check_writable
from exeunt._places import AnyPath
from exeunt.errors import InputError
from exeunt.predicting.columns import COLUMNS, Cells

__all__ = ["arrow_table", "check_out", "csv_lines", "read_cells", "write_predictions"]

_PARQUET = ("", ".parquet", ".pq")
_ENDINGS = (*_PARQUET, ".csv", ".jsonl")


def check_out(out: Path, *, force: bool) -> None:
    """Raise InputError, before anything is computed, if `out` cannot be written, or holds something else.

    Earlier predictions may be replaced, and an empty file. `force`: so may any other file.
    """
    if out.is_dir():
        raise InputError(f"cannot write {out}: it is a folder; name a file, such as {out}/answers.parquet")
    if out.suffix.lower() not in _ENDINGS:
        raise InputError(
            f"predictions are written as .parquet, .csv or .jsonl: name a file such as {out.stem}.parquet, got {out}"
        )
    check_writable(out.parent, f"cannot write {out}")
    if out.exists() and not out.is_file():
        raise InputError(f"cannot write {out}: it is not a file; use `--out -` to print")
    if out.exists() and not force and not _holds_predictions(out):
        raise InputError(
            f"{out} exists and does not hold predictions: name another file, or replace it with --force"
        )


def write_predictions(out: Path, types: Mapping[str, str], parts: Sequence[AnyPath]) -> None:
    """Write the rows of Parquet files, one file after the other, to `out`."""
    with atomic_path(out) as temporary:
        if out.suffix.lower() in _PARQUET:
            with pq.ParquetWriter(temporary, _schema(types)) as writer:
                for part in parts:
                    writer.write_table(pq.read_table(part).replace_schema_metadata(None))
            return
        with temporary.open("w", encoding="utf-8", newline="") as file:
            lines = csv_lines if out.suffix.lower() == ".csv" else _json_lines
            for line in lines(types, (read_cells(part, types) for part in parts)):
                file.write(line)


def arrow_table(types: Mapping[str, str], cells: Cells) -> Any:
    """Return cells as an Arrow table."""
    return pa.Table.from_pydict(cells, schema=_schema(types))


def read_cells(file: AnyPath, names: Iterable[str]) -> Cells:
    """Return the cells of these columns of a Parquet file."""
    cells: Cells = pq.read_table(file, columns=list(names)).to_pydict()
    return cells


def csv_lines(types: Mapping[str, str], tables: Iterable[Cells]) -> Iterator[str]:
    """Yield the names of the columns, once there is a table, then the rows of the tables, as lines of CSV."""
    echo: Any = _Echo()  # whose `write` returns the line that the writer made
    writer = csv.writer(echo, lineterminator="\n")
    for number, cells in enumerate(tables):
        if number == 0:
            yield writer.writerow(types)
        for row in zip(*(cells[name] for name in types), strict=True):
            yield writer.writerow(row)


class _Echo:
    def write(self, line: str) -> str:
        return line


def _json_lines(types: Mapping[str, str], tables: Iterable[Cells]) -> Iterator[str]:
    for cells in tables:
        for row in zip(*(cells[name] for name in types), strict=True):
            yield json.dumps(dict(zip(types, row, strict=True)), ensure_ascii=False, allow_nan=False) + "\n"


def _schema(types: Mapping[str, str]) -> Any:
    return pa.schema([(name, pa.type_for_alias(kind)) for name, kind in types.items()])


def _holds_predictions(path: Path) -> bool:
    """Return whether a file is empty, or has the columns that all predictions have."""
    if path.stat().st_size == 0:
        return True
    try:
        return _column_names(path)[: len(COLUMNS)] == list(COLUMNS)
    except (pa.ArrowException, OSError, ValueError, TypeError, StopIteration):  # it is of another format
        return False


def _column_names(path: Path) -> list[str]:
    if path.suffix.lower() in _PARQUET:
        return list(pq.read_schema(path).names)
    with path.open(encoding="utf-8", newline="") as file:
        first: TextIO | Any = file
        return next(csv.reader(first)) if path.suffix.lower() == ".csv" else list(json.loads(next(first)))
