"""The recent inputs that a watch remembers, to tell since when and how they differ once there is an alarm."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any, TypeAlias, TypedDict

import numpy as np

from exeunt._support import arrays
from exeunt._support.arrays import Floats, Integers
from exeunt._support.checked_types import check_kind
from exeunt.errors import InputError

REMEMBERED = 4096
_Batch: TypeAlias = "tuple[Integers, Integers, Floats | None]"


class _Latest(TypedDict):
    exits: list[int]
    cells: list[int]
    ties: list[float] | None


class LatestInputs:
    """Exits, cells and ties of the last `REMEMBERED` inputs, or a batch more."""

    def __init__(self) -> None:
        self._batches: deque[_Batch] = deque()
        self._n = 0

    def add(self, exits: Integers, cells: Integers, ties: Floats | None) -> None:
        """Remember a batch: copies, since callers may use their arrays again."""
        self._batches.append((exits.copy(), cells, None if ties is None else ties.copy()))
        self._n += len(exits)
        while self._n - len(self._batches[0][0]) >= REMEMBERED:
            self._n -= len(self._batches.popleft()[0])

    @property
    def exits(self) -> Integers:
        """The exits (n,)."""
        return np.concatenate([exits for exits, _, _ in self._batches] or [np.empty(0, np.int64)])

    @property
    def cells(self) -> Integers:
        """The cells (n,)."""
        return np.concatenate([cells for _, cells, _ in self._batches] or [np.empty(0, np.int64)])

    @property
    def ties(self) -> Floats | None:
        """The ties (n,); None unless all inputs had them."""
        batches = [ties for _, _, ties in self._batches if ties is not None]
        return np.concatenate(batches) if batches and len(batches) == len(self._batches) else None

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able form."""
        ties = self.ties
        return {
            "exits": self.exits.tolist(),
            "cells": self.cells.tolist(),
            "ties": None if ties is None else ties.tolist(),
        }

    @classmethod
    def from_dict(cls, body: Mapping[str, Any]) -> LatestInputs:
        """Rebuild from `to_dict`. Raises InputError for what are no inputs."""
        check_kind(body, _Latest, "latest")
        exits, cells = (arrays.integers(body[name], name, ndim=1) for name in ("exits", "cells"))
        ties = None if body["ties"] is None else arrays.floats(body["ties"], "ties", ndim=1)
        for name, values in (("cells", cells), ("ties", exits if ties is None else ties)):
            arrays.check_length(values, name, len(exits))
        latest = cls()
        if len(exits):
            latest.add(exits, cells, ties)
        return latest

    def check_below(self, m: int, n_cells: int) -> None:
        """Raise InputError unless all are of the first m exits and n cells."""
        for name, values, limit in (("exits", self.exits, m), ("cells", self.cells, n_cells)):
            if len(values) and not 0 <= values.min() <= values.max() < limit:
                raise InputError(f"{name} of the latest inputs must be from 0 to {limit - 1}")
