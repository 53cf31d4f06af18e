"""Tables of images or texts: Parquet, CSV, TSV, JSON lines, in the Hugging Face schema."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet as pq

from exeunt.data.items import ParquetItems, TableItems
from exeunt.data.source import RawPart
from exeunt.errors import ArtefactError, InputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

TABLE_SUFFIXES = (".parquet", ".csv", ".tsv", ".jsonl", ".json")
IMAGE_COLUMNS = ("img", "image")
TEXT_COLUMNS = ("text", "sentence")
LABEL_COLUMNS = ("label", "fine_label", "labels")


def table_files(folder: Path, stems: Sequence[str]) -> list[Path]:
    """Return `folder/STEM.SUFFIX`, or its shards `STEM-*.SUFFIX`, for the first stem that exists.

    Looked for in `folder` and in `folder/data`.
    """
    for stem in stems:
        for place in (folder, folder / "data"):
            for suffix in TABLE_SUFFIXES:
                whole = place / f"{stem}{suffix}"
                found = [whole] if whole.is_file() else sorted(place.glob(f"{stem}-*{suffix}"))
                if found:
                    return found
    return []


def read_table_part(files: Sequence[Path], *, label: str | None = None) -> tuple[str, RawPart]:
    """Return (kind, part) of one table given as one or several files of one format.

    label: the label column; default `label`, `fine_label` or `labels`, whichever is there.
    """
    try:
        if files[0].suffix == ".parquet":
            return _parquet_part(files, label)
        table = pa.concat_tables([_read_text_table(file) for file in files])
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        names = ", ".join(str(file) for file in files[:3])
        raise ArtefactError(f"cannot read {names}: {error}") from error
    return table_part(table, where=str(files[0]), label=label, root=files[0].parent)


def table_part(
    table: pa.Table,
    *,
    where: str,
    label: str | None = None,
    root: Path | None = None,
    class_names: Mapping[str, tuple[str, ...]] | None = None,
) -> tuple[str, RawPart]:
    """Return (kind, part) of a table in memory."""
    kind, column, target = find_columns(table.schema, where, label)
    items = TableItems(table[column], label=Path(where).name, root=root)
    return kind, _part(items, table, target, class_names or {}, where)


def find_columns(schema: pa.Schema, where: str, label: str | None) -> tuple[str, str, str | None]:
    """Return (kind, input column, label column or None), or raise an error that lists the columns."""
    names = list(schema.names)
    pictures = [c for c in names if _is_picture(schema.field(c).type)]
    image = next((c for c in IMAGE_COLUMNS if c in pictures), pictures[0] if pictures else None)
    texts = [c for c in names if _is_text(schema.field(c).type)]
    text = next((c for c in TEXT_COLUMNS if c in texts), None)
    column = image or text
    if column is None:
        there = ", ".join(f"{field.name} ({field.type})" for field in schema) or "none"
        raise InputError(
            f"{where} has no column of images ({', '.join(IMAGE_COLUMNS)}) or texts "
            f"({', '.join(TEXT_COLUMNS)}); its columns are {there}"
        )
    if label is not None and label not in names:
        raise InputError(f"{where} has no column {label!r}; its columns are {', '.join(names)}")
    target = label or next((c for c in LABEL_COLUMNS if c in names), None)
    return ("image" if image else "text"), column, target


def _parquet_part(files: Sequence[Path], label: str | None) -> tuple[str, RawPart]:
    schema = pq.read_schema(files[0])
    kind, column, target = find_columns(schema, str(files[0]), label)
    items = ParquetItems(files, column)
    columns = [] if target is None else [target]
    read = [pq.read_table(file, columns=columns, use_threads=False) for file in files]
    return kind, _part(items, pa.concat_tables(read), target, _names(schema), str(files[0]))


def _part(
    items: Any,
    table: pa.Table,
    target: str | None,
    class_names: Mapping[str, tuple[str, ...]],
    where: str,
) -> RawPart:
    labels = None if target is None else _labels(table[target], target, where)
    if target is None or labels is None:
        return RawPart(items=items)
    return RawPart(items=items, labels=labels, class_names=class_names.get(target))


def _labels(column: pa.ChunkedArray[Any], name: str, where: str) -> Any:
    """Return integers or strings; None if all are -1, the mark of hidden labels."""
    if column.null_count:
        raise InputError(f"{where}: {column.null_count} of {len(column)} cells of {name!r} are empty")
    labels = np.asarray(column.to_pylist())
    if labels.size == 0:
        return labels.astype(np.int64)
    if labels.dtype.kind not in "iubU":
        raise InputError(f"{where}: {name!r} must hold whole numbers or texts, got {column.type}")
    if labels.dtype.kind in "iu" and (labels == -1).all():
        return None
    return labels


def _names(schema: pa.Schema) -> dict[str, tuple[str, ...]]:
    """Return the class names per column that the `huggingface` schema metadata gives."""
    raw = (schema.metadata or {}).get(b"huggingface")
    if raw is None:
        return {}
    try:
        features = json.loads(raw)["info"]["features"]
        return {c: tuple(f["names"]) for c, f in features.items() if f.get("names")}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}  # other tools write other things under this key


def _is_picture(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return "bytes" in {kind.field(i).name for i in range(kind.num_fields)}
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _is_text(kind: pa.DataType) -> bool:
    inner = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(inner) or pa.types.is_large_string(inner))


def _read_text_table(file: Path) -> pa.Table:
    if file.suffix in {".csv", ".tsv"}:
        delimiter = "\t" if file.suffix == ".tsv" else ","
        options = pyarrow.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True)
        # Else a column of texts that look like numbers would lose its leading zeros.
        as_text = pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(TEXT_COLUMNS, pa.string()))
        return pyarrow.csv.read_csv(file, parse_options=options, convert_options=as_text)
    return pyarrow.json.read_json(file)
