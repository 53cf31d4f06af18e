"""Opening tables of images or texts: Parquet in the Hugging Face schema, CSV, TSV, JSON lines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet as pq

from exeunt.data.source import TEST_NAMES, TRAIN_NAMES, DataSource, RawData, first_labelled, make_source
from exeunt.data.stored_inputs import ParquetColumn, TableColumn
from exeunt.errors import ArtefactError, InputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

TABLE_SUFFIXES = (".parquet", ".csv", ".tsv", ".jsonl", ".json")
_IMAGE_COLUMNS = ("img", "image")
_TEXT_COLUMNS = ("text", "sentence")
_LABEL_COLUMNS = ("label", "fine_label", "labels")


def open_table_folder(folder: Path, name: str, label: str | None) -> DataSource | None:
    """Return the source in the tables of `folder` named `train`, `test` and the like; None without such tables.

    Where a test table hides its labels, a validation table with labels is the test data.
    """
    train, test = (
        first_labelled(
            read_table(files, label=label) for stem in stems if (files := table_files(folder, stem))
        )
        for stems in (TRAIN_NAMES, TEST_NAMES)
    )
    return make_source(name, train=train, test=test) if train or test else None


def table_files(folder: Path, stem: str) -> list[Path]:
    """Return `STEM.SUFFIX`, or its shards `STEM-*.SUFFIX`, in `folder` or in `folder/data`."""
    for place in (folder, folder / "data"):
        for suffix in TABLE_SUFFIXES:
            whole = place / f"{stem}{suffix}"
            found = [whole] if whole.is_file() else sorted(place.glob(f"{stem}-*{suffix}"))
            if found:
                return found
    return []


def read_table(files: Sequence[Path], *, label: str | None = None) -> RawData:
    """Return the inputs and labels of one table, given as one or several files of one format.

    label: the column of the classes; default `label`, `fine_label` or `labels`, whichever exists.
    """
    try:
        if files[0].suffix == ".parquet":
            return _read_parquet(files, label)
        table = pa.concat_tables([_read_text_table(file) for file in files])
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        names = ", ".join(str(file) for file in files[:3])
        raise ArtefactError(f"cannot read {names}: {error}") from error
    return from_arrow(table, where=str(files[0]), label=label, root=files[0].parent)


def from_arrow(
    table: pa.Table,
    *,
    where: str,
    label: str | None = None,
    root: Path | None = None,
    class_names: Mapping[str, tuple[str, ...]] | None = None,
) -> RawData:
    """Return the inputs and labels of a table in memory. `class_names`: by label column."""
    kind, column, target = _find_columns(table.schema, where, label)
    stored = TableColumn(table[column], table=Path(where).name, root=root)
    return _raw_data(kind, stored, table, target, class_names or {}, where)


def _read_parquet(files: Sequence[Path], label: str | None) -> RawData:
    schema = pq.read_schema(files[0])
    kind, column, target = _find_columns(schema, str(files[0]), label)
    columns = [] if target is None else [target]
    labels = pa.concat_tables([pq.read_table(file, columns=columns, use_threads=False) for file in files])
    names = _class_names(schema)
    return _raw_data(kind, ParquetColumn(files, column), labels, target, names, str(files[0]))


def _read_text_table(file: Path) -> pa.Table:
    if file.suffix in {".csv", ".tsv"}:
        delimiter = "\t" if file.suffix == ".tsv" else ","
        options = pyarrow.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True)
        # Otherwise a column of texts that look like numbers would lose its leading zeros.
        as_text = pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(_TEXT_COLUMNS, pa.string()))
        return pyarrow.csv.read_csv(file, parse_options=options, convert_options=as_text)
    return pyarrow.json.read_json(file)


def _find_columns(schema: pa.Schema, where: str, label: str | None) -> tuple[str, str, str | None]:
    """Return (kind, input column, label column or None). Raises InputError that lists the columns."""
    names = list(schema.names)
    images = [c for c in names if _holds_images(schema.field(c).type)]
    image = next((c for c in _IMAGE_COLUMNS if c in images), images[0] if images else None)
    texts = [c for c in names if _holds_texts(schema.field(c).type)]
    text = next((c for c in _TEXT_COLUMNS if c in texts), None)
    column = image or text
    if column is None:
        found = ", ".join(f"{field.name} ({field.type})" for field in schema) or "none"
        raise InputError(
            f"{where} has no column of images ({', '.join(_IMAGE_COLUMNS)}) or texts "
            f"({', '.join(_TEXT_COLUMNS)}); its columns are {found}"
        )
    if label is not None and label not in names:
        raise InputError(f"{where} has no column {label!r}; its columns are {', '.join(names)}")
    target = next((c for c in _LABEL_COLUMNS if c in names), None) if label is None else label
    return ("image" if image else "text"), column, target


def _holds_images(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return "bytes" in {kind.field(i).name for i in range(kind.num_fields)}
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _holds_texts(kind: pa.DataType) -> bool:
    inner = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(inner) or pa.types.is_large_string(inner))


def _raw_data(
    kind: str,
    stored: ParquetColumn | TableColumn,
    table: pa.Table,
    target: str | None,
    class_names: Mapping[str, tuple[str, ...]],
    where: str,
) -> RawData:
    labels = None if target is None else _labels(table[target], target, where)
    if target is None or labels is None:
        return RawData(kind=kind, stored=stored)
    return RawData(kind=kind, stored=stored, labels=labels, class_names=class_names.get(target))


def _labels(column: pa.ChunkedArray[Any], name: str, where: str) -> Any:
    """Return integers or strings; None if all are -1, which marks hidden labels."""
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


def _class_names(schema: pa.Schema) -> dict[str, tuple[str, ...]]:
    """Return the class names that the schema metadata `huggingface` give, by label column."""
    raw = (schema.metadata or {}).get(b"huggingface")
    if raw is None:
        return {}
    try:
        features = json.loads(raw)["info"]["features"]
        return {c: tuple(f["names"]) for c, f in features.items() if f.get("names")}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}  # other tools write other things under this key
