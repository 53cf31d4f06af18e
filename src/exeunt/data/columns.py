"""The columns of a table: which hold the inputs and the classes, and those of Parquet files.

The caller names columns, or they have usual names. Columns of Parquet files are read row group by row group, here or in
an object store.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from exeunt._support.paths import (
    AnyPath,
    changed,
    is_remote,
    open_arrow,
    read_patiently,
    size_and_time,
    unlisted,
)
from exeunt._support.text import did_you_mean
from exeunt.data.stored_inputs import SMALL_BYTES, cell_content
from exeunt.errors import ArtefactError, FileError, InputError, one_line

_IMAGES = ("img", "image")
_TEXTS = ("text", "sentence")
_LABELS = ("label", "fine_label", "labels")

NO_LABELS, FOLDERS = "none", "folder"
"""Names in place of a label column: no input has a label; the folders that images lie in are their labels."""

MEMORY_BYTES = 1 << 30
"""Row groups are kept in memory up to this size."""

SENT_BYTES = 1 << 26
"""The same limit for all columns together that other processes sent to this one."""


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Columns that a caller asks for.

    `text`: the column of the texts, or two for pairs of texts; () for the usual names. `label`: the column of the
    classes; None for the usual names, NO_LABELS for none. `to_predict`: the table holds inputs to predict, so classes
    may be missing. `unlabelled`: some or all inputs to train on have no class.
    `of_training`: these names are those of the network's training data; the caller named none for these data. `keep`:
    columns that come back beside the predictions. `options`: the option that named a column of these, where that is not
    --keep.
    """

    text: tuple[str, ...] = ()
    label: str | None = None
    to_predict: bool = False
    unlabelled: bool = False
    of_training: bool = False
    keep: tuple[str, ...] = ()
    options: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.text) > 2:
            raise InputError(
                f"a text column is one column, or two for pairs of texts, got {len(self.text)}: {', '.join(self.text)}"
            )
        if self.label in self.text:
            raise InputError(
                f"column {self.label!r} cannot hold both the texts and their classes: name two columns"
            )

    @property
    def possible_texts(self) -> tuple[str, ...]:
        """Names of columns that may hold texts."""
        return self.text or _TEXTS


class Found(NamedTuple):
    """The columns to read: `kind` is "image" or "text"; `inputs` holds two columns for pairs; `label` may be None."""

    kind: str
    inputs: tuple[str, ...]
    label: str | None


def find_columns(schema: pa.Schema, where: str, wanted: Columns) -> Found:
    """Return the columns to read. Raises InputError, which lists the columns that there are."""
    names = list(schema.names)
    possible_labels = _LABELS if wanted.label is None else (wanted.label,)
    label = next((name for name in possible_labels if name in names), None)
    labels = [] if wanted.label in (None, NO_LABELS) or wanted.to_predict else [wanted.label]
    options = {name: wanted.options.get(name, "--keep") for name in wanted.keep}
    options |= {**dict.fromkeys(labels, "--label-column"), **dict.fromkeys(wanted.text, "--text-column")}
    for name, option in options.items():
        if name not in names:
            raise InputError(
                f"{where} has no column {name!r}{did_you_mean(name, names)}; its columns are {', '.join(names)} (name "
                f"another with {option})"
            )
    if wanted.text:
        for name in wanted.text:
            if not _holds_texts(kind := schema.field(name).type):
                raise InputError(f"{where}: the column {name!r} holds {kind}, not texts")
        return Found("text", wanted.text, label)
    images = [c for c in names if holds_images(schema.field(c).type)]
    image = next((c for c in _IMAGES if c in images), images[0] if images else None)
    if image is not None:
        return Found("image", (image,), label)
    text = next((c for c in _TEXTS if c in names and _holds_texts(schema.field(c).type)), None)
    if text is None:
        fields = ", ".join(f"{field.name} ({field.type})" for field in schema) or "none"
        raise InputError(
            f"{where} has no column of images ({', '.join(_IMAGES)}) or texts ({', '.join(_TEXTS)}); its columns are "
            f"{fields}. If one of them holds the texts, name it (--text-column)"
        )
    return Found("text", (text,), label)


def check_names(names: Collection[str], needed: Sequence[str], file: object, first: object) -> None:
    """Raise InputError for a shard without a column of the first file."""
    for name in needed:
        if name not in names:
            raise InputError(f"{file} has no column {name!r}, and {first} has one: mend or remove it")


def holds_images(kind: pa.DataType) -> bool:
    """Whether the cells of a column may be encoded images: bytes, or struct{bytes, path}."""
    if pa.types.is_struct(kind):
        return "bytes" in {kind.field(i).name for i in range(kind.num_fields)}
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _holds_texts(kind: pa.DataType) -> bool:
    inner = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(inner) or pa.types.is_large_string(inner))


_Stamp: TypeAlias = tuple[str, int, int, str]


class _Group(NamedTuple):
    """A row group: its file and number within it, its first row within the file, and how many rows it has.

    `stamp`: path, size and time of the file, and the digest of its footer.
    """

    file: AnyPath
    stamp: _Stamp
    number: int
    first: int
    n: int


def _stamp(file: AnyPath, footer: Any) -> _Stamp:
    content = pa.BufferOutputStream()
    footer.write_metadata_file(content)
    digest = hashlib.blake2b(content.getvalue(), digest_size=16).hexdigest()
    return str(file.absolute()), *size_and_time(file), digest


class _Kept:
    """A cache of the row groups that were read last, up to `max_bytes`. Columns from other processes share one."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._kept: OrderedDict[Hashable, pa.ChunkedArray[Any]] = OrderedDict()

    def __reduce__(self) -> tuple[Any, tuple[()]]:
        return _kept_of_sent, ()

    def read(self, group: _Group, column: str) -> pa.ChunkedArray[Any]:
        """Return a column of a row group."""
        key = (str(group.file), group.stamp, group.number, column)
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]

        def read() -> pa.ChunkedArray[Any]:
            # One thread: Arrow's pool does not survive a fork into worker processes.
            with open_arrow(group.file) as raw, pq.ParquetFile(raw, page_checksum_verification=True) as file:
                cells = file.read_row_group(group.number, [column], use_threads=False)[column]
                if _stamp(group.file, file.metadata) != group.stamp:
                    raise changed(group.file)
                if len(cells) != group.n:
                    raise pa.ArrowInvalid(f"a row group has {len(cells)} rows, not {group.n} as its end says")
                return cells

        try:
            cells = read_patiently(group.file, read)
        except FileError:
            raise
        except (pa.ArrowException, OSError) as error:
            if size_and_time(group.file) != group.stamp[1:3]:
                raise changed(group.file) from error
            raise ArtefactError(f"{group.file} is damaged: {one_line(error)}") from error
        self._kept[key] = cells
        while (
            len(self._kept) > 1
            and sum(group_cells.nbytes for group_cells in self._kept.values()) > self.max_bytes
        ):
            self._kept.popitem(last=False)
        return cells


@cache
def _kept_of_sent() -> _Kept:
    return _Kept(SENT_BYTES)


class ParquetColumn:
    """One column of Parquet files, read by row groups. The latest row groups, up to MEMORY_BYTES, stay in memory.

    Larger tables are fast in order and slow in random order: train on image files instead.
    """

    def __init__(self, files: Sequence[AnyPath], column: str, others: Sequence[str] = ()) -> None:
        """Read the footers. Raises InputError for a file without the column or one of `others` (see `beside`)."""
        groups = []
        for file in map(unlisted, files):
            with open_arrow(file) as opened:
                footer = pq.read_metadata(opened)
            stamp = _stamp(file, footer)
            check_names(footer.schema.to_arrow_schema().names, [column, *others], file, files[0])
            first = 0
            for number in range(footer.num_row_groups):
                if (n := footer.row_group(number).num_rows) < 0:
                    raise pa.ArrowInvalid(f"a row group has {n} rows")
                groups.append(_Group(file, stamp, number, first, n))
                first += n
        self._column, self._kept = column, _Kept(MEMORY_BYTES)
        self._hold(groups, skipped=0, n=sum(group.n for group in groups))

    def _hold(self, groups: list[_Group], *, skipped: int, n: int) -> None:
        """Hold n rows of these row groups, without the first `skipped` rows."""
        self._groups, self._skipped, self._n = groups, skipped, n
        self._starts = np.cumsum([0, *(group.n for group in groups)]) - skipped

    def part(self, first: int, n: int) -> ParquetColumn:
        """Return n rows from `first` on, with the row groups that hold them."""
        here, last = self._group_of(first), self._group_of(first + n - 1) if n else -1
        groups = [group._replace(file=group.file.absolute()) for group in self._groups[here : last + 1]]
        part = copy(self)
        part._hold(groups, skipped=first - int(self._starts[here]), n=n)
        return part

    def beside(self, column: str) -> ParquetColumn:
        """Return another column of the same rows."""
        column_beside = copy(self)
        column_beside._column = column
        return column_beside

    @property
    def files(self) -> list[AnyPath]:
        """The files, in order."""
        return list({str(group.file): group.file for group in self._groups}.values())

    @property
    def nbytes(self) -> int:
        """Size of the files, in bytes; for files in an object store more than SMALL_BYTES."""
        if any(map(is_remote, self.files)):
            return SMALL_BYTES + 1
        return sum(file.stat().st_size for file in self.files)

    def stamps(self) -> Iterator[Any]:
        """Yield column and rows, and size, time and rows of each row group: they tell contents apart."""
        yield self._column, self._skipped, self._n
        yield from ((*group[1:],) for group in self._groups)

    def changed(self) -> AnyPath | None:
        """Return the first file whose size or time differs from when it was opened."""
        files = {group.stamp: group.file for group in self._groups}
        return next((file for stamp, file in files.items() if size_and_time(file) != stamp[1:3]), None)

    def __len__(self) -> int:
        return self._n

    def __getitem__(self, row: int) -> Any:
        return cell_content(self.cell(row), self._groups[self._group_of(row)].file.parent)

    def cell(self, row: int) -> Any:
        """Return the content of a cell. Raises UnicodeDecodeError for bytes that are not UTF-8."""
        k = self._group_of(row)
        return self._kept.read(self._groups[k], self._column)[row - int(self._starts[k])].as_py()

    def name(self, row: int) -> str:
        """Return the file and the row within it, such as "test.parquet#17"."""
        k = self._group_of(row)
        return f"{self._groups[k].file.name}#{self._groups[k].first + row - int(self._starts[k])}"

    def _group_of(self, row: int) -> int:
        return int(np.searchsorted(self._starts, row, side="right")) - 1
