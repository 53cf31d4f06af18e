"""Reading CSV files as spreadsheets and other programs write them."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.csv

from exeunt._support.paths import AnyPath, open_arrow
from exeunt.errors import InputError

_HEAD = 1 << 16  # bytes that are looked at
_Rows: TypeAlias = Sequence[Sequence[str]]


def read_csv(
    file: AnyPath,
    *,
    delimiter: str | None = None,
    encoding: str | None = None,
    decimal: str | None = None,
    **options: Any,
) -> pa.Table:
    """Read a table. The first lines tell delimiter, encoding and decimal point, as far as they are not given.

    `options`: of `pyarrow.csv.ConvertOptions`. Raises InputError if the first lines can be read in two ways, and what
    `pyarrow.csv.read_csv` and `codecs` raise.
    """
    if any(len(mark.encode()) != 1 for mark in (delimiter, decimal) if mark is not None):
        raise InputError(
            f"--delimiter and --decimal are one ASCII character each, got {delimiter!r} and {decimal!r}; tabs are read "
            "from a .tsv file"
        )
    with open_arrow(file) as opened:
        head = opened.read(_HEAD)
    encoding = encoding or text_encoding(head)
    text = head.decode(encoding, errors="replace").replace("\0", "")

    def rows(mark: str) -> _Rows:
        """Return the first rows, without empty ones, and without one that is cut off."""
        lines = [row for row in csv.reader(io.StringIO(text, newline=""), delimiter=mark) if row]
        return lines[:-1] if len(head) == _HEAD and len(lines) > 1 else lines

    delimiter = delimiter or ("\t" if file.suffix.lower() == ".tsv" else _delimiter(rows, file))
    # With one thread errors name the row.
    with open_arrow(file) as opened:
        return pyarrow.csv.read_csv(
            opened,
            read_options=pyarrow.csv.ReadOptions(use_threads=False, encoding=encoding),
            parse_options=pyarrow.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
            convert_options=pyarrow.csv.ConvertOptions(
                decimal_point=decimal or _decimal_point(rows(delimiter)), **options
            ),
        )


def text_encoding(head: bytes) -> str:
    """Return the encoding of a file by its first bytes: UTF-16, with a byte order mark or without, else UTF-8."""
    if head[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        return "utf-16"
    if b"\0" in head[:2]:
        return "utf-16-be" if head[:1] == b"\0" else "utf-16-le"
    return "utf-8"


def _delimiter(rows: Callable[[str], _Rows], file: AnyPath) -> str:
    """Return the mark that divides the header, and all rows alike; a comma where nothing divides it."""
    widths = {mark: [len(row) for row in rows(mark)] for mark in ",;\t|"}
    dividing = [mark for mark, width in widths.items() if width and width[0] > 1]
    alike = [mark for mark in dividing if len({*widths[mark]}) == 1]
    likely = alike or dividing or [","]
    if len(likely) > 1:
        raise InputError(
            f"the columns of {file} may be separated by {' or '.join(map(repr, likely))}: separate them by tabs in a "
            ".tsv file, or name the mark with --delimiter, where the command has it"
        )
    return likely[0]


def _decimal_point(rows: _Rows) -> str:
    """Return "," if there are numbers such as 0,93, and none such as 0.93; 1,234 may be either."""
    cells = [cell.strip() for row in rows[1:] for cell in row]
    numbers = [cell for cell in cells if re.fullmatch(r"[-+]?\d*[.,]\d+", cell)]
    clear = [number for number in numbers if not re.fullmatch(r"[-+]?[1-9]\d{0,2},\d{3}", number)]
    return "," if clear and "." not in "".join(numbers) else "."
