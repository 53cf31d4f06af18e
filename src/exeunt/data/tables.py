"""Reading tables of images or texts: Parquet in the Hugging Face schema, CSV, TSV, JSON lines; and lines of text."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from exeunt._support.csv_text import read_csv, text_encoding
from exeunt._support.files import parse_json
from exeunt._support.paths import AnyPath, open_arrow, read_bytes
from exeunt._support.text import counted
from exeunt.data.columns import Columns, Found, ParquetColumn, check_names, find_columns
from exeunt.data.source import RawData, RawParts, find_parts
from exeunt.data.stored_inputs import BadCell, KeptColumn, StoredTexts, TableColumn, row_names
from exeunt.errors import ArtefactError, InputError

_NOT_UTF_8 = BadCell("it is not UTF-8")
TABLE_SUFFIXES = (".parquet", ".csv", ".tsv", ".jsonl", ".json")


def read_table_folder(folder: AnyPath, columns: Columns) -> RawParts | None:
    """Return the data of the tables in `folder` named `train`, `test` and the like; None without such tables.

    If the test table hides its labels, a validation table with labels is the test data. Otherwise it is the validation
    data.
    """
    parts = find_parts(
        lambda stem: read_table(files, columns) if (files := table_files(folder, stem)) else None,
        validation=not columns.to_predict,
    )
    return parts if any(parts) else None


def table_files(folder: AnyPath, stem: str) -> list[AnyPath]:
    """Return `STEM.SUFFIX`, or the shards `STEM-*.SUFFIX`, in `folder` or in `folder/data`."""
    for place in (folder, folder / "data"):
        for suffix in TABLE_SUFFIXES:
            single = place / f"{stem}{suffix}"
            files: list[AnyPath] = (
                [single] if single.is_file() else sorted(place.glob(f"{stem}-*{suffix}"), key=str)
            )
            if files:
                return files
    return []


def read_table(files: Sequence[AnyPath], columns: Columns) -> RawData:
    """Return the inputs and labels of one table in one or several files of one format."""
    try:
        if files[0].suffix == ".parquet":
            return _read_parquet(files, columns)
        if files[0].suffix in {".csv", ".tsv"}:
            tables = [_read_csv(file, columns.possible_texts) for file in files]
            names = row_names([file.name for file in files], [len(table) for table in tables])
            table = _joined(tables, files, columns)
            plain = replace(columns, keep=())
            raw = in_memory(table.schema, table, plain, where=files[0], name=names)
            return replace(raw, kept=_kept_of_csv(files, tables, columns, names) if columns.keep else {})
        return _read_json(files, columns)
    except (pa.ArrowException, UnicodeDecodeError) as error:
        shown = ", ".join(str(file) for file in files[:3])
        raise ArtefactError(f"cannot read {shown}: {error}") from error


def in_memory(
    schema: pa.Schema,
    cells: Any,
    columns: Columns,
    *,
    where: AnyPath,
    name: Callable[[int], str],
    class_names: Mapping[str, tuple[str, ...]] | None = None,
) -> RawData:
    """Return the inputs and labels of a table in memory.

    `cells`: the columns by name, an Arrow table or lists. `name(row)` names a row. `class_names`: by label column.
    """
    data_columns = find_columns(schema, str(where), columns)
    inputs = [TableColumn(cells[column], name=name, root=where.parent) for column in data_columns.inputs]
    labels = None if data_columns.label is None else cells[data_columns.label]
    kept_columns = {
        column: KeptColumn.of(TableColumn(cells[column], name=name), schema.field(column).type)
        for column in columns.keep
    }
    return replace(
        _raw_data(data_columns, inputs, labels, class_names or {}, str(where), columns), kept=kept_columns
    )


def _read_parquet(files: Sequence[AnyPath], columns: Columns) -> RawData:
    with open_arrow(files[0]) as file:
        schema = pq.read_schema(file)
    data_columns = find_columns(schema, str(files[0]), columns)
    others = [*data_columns.inputs[1:], *([] if data_columns.label is None else [data_columns.label])]
    first = ParquetColumn(files, data_columns.inputs[0], [*others, *columns.keep])
    inputs = [first, *(first.beside(column) for column in data_columns.inputs[1:])]
    labels: Any = None
    if data_columns.label is not None:
        labels = first.beside(data_columns.label)
        if not columns.to_predict:
            labels = pa.concat_tables(_read_column(file, data_columns.label) for file in files)[
                data_columns.label
            ]
    kept_columns = {name: KeptColumn.of(first.beside(name), schema.field(name).type) for name in columns.keep}
    return replace(
        _raw_data(data_columns, inputs, labels, _class_names(schema), str(files[0]), columns),
        kept=kept_columns,
    )


def _read_column(file: AnyPath, column: str) -> pa.Table:
    with open_arrow(file) as opened:
        return pq.read_table(opened, columns=[column], use_threads=False, page_checksum_verification=True)


def _read_csv(file: AnyPath, texts: Sequence[str], only: Sequence[str] = ()) -> pa.Table:
    """Read a table. `texts`: columns that hold texts, even if they look like numbers. `only`: those to read, or ()."""
    # Texts that look like numbers keep their leading zeros; a text that is not UTF-8 is an error of its row only.
    as_text = dict.fromkeys(texts, pa.string())
    table = read_csv(file, column_types=as_text, check_utf8=False, include_columns=list(only))
    for place, (name, cells) in enumerate(zip(table.column_names, table.columns, strict=True)):
        if name in texts and not only:  # an empty cell is no text
            table = table.set_column(place, name, pc.if_else(pc.equal(cells, ""), None, cells))
    return table


def _kept_of_csv(
    files: Sequence[AnyPath], tables: Sequence[pa.Table], columns: Columns, name: Callable[[int], str]
) -> dict[str, KeptColumn]:
    """Return the columns to keep, as they are written: whole numbers, where that changes no character, or texts."""
    find_columns(tables[0].schema, str(files[0]), columns)
    for file, table in zip(files, tables, strict=True):
        check_names(table.column_names, columns.keep, file, files[0])
    whole = pa.concat_tables(_read_csv(file, columns.keep, columns.keep) for file in files)
    kept_columns = {}
    for column in columns.keep:
        cells = whole[column]
        with suppress(pa.ArrowInvalid):
            numbers = cells.cast(pa.int64())
            if numbers.cast(pa.string()).equals(cells):
                cells = numbers
        kept_columns[column] = KeptColumn(TableColumn(cells, name=name), cells.type)
    return kept_columns


def _joined(tables: Sequence[pa.Table], files: Sequence[AnyPath], columns: Columns) -> pa.Table:
    """Return the columns that are needed of a table's shards. Their types may differ, as each was guessed alone."""
    if len(tables) == 1:
        return tables[0]
    data_columns = find_columns(tables[0].schema, str(files[0]), columns)
    needed = [*data_columns.inputs, *([] if data_columns.label is None else [data_columns.label])]
    for file, table in zip(files, tables, strict=True):
        check_names(table.column_names, needed, file, files[0])
    selected = [table.select(needed) for table in tables]
    if any(pa.types.is_string(table[needed[-1]].type) for table in selected):  # a class, or a text
        selected = [
            table.set_column(len(needed) - 1, needed[-1], table[needed[-1]].cast(pa.string()))
            for table in selected
        ]
    return pa.concat_tables(selected, promote_options="permissive")


def read_lines(content: bytes) -> list[str | BadCell]:
    """Return lines as texts, without their ends. An empty line is an empty text."""

    def decoded(line: bytes) -> str | BadCell:
        try:
            return line.decode()
        except UnicodeDecodeError:
            return _NOT_UTF_8

    return [decoded(line) for line in split_lines(content)]


def split_lines(content: bytes) -> list[bytes]:
    """Return lines without their ends, and without a byte order mark; of UTF-16 as UTF-8."""
    if (encoding := text_encoding(content)) != "utf-8":
        content = content.decode(encoding, errors="replace").encode()
    lines = [line.removesuffix(b"\r") for line in content.removeprefix(b"\xef\xbb\xbf").split(b"\n")]
    return lines[:-1] if lines[-1] == b"" else lines


def _json_records(file: AnyPath) -> list[dict[str, Any] | BadCell]:
    """Return the objects of a file with one JSON object per line, or with one array of objects.

    A line that is no JSON object is a BadCell. Raises ArtefactError for a file that starts as an array and is none.
    """
    content = read_bytes(file)
    lines = [line for line in split_lines(content) if line.strip()]
    if lines and lines[0].lstrip().startswith(b"["):
        try:
            return [_record(line) for line in parse_json(content.decode("utf-8-sig"))]
        except ValueError as error:
            raise ArtefactError(f"cannot read {file}: {error}; write one JSON object per line") from error
    return [_parsed(line) for line in lines]


def _parsed(line: bytes) -> dict[str, Any] | BadCell:
    try:
        return _record(parse_json(line.decode()))
    except UnicodeDecodeError:
        return _NOT_UTF_8
    except ValueError:
        return BadCell("its line is not JSON")


def _record(line: Any) -> dict[str, Any] | BadCell:
    return line if isinstance(line, dict) else BadCell("its line is not a JSON object")


def _read_json(files: Sequence[AnyPath], columns: Columns) -> RawData:
    parts = [_json_records(file) for file in files]
    records = [record for part in parts for record in part]
    names = dict.fromkeys(name for record in records if isinstance(record, dict) for name in record)
    cells = {
        name: [record.get(name) if isinstance(record, dict) else record for record in records]
        for name in names
    }
    kinds = {name: _kind(values, texts=name in columns.possible_texts) for name, values in cells.items()}
    for name in {*columns.keep} & {*cells}:
        values = [None if isinstance(cell, BadCell) else cell for cell in cells[name]]
        try:
            kinds[name] = pa.array(values).type
        except (pa.ArrowInvalid, pa.ArrowTypeError):  # values of several types are kept as texts
            cells[name] = [v if v is None or isinstance(v, str) else json.dumps(v) for v in values]
            kinds[name] = pa.string()
    names_of_rows = row_names([file.name for file in files], [len(part) for part in parts])
    return in_memory(pa.schema(list(kinds.items())), cells, columns, where=files[0], name=names_of_rows)


def _kind(values: Sequence[Any], *, texts: bool) -> pa.DataType:
    """Return the type of a column of JSON values. `texts`: it may hold the texts, which one text cell decides."""
    if texts and any(isinstance(cell, str) for cell in values):
        return pa.string()
    try:
        return pa.infer_type([None if isinstance(cell, BadCell) else cell for cell in values])
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        return pa.null()  # values of several types


def _raw_data(
    data_columns: Found,
    inputs: Sequence[Any],
    column: Any,
    class_names: Mapping[str, tuple[str, ...]],
    where: str,
    wanted: Columns,
) -> RawData:
    """Return what was read. `inputs`: one column, or two for pairs. `column`: the classes, in memory or not."""
    stored = StoredTexts(inputs) if data_columns.kind == "text" else inputs[0]
    label = data_columns.label or ""
    labels = column
    if column is not None and not wanted.to_predict:
        try:
            cells = column.to_pylist() if isinstance(column, pa.ChunkedArray) else column
        except UnicodeDecodeError as error:
            raise InputError(f"{where}: a cell of {label!r} is not UTF-8: {error}") from None
        labels = _labels(cells, label, where, stored.name, unlabelled=wanted.unlabelled)
    names = None if labels is None else class_names.get(label)
    return RawData(kind=data_columns.kind, stored=stored, labels=labels, class_names=names)


def _labels(
    cells: Sequence[Any], label: str, where: str, name: Callable[[int], str], *, unlabelled: bool
) -> Any:
    """Return labels as integers or strings; None if all are -1, which marks hidden labels.

    With `unlabelled`, empty cells are unknown labels, -1 or among strings "", and numbers may be stored as floats.
    """
    bad = [row for row, cell in enumerate(cells) if cell is None or cell == "" or isinstance(cell, BadCell)]
    if bad and unlabelled:
        cells = list(cells)
        unknown = "" if any(isinstance(cell, str) and cell for cell in cells) else -1
        for row in bad:
            cells[row] = unknown
        cells = [int(cell) if isinstance(cell, float) and cell.is_integer() else cell for cell in cells]
    elif bad:
        raise InputError(
            f"{where}: {len(bad)} of {counted(len(cells), 'cell')} of {label!r} are empty or cannot be read, the "
            f"first in {name(bad[0])}: fill them in, or drop these rows"
        )
    labels = np.asarray(cells)
    if labels.size == 0:
        return labels.astype(np.int64)
    if labels.dtype.kind not in "iubU":
        raise InputError(
            f"{where}: {label!r} must hold whole numbers or texts, got {cells[0]!r} in {name(0)}"
        )
    if labels.dtype.kind in "iu" and (labels == -1).all():
        return None
    return labels


def _class_names(schema: pa.Schema) -> dict[str, tuple[str, ...]]:
    """Return the class names in the schema metadata `huggingface`, by label column."""
    raw = (schema.metadata or {}).get(b"huggingface")
    if raw is None:
        return {}
    try:
        features = parse_json(raw)["info"]["features"]
        return {c: tuple(f["names"]) for c, f in features.items() if f.get("names")}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}  # other tools write other things under this key
