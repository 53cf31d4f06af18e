"""Texts as they are stored: one column of cells, or two for pairs. A cell that is no text is an error of its row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

__all__ = ["BadCell", "CellList", "Cells", "StoredTexts"]


@dataclass(frozen=True)
class BadCell:
    """What stands in place of an input that cannot be read, and why."""

    reason: str


class Cells(Protocol):
    """One column of a table."""

    @property
    def nbytes(self) -> int:
        """Size as stored, in bytes."""

    def __len__(self) -> int: ...

    def cell(self, row: int) -> Any:
        """Return what is in a row, of any type. Raises UnicodeDecodeError for bytes that are not UTF-8."""

    def name(self, row: int) -> str:
        """Return what messages and tables call this row."""

    def part(self, first: int, n: int) -> Any:
        """Return n rows from this one on, without what belongs to others."""


class CellList:
    """Cells in memory, of any type. `name(row)` names each."""

    def __init__(self, cells: Sequence[Any], *, name: Callable[[int], str]) -> None:
        self._cells = cells
        self.name = name

    @property
    def nbytes(self) -> int:
        """Size of the texts, in characters."""
        return sum(len(cell) for cell in self._cells if isinstance(cell, str))

    def __len__(self) -> int:
        return len(self._cells)

    def cell(self, row: int) -> Any:
        """Return what is in a row."""
        return self._cells[row]

    def part(self, first: int, n: int) -> CellList:
        """Return n rows from this one on."""
        names = [self.name(row) for row in range(first, first + n)]
        return CellList(self._cells[first : first + n], name=names.__getitem__)


class StoredTexts:
    """The texts in one column of a table, or the pairs of texts in two columns."""

    def __init__(self, columns: Sequence[Cells]) -> None:
        self.columns = tuple(columns)
        self.per_input = len(self.columns)

    @property
    def nbytes(self) -> int:
        """Size as stored, in bytes: of the largest column, since columns of one file report the file's size."""
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
        """Return n inputs from this one on, without what belongs to others."""
        return StoredTexts([column.part(first, n) for column in self.columns])


def _text(column: Cells, row: int) -> str | BadCell:
    try:
        value = column.cell(row)
        if isinstance(value, str):
            value.encode()  # half of a surrogate pair, which JSON can hold, is no character
    except UnicodeError:
        return BadCell("it is not UTF-8")
    if value is None:
        return BadCell("it is empty")
    if isinstance(value, (str, BadCell)):
        return value
    return BadCell(f"it is no text but {type(value).__name__}")
