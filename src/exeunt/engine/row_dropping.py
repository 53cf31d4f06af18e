"""Dropping finished rows from a state: the last rows move into the places of those that leave.

A state holds megabytes. Copying all rows that stay takes as long as a block of a small network, even if only a few
leave. Moving as many rows as leave takes next to nothing, but changes the order of the rows.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from exeunt._arrays import Integers


def moves(keep: Integers) -> tuple[Integers, Integers, Integers]:
    """Return (holes, movers, order) that bring the rows `keep`, ascending, to the front.

    Rows `movers` go to the places `holes`; `order` (len(keep),) then says which row is at each place.
    """
    order = np.arange(len(keep))
    leaves = np.ones(len(keep), dtype=bool)
    leaves[keep[keep < len(keep)]] = False
    holes, movers = order[leaves], keep[keep >= len(keep)]
    order[holes] = movers
    return holes, movers, order


def compacted(array: NDArray[Any], keep: Integers, *, axis: int = 0) -> NDArray[Any]:
    """Return a view of an array's front, which now holds the rows `keep` in the order of `moves`."""
    holes, movers, _ = moves(keep)
    rows = np.moveaxis(array, axis, 0)
    rows[holes] = rows[movers]
    return np.moveaxis(rows[: len(keep)], 0, axis)
