"""Inputs as they are stored, read one at a time: image files, pixels or columns in memory, texts, cells of labels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from exeunt._support.paths import AnyPath, RemotePath, is_remote, size_and_time, unlisted

SMALL_BYTES = 1 << 30
"""Data up to this size, as stored, are read in full for their hashes."""


class StoredInputs(Protocol):
    """A fixed sequence of inputs as they are stored."""

    @property
    def nbytes(self) -> int:
        """Size as stored, in bytes."""

    def __len__(self) -> int: ...

    def __getitem__(self, row: int) -> Any:
        """Return an image (bytes, path or pixels), a text, a pair of texts, or a BadCell."""

    def name(self, row: int) -> str:
        """Return the name of an input for messages and tables."""

    def part(self, first: int, n: int) -> Any:
        """Return n inputs from `first` on, without the data of others: the part can be sent to another machine."""


class Cells(StoredInputs, Protocol):
    """One column of a table."""

    def cell(self, row: int) -> Any:
        """Return the content of a cell, of any type. Raises UnicodeDecodeError for bytes that are not UTF-8."""


@dataclass(frozen=True)
class BadCell:
    """Stands in place of an input that cannot be read, with the reason."""

    reason: str


@dataclass(eq=False)
class ImageFiles:
    """Image files, named by `names`, else by their path below `root`, else by their whole path."""

    paths: Sequence[AnyPath]
    root: AnyPath | None
    names: Sequence[str] | None = None

    @cached_property
    def found(self) -> NDArray[np.int64]:
        """Size and time of each file when they were first asked for, (n, 2); -1 for a missing one."""
        return _sizes_and_times(self.paths)

    @property
    def nbytes(self) -> int:
        """Size of the files, in bytes; for files in an object store more than SMALL_BYTES."""
        return SMALL_BYTES + 1 if any(map(is_remote, self.paths)) else int(self.found[:, 0].clip(0).sum())

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, row: int) -> AnyPath:
        return self.paths[row]

    def name(self, row: int) -> str:
        """Return the name of a file. Bytes that are not UTF-8 are shown as escapes."""
        if self.names is not None:
            return self.names[row]
        path: Any = self.paths[row] if self.root is None else self.paths[row].relative_to(self.root)
        return str(path.as_posix()).encode(errors="surrogateescape").decode(errors="backslashreplace")

    def part(self, first: int, n: int) -> ImageFiles:
        """Return n files from `first` on."""
        paths = [path.absolute() for path in self.paths[first : first + n]]
        part = ImageFiles(paths, root=None, names=_names(self, first, n))
        part.found = self.found[first : first + n]
        return part

    def stamps(self) -> Iterator[tuple[str, int, int]]:
        """Yield path, size and time of each file: they tell contents apart."""
        return (
            (str(path.absolute()), *stamp)
            for path, stamp in zip(self.paths, self.found.tolist(), strict=True)
        )

    def changed(self) -> AnyPath | None:
        """Return the first file whose size or time differs from `found`.

        In an object store, files of a folder are listed anew, but not those of a part.
        """
        now: Sequence[AnyPath] = self.paths
        if isinstance(self.root, RemotePath) and any(getattr(path, "listed", None) for path in now):
            there: dict[str, AnyPath] = {str(path): path for path in self.root.rglob("*")}
            now = [there.get(str(path)) or unlisted(path) for path in now]
        differ = np.flatnonzero((_sizes_and_times(now) != self.found).any(axis=1))
        return self.paths[differ[0]] if len(differ) else None


@dataclass(eq=False)
class PixelArray:
    """Decoded pixels, shape (n, h, w, 3), uint8. `name(row)` names each image."""

    pixels: NDArray[np.uint8]
    name: Callable[[int], str]

    @property
    def nbytes(self) -> int:
        """Size of the array, in bytes."""
        return self.pixels.nbytes

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, row: int) -> NDArray[np.uint8]:
        return self.pixels[row]  # type: ignore[no-any-return]

    def part(self, first: int, n: int) -> PixelArray:
        """Return n images from `first` on, copied."""
        return PixelArray(self.pixels[first : first + n].copy(), name=_names(self, first, n).__getitem__)


@dataclass(eq=False)
class TableColumn:
    """A column in memory: a list of cells, or an Arrow column.

    `name(row)` names each row. `root`: the folder of the image files that cells name.
    """

    cells: Any
    name: Callable[[int], str]
    root: AnyPath = Path()

    @property
    def nbytes(self) -> int:
        """Size of the column in bytes; of a list, the characters of its texts."""
        if isinstance(self.cells, pa.ChunkedArray):
            return int(self.cells.nbytes)
        return sum(len(cell) for cell in self.cells if isinstance(cell, str))

    def __len__(self) -> int:
        return len(self.cells)

    def __getitem__(self, row: int) -> Any:
        return cell_content(self.cell(row), self.root)

    def cell(self, row: int) -> Any:
        """Return the content of a cell. Raises UnicodeDecodeError for bytes that are not UTF-8."""
        cell = self.cells[row]
        return cell.as_py() if isinstance(cell, pa.Scalar) else cell

    def part(self, first: int, n: int) -> TableColumn:
        """Return n rows from `first` on, copied."""
        rows = self.cells[first : first + n]
        if isinstance(rows, pa.ChunkedArray):  # a slice would be sent with the whole column
            rows = self.cells.take(pa.array(range(first, first + n), pa.int64()))
        return TableColumn(rows, name=_names(self, first, n).__getitem__, root=self.root.absolute())


class StoredTexts:
    """The texts in one column of a table, or the pairs of texts in two columns."""

    def __init__(self, columns: Sequence[Cells]) -> None:
        self.columns = tuple(columns)
        self.per_input = len(self.columns)

    @property
    def nbytes(self) -> int:
        """Size of the largest column, in bytes: columns of one file report the file's size."""
        return max(column.nbytes for column in self.columns)

    def __len__(self) -> int:
        return len(self.columns[0])

    def __getitem__(self, row: int) -> str | tuple[str, ...] | BadCell:
        texts = [_text(column, row) for column in self.columns]
        bad = next((text for text in texts if isinstance(text, BadCell)), None)
        if bad is not None:
            return bad
        return texts[0] if self.per_input == 1 else tuple(texts)  # type: ignore[arg-type]

    def name(self, row: int) -> str:
        """Return the table and the row, such as "train.csv#17"."""
        return self.columns[0].name(row)

    def part(self, first: int, n: int) -> StoredTexts:
        """Return n inputs from `first` on."""
        return StoredTexts([column.part(first, n) for column in self.columns])


@dataclass(frozen=True)
class LabelCells:
    """A column of labels, some of which may be no label; they are read on demand.

    `class_names`: names of integer labels, if the data have any.
    """

    cells: Cells
    class_names: tuple[str, ...] | None = None

    def name(self, row: int) -> str | None:
        """Return the class name of a row; None for a cell that is no label."""
        try:
            label: Any = self.cells.cell(row)
        except UnicodeDecodeError:
            return None
        if isinstance(label, str):
            return label or None
        if not isinstance(label, (int, np.integer)) or label < 0:
            return None
        if self.class_names is None:
            return str(int(label))
        return self.class_names[label] if label < len(self.class_names) else None

    def part(self, first: int, n: int) -> LabelCells:
        """Return n rows from `first` on."""
        return LabelCells(self.cells.part(first, n), self.class_names)


@dataclass(frozen=True)
class KeptColumn:
    """A column of a table that comes back beside the predictions, as it is. `type`: its type in Arrow."""

    cells: Cells
    type: Any

    @classmethod
    def of(cls, cells: Cells, type_: pa.DataType) -> KeptColumn:
        """Return the column; values of a dictionary are kept as such, and a column of nothing as texts."""
        plain = type_.value_type if pa.types.is_dictionary(type_) else type_
        return cls(cells, pa.string() if pa.types.is_null(plain) else plain)

    def value(self, row: int) -> Any:
        """Return the value of a cell; None for one that is empty or cannot be read."""
        try:
            cell = self.cells.cell(row)
        except UnicodeDecodeError:
            return None
        return None if isinstance(cell, BadCell) else cell

    def part(self, first: int, n: int) -> KeptColumn:
        """Return n rows from `first` on."""
        return KeptColumn(self.cells.part(first, n), self.type)


def row_names(files: Sequence[str], counts: Sequence[int]) -> Callable[[int], str]:
    """Return a function that names the rows of a table in several files, such as "train-00001.csv#17"."""
    ends = np.cumsum(counts)

    def name(row: int) -> str:
        number = int(np.searchsorted(ends, row, side="right"))
        return f"{files[number]}#{row - (int(ends[number - 1]) if number else 0)}"

    return name


def cell_content(cell: Any, root: AnyPath) -> Any:
    """Return the content of a cell, a BadCell if it is empty. The struct {bytes, path} may name a file below `root`."""
    if isinstance(cell, dict):
        if cell.get("bytes") is not None:
            return cell["bytes"]
        cell = None if cell.get("path") is None else root / cell["path"]
    return BadCell("it is empty") if cell is None else cell


def _sizes_and_times(paths: Sequence[AnyPath]) -> NDArray[np.int64]:
    return np.array([size_and_time(path) for path in paths], np.int64).reshape(-1, 2)


def _names(stored: StoredInputs, first: int, n: int) -> list[str]:
    return [stored.name(row) for row in range(first, first + n)]


def _text(column: Cells, row: int) -> str | BadCell:
    try:
        cell = column.cell(row)
        if isinstance(cell, str):
            cell.encode()  # half of a surrogate pair, which JSON can hold, is no character
    except UnicodeError:
        return BadCell("it is not UTF-8")
    if cell is None:
        return BadCell("it is empty")
    if isinstance(cell, (str, BadCell)):
        return cell
    return BadCell(f"it is no text but {type(cell).__name__}")
