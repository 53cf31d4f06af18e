"""Inputs as they are stored, read one at a time: image files, pixels in memory, columns of tables in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from exeunt._places import AnyPath, is_remote
from exeunt.data.read_image import Pixels
from exeunt.data.stored_texts import BadCell

SMALL_BYTES = 1 << 30
"""Data up to this size, as stored, are read in full for their hashes."""


class StoredInputs(Protocol):
    """A fixed sequence of inputs as they are stored."""

    @property
    def nbytes(self) -> int:
        """Size as stored, in bytes."""

    def __len__(self) -> int: ...

    def __getitem__(self, row: int) -> Any:
        """Return an image (bytes, Path or pixels) or a text (str)."""

    def name(self, row: int) -> str:
        """Return what messages and tables call this input."""

    def part(self, first: int, n: int) -> Any:
        """Return n inputs from this one on, without what belongs to others: it can be sent to another machine."""


class ImageFiles:
    """Image files, named by `names`, or by their path below `root`, or by their path as it is."""

    def __init__(
        self, paths: Sequence[AnyPath], *, root: AnyPath | None, names: Sequence[str] | None = None
    ) -> None:
        self._paths = list(paths)
        self._root = root
        self._names = names

    @cached_property
    def nbytes(self) -> int:
        """Size of the files, in bytes; of those in an object store more than is read in full."""
        if any(map(is_remote, self._paths)):
            return SMALL_BYTES + 1
        return sum(path.stat().st_size for path in self._paths if path.is_file())

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, row: int) -> AnyPath:
        return self._paths[row]

    def name(self, row: int) -> str:
        """Return what the file is called. Bytes that are not UTF-8 are shown as escapes."""
        if self._names is not None:
            return self._names[row]
        path: Any = self._paths[row] if self._root is None else self._paths[row].relative_to(self._root)
        return str(path.as_posix()).encode(errors="surrogateescape").decode(errors="backslashreplace")

    def part(self, first: int, n: int) -> ImageFiles:
        """Return n files from this one on."""
        paths = [path.absolute() for path in self._paths[first : first + n]]
        return ImageFiles(paths, root=None, names=[self.name(row) for row in range(first, first + n)])

    def stamps(self) -> Iterator[tuple[str, int, int | None] | None]:
        """Yield name, size and time of each file, None for one that is missing: they tell contents apart."""
        return (file_stamp(path) for path in self._paths)


class PixelArray:
    """Decoded pixels, shape (n, h, w, 3), uint8. `name(row)` names each image."""

    def __init__(self, pixels: Pixels, *, name: Callable[[int], str]) -> None:
        self.pixels = pixels
        self.name = name

    @property
    def nbytes(self) -> int:
        """Size of the array, in bytes."""
        return self.pixels.nbytes

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, row: int) -> Pixels:
        pixels: Pixels = self.pixels[row]
        return pixels

    def part(self, first: int, n: int) -> PixelArray:
        """Return n images from this one on, copied."""
        return PixelArray(self.pixels[first : first + n].copy(), name=_names_of(self, first, n))


class TableColumn:
    """One column of a table in memory. `name(row)`: of a row. `root`: the folder of image files that cells name."""

    def __init__(
        self, column: pa.ChunkedArray[Any], *, name: Callable[[int], str], root: AnyPath | None = None
    ) -> None:
        self._column = column
        self.name = name
        self._root = root or Path()

    @property
    def nbytes(self) -> int:
        """Size of the column, in bytes."""
        return int(self._column.nbytes)

    def __len__(self) -> int:
        return len(self._column)

    def __getitem__(self, row: int) -> Any:
        return cell_content(self.cell(row), self._root)

    def cell(self, row: int) -> Any:
        """Return what is in a row. Raises UnicodeDecodeError for bytes that are not UTF-8."""
        return self._column[row].as_py()

    def part(self, first: int, n: int) -> TableColumn:
        """Return n rows from this one on, copied."""
        rows = self._column.take(pa.array(range(first, first + n), pa.int64()))
        return TableColumn(rows, name=_names_of(self, first, n), root=self._root.absolute())


def row_names(files: Sequence[str], counts: Sequence[int]) -> Callable[[int], str]:
    """Return what names the rows of a table in several files, such as "train-00001.csv#17": the row within its file."""
    ends = np.cumsum(counts)

    def name(row: int) -> str:
        number = int(np.searchsorted(ends, row, side="right"))
        return f"{files[number]}#{row - (int(ends[number - 1]) if number else 0)}"

    return name


def file_stamp(path: AnyPath) -> tuple[str, int, int | None] | None:
    """Return path, size and time of a file; None if it is missing."""
    try:
        found = path.stat()
    except OSError:
        return None
    return str(path.absolute()), found.st_size, found.st_mtime_ns


def _names_of(stored: Any, first: int, n: int) -> Callable[[int], str]:
    return [stored.name(row) for row in range(first, first + n)].__getitem__


def cell_content(value: Any, root: AnyPath) -> Any:
    """Return what is in a cell, a BadCell if nothing is. The struct {bytes, path} may name a file below `root`."""
    if isinstance(value, dict):
        if value.get("bytes") is not None:
            return value["bytes"]
        value = None if value.get("path") is None else root / value["path"]
    return BadCell("it is empty") if value is None else value


def is_small(inputs: StoredInputs) -> bool:
    """Whether the inputs take at most SMALL_BYTES as stored, so that they are read in full for hashes."""
    return inputs.nbytes <= SMALL_BYTES
