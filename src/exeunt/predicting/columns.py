"""The columns of predictions: what is written about each input."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from exeunt._arrays import Floats
from exeunt.errors import InputError

__all__ = ["COLUMNS", "Cells", "Columns"]

Cells: TypeAlias = "dict[str, list[Any]]"
"""Columns of equal length, by name; None for a cell without a value."""

COLUMNS = {
    "name": "string",
    "label": "int64",
    "class_name": "string",
    "confidence": "double",
    "exit": "int64",
    "cost": "double",
    "borderline": "bool",
    "truncated": "bool",
    "error": "string",
}
"""The columns that all predictions have, with their types in Arrow."""


@dataclass(frozen=True)
class Columns:
    """What is written about inputs of a network with these classes.

    `top`: the so many most probable classes, in columns top_1, top_1_probability, top_2, ...; 0 for none.
    `probabilities`: also the probability of every class k, in columns probability_0, probability_1, ...
    Both are those of the exit that answered.

    Raises InputError for a `top` above the number of classes.
    """

    class_names: Sequence[str]
    top: int = 0
    probabilities: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.top <= len(self.class_names):
            raise InputError(
                f"top must be at most {len(self.class_names)}, the number of classes, got {self.top}"
            )

    @property
    def needs_probabilities(self) -> bool:
        """Whether the answers must have all probabilities."""
        return self.probabilities or self.top > 0

    @property
    def types(self) -> dict[str, str]:
        """The types of the columns, by name and in order."""
        ranks = range(1, self.top + 1) if self.top else ()
        top = [(f"top_{i}", "string") for i in ranks], [(f"top_{i}_probability", "double") for i in ranks]
        every = (
            [(f"probability_{k}", "double") for k in range(len(self.class_names))]
            if self.probabilities
            else []
        )
        return dict(
            [
                *COLUMNS.items(),
                *(column for pair in zip(*top, strict=True) for column in pair),
                *every,
            ]
        )

    def cells(
        self,
        names: Sequence[str],
        answers: Mapping[str, NDArray[Any]],
        errors: Sequence[str | None],
        probabilities: Floats | None,
    ) -> Cells:
        """Return the cells of inputs with these names.

        `answers`: the columns label, confidence, exit, cost, borderline and truncated; the label is -1 where there is
        no answer. `probabilities` (n, k): None if they are not needed.
        """
        answered = (answers["label"] >= 0).tolist()
        cells = {name: _shown(column, answered) for name, column in answers.items()}
        cells |= {"name": list(names), "error": list(errors)}
        cells["class_name"] = [None if label is None else self.class_names[label] for label in cells["label"]]
        if probabilities is not None:
            cells |= self._top(probabilities, answered)
            cells |= {
                f"probability_{k}": _shown(column, answered) for k, column in enumerate(probabilities.T)
            }
        return {name: cells[name] for name in self.types}

    def _top(self, probabilities: Floats, answered: Sequence[bool]) -> Cells:
        order = np.argsort(-probabilities, axis=1, kind="stable")[:, : self.top]
        sorted_ = np.take_along_axis(probabilities, order, axis=1)
        cells: Cells = {}
        for rank in range(self.top):
            classes = _shown(order[:, rank], answered)
            cells[f"top_{rank + 1}"] = [None if k is None else self.class_names[k] for k in classes]
            cells[f"top_{rank + 1}_probability"] = _shown(sorted_[:, rank], answered)
        return cells


def _shown(column: NDArray[Any], answered: Sequence[bool]) -> list[Any]:
    return [value if there else None for value, there in zip(column.tolist(), answered, strict=True)]
