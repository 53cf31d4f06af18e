"""Labels of inputs to predict, read when they are asked for: cells that may hold anything, some of them a class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from exeunt.data.stored_texts import Cells

__all__ = ["LabelCells"]


@dataclass(frozen=True)
class LabelCells:
    """A column of labels. `class_names`: the names that the data give to integer labels, if any."""

    cells: Cells
    class_names: tuple[str, ...] | None = None

    def name(self, row: int) -> str | None:
        """Return the name of a row's class; None for a cell that is no label."""
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
        """Return n rows from this one on, without what belongs to others."""
        return LabelCells(self.cells.part(first, n), self.class_names)
