"""Raw inputs, read one at a time from wherever they are stored (pictures, pixels, texts), and keys of their content."""

from __future__ import annotations

import hashlib
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

    from exeunt.data.pictures import Pixels

HELD_BYTES = 1 << 30
"""Row groups are kept in memory up to this size, and sources up to it are hashed in full."""


class Items(Protocol):
    """A fixed sequence of raw inputs."""

    @property
    def nbytes(self) -> int:
        """Size of the source as stored, in bytes."""

    def __len__(self) -> int: ...

    def __getitem__(self, row: int) -> Any:
        """Return a picture (bytes, Path or pixels) or a text (str)."""

    def name(self, row: int) -> str:
        """Return what to call this input in messages and tables."""


class FileItems:
    """Image files, named by their path below `root`."""

    def __init__(self, paths: Sequence[Path], *, root: Path) -> None:
        self._paths = list(paths)
        self._root = root

    @cached_property
    def nbytes(self) -> int:
        """Size of the source as stored, in bytes."""
        return sum(path.stat().st_size for path in self._paths if path.is_file())

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, row: int) -> Path:
        return self._paths[row]

    def name(self, row: int) -> str:
        """Return what to call this input."""
        return self._paths[row].relative_to(self._root).as_posix()


class ArrayItems:
    """Decoded pixels, shape (n, h, w, 3), and what each is called."""

    def __init__(self, pixels: Pixels, *, name: Callable[[int], str]) -> None:
        self.pixels = pixels
        self.name = name

    @property
    def nbytes(self) -> int:
        """Size of the source as stored, in bytes."""
        return self.pixels.nbytes

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, row: int) -> Pixels:
        pixels: Pixels = self.pixels[row]
        return pixels


class TableItems:
    """One column of a table in memory."""

    def __init__(self, column: pa.ChunkedArray[Any], *, label: str, root: Path | None = None) -> None:
        self._column = column
        self._label = label
        self._root = root or Path()

    @property
    def nbytes(self) -> int:
        """Size of the source as stored, in bytes."""
        return int(self._column.nbytes)

    def __len__(self) -> int:
        return len(self._column)

    def __getitem__(self, row: int) -> Any:
        return unwrap(self._column[row].as_py(), self._root, self.name(row))

    def name(self, row: int) -> str:
        """Return what to call this input."""
        return f"{self._label}#{row}"


class ParquetItems:
    """One column of Parquet files, read by row groups; the latest up to HELD_BYTES stay in memory.

    Larger tables are quick in order and slow in random order: train on them from image files instead.
    """

    def __init__(self, files: Sequence[Path], column: str) -> None:
        self._files = list(files)
        self._column = column
        self._groups: list[tuple[int, int]] = []
        self._first_rows = []
        starts = [0]
        for number, file in enumerate(self._files):
            self._first_rows.append(starts[-1])
            footer = pq.read_metadata(file)
            for group in range(footer.num_row_groups):
                self._groups.append((number, group))
                starts.append(starts[-1] + footer.row_group(group).num_rows)
        self._starts: NDArray[np.int64] = np.array(starts, dtype=np.int64)
        self._held: OrderedDict[int, pa.ChunkedArray[Any]] = OrderedDict()

    @property
    def nbytes(self) -> int:
        """Size of the source as stored, in bytes."""
        return sum(file.stat().st_size for file in self._files)

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, row: int) -> Any:
        k = self._group_of(row)
        value = self._read(k)[row - int(self._starts[k])].as_py()
        return unwrap(value, self._files[self._groups[k][0]].parent, self.name(row))

    def name(self, row: int) -> str:
        """Return what to call this input."""
        number = self._groups[self._group_of(row)][0]
        return f"{self._files[number].name}#{row - self._first_rows[number]}"

    def _group_of(self, row: int) -> int:
        return int(np.searchsorted(self._starts, row, side="right")) - 1

    def _read(self, k: int) -> pa.ChunkedArray[Any]:
        if k in self._held:
            self._held.move_to_end(k)
            return self._held[k]
        number, group = self._groups[k]
        # One thread: Arrow's pool does not survive a fork into worker processes.
        try:
            with pq.ParquetFile(self._files[number]) as file:
                column = file.read_row_group(group, [self._column], use_threads=False)[self._column]
        except (pa.ArrowException, OSError) as error:
            raise ArtefactError(f"{self._files[number]} is damaged: {error}") from error
        self._held[k] = column
        while len(self._held) > 1 and sum(held.nbytes for held in self._held.values()) > HELD_BYTES:
            self._held.popitem(last=False)
        return column


def unwrap(value: Any, root: Path, name: str) -> Any:
    """Return the picture or text in a cell; the struct {bytes, path} may point to a file under `root`."""
    if isinstance(value, dict):
        if value.get("bytes") is not None:
            return value["bytes"]
        value = None if value.get("path") is None else root / value["path"]
    if value is None:
        raise ArtefactError(f"the row {name} is empty: drop or repair it")
    return value


N_SAMPLED = 64


def content_key(content: NDArray[np.uint8] | str) -> int:
    """Return the 64-bit key of an input: blake2b over the shape and the decoded pixels, or over the text.

    The same picture stored in two formats has one key.
    """
    if isinstance(content, str):
        digest = hashlib.blake2b(content.encode(), digest_size=8)
    else:
        digest = hashlib.blake2b(repr(content.shape).encode(), digest_size=8)
        digest.update(np.ascontiguousarray(content).data)
    return int.from_bytes(digest.digest(), "little")


def bytes_key(content: Any) -> int:
    """Return the 64-bit key of an input as stored: cheap, but blind to the same picture re-encoded."""
    return int.from_bytes(hashlib.blake2b(_raw(content), digest_size=8).digest(), "little")


def is_small(items: Items) -> bool:
    """Whether the source is small enough to be read through for a hash (1 GiB as stored)."""
    return items.nbytes <= HELD_BYTES


def fingerprint(items: Items, labels: NDArray[np.int64] | None, class_names: tuple[str, ...] | None) -> str:
    """Return 32 hexadecimal digits that stand for the content and the labels.

    A source of up to 1 GiB is read in full; of a larger one, the labels, the number of inputs, the total
    size and 64 evenly spaced inputs are, and the fingerprint starts with "sampled-".
    """
    small = is_small(items)
    digest = hashlib.blake2b(digest_size=16)
    digest.update(repr((len(items), class_names, None if small else items.nbytes)).encode())
    if labels is not None:
        digest.update(labels.astype("<i8").tobytes())
    n = len(items)
    rows = range(n) if small else np.linspace(0, n - 1, min(n, N_SAMPLED)).astype(int)
    for row in rows:
        raw = _raw(items[int(row)])
        digest.update(len(raw).to_bytes(8, "little"))
        digest.update(raw)
    return ("" if small else "sampled-") + digest.hexdigest()


def _raw(content: Any) -> bytes:
    if isinstance(content, Path):
        return content.read_bytes() if content.is_file() else b""
    if isinstance(content, str):
        return content.encode()
    if isinstance(content, np.ndarray):
        return repr(content.shape).encode() + content.tobytes()
    return bytes(content)
