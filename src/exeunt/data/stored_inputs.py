"""Inputs as they are stored, read one at a time: image files, pixels in memory, columns of tables."""

from __future__ import annotations

from collections import OrderedDict
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from exeunt.errors import ArtefactError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from exeunt.data.read_image import Pixels

MEMORY_BYTES = 1 << 30
"""Parquet files keep row groups in memory up to this size."""

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


class ImageFiles:
    """Image files, named by their path below `root`, or without a root by their path as it is."""

    def __init__(self, paths: Sequence[Path], *, root: Path | None) -> None:
        self._paths = list(paths)
        self._root = root

    @cached_property
    def nbytes(self) -> int:
        """Size of the files, in bytes."""
        return sum(path.stat().st_size for path in self._paths if path.is_file())

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, row: int) -> Path:
        return self._paths[row]

    def name(self, row: int) -> str:
        """Return the path below `root`. Bytes that are not UTF-8 are shown as escapes."""
        path = self._paths[row] if self._root is None else self._paths[row].relative_to(self._root)
        return path.as_posix().encode(errors="surrogateescape").decode(errors="backslashreplace")


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


class TableColumn:
    """One column of a table in memory. `name(row)`: of a row. `root`: the folder of image files that cells name."""

    def __init__(
        self, column: pa.ChunkedArray[Any], *, name: Callable[[int], str], root: Path | None = None
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
        return _cell_content(self.cell(row), self._root, self.name(row))

    def cell(self, row: int) -> Any:
        """Return what is in a row. Raises UnicodeDecodeError for bytes that are not UTF-8."""
        return self._column[row].as_py()


class ParquetColumn:
    """One column of Parquet files, read by row groups. The latest row groups, up to MEMORY_BYTES, stay in memory.

    Larger tables are fast in order and slow in random order: train on image files instead.
    """

    def __init__(self, files: Sequence[Path], column: str) -> None:
        self._files = list(files)
        self._column = column
        self._groups: list[tuple[int, int]] = []  # (file, row group within it)
        self._first_rows = []
        starts = [0]
        for number, file in enumerate(self._files):
            self._first_rows.append(starts[-1])
            footer = pq.read_metadata(file)
            for group in range(footer.num_row_groups):
                self._groups.append((number, group))
                starts.append(starts[-1] + footer.row_group(group).num_rows)
        self._starts: NDArray[np.int64] = np.array(starts, dtype=np.int64)
        self._kept: OrderedDict[int, pa.ChunkedArray[Any]] = OrderedDict()

    @property
    def nbytes(self) -> int:
        """Size of the files, in bytes."""
        return sum(file.stat().st_size for file in self._files)

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, row: int) -> Any:
        k = self._group_of(row)
        return _cell_content(self.cell(row), self._files[self._groups[k][0]].parent, self.name(row))

    def cell(self, row: int) -> Any:
        """Return what is in a row. Raises UnicodeDecodeError for bytes that are not UTF-8."""
        k = self._group_of(row)
        return self._read(k)[row - int(self._starts[k])].as_py()

    def name(self, row: int) -> str:
        """Return the file and the row within it, such as "test.parquet#17"."""
        number = self._groups[self._group_of(row)][0]
        return f"{self._files[number].name}#{row - self._first_rows[number]}"

    def _group_of(self, row: int) -> int:
        return int(np.searchsorted(self._starts, row, side="right")) - 1

    def _read(self, k: int) -> pa.ChunkedArray[Any]:
        if k in self._kept:
            self._kept.move_to_end(k)
            return self._kept[k]
        number, group = self._groups[k]
        # One thread: Arrow's pool does not survive a fork into worker processes.
        try:
            with pq.ParquetFile(self._files[number]) as file:
                column = file.read_row_group(group, [self._column], use_threads=False)[self._column]
        except (pa.ArrowException, OSError) as error:
            raise ArtefactError(f"{self._files[number]} is damaged: {error}") from error
        self._kept[k] = column
        while len(self._kept) > 1 and sum(kept.nbytes for kept in self._kept.values()) > MEMORY_BYTES:
            self._kept.popitem(last=False)
        return column


def row_names(files: Sequence[str], counts: Sequence[int]) -> Callable[[int], str]:
    """Return what names the rows of a table in several files, such as "train-00001.csv#17": the row within its file."""
    ends = np.cumsum(counts)

    def name(row: int) -> str:
        number = int(np.searchsorted(ends, row, side="right"))
        return f"{files[number]}#{row - (int(ends[number - 1]) if number else 0)}"

    return name


def _cell_content(value: Any, root: Path, name: str) -> Any:
    """Return the image or text in a cell. The struct {bytes, path} may name a file below `root`."""
    if isinstance(value, dict):
        if value.get("bytes") is not None:
            return value["bytes"]
        value = None if value.get("path") is None else root / value["path"]
    if value is None:
        raise ArtefactError(f"the row {name} is empty: drop or repair it")
    return value


def is_small(inputs: StoredInputs) -> bool:
    """Whether the inputs take at most SMALL_BYTES as stored, so that they are read in full for hashes."""
    return inputs.nbytes <= SMALL_BYTES
