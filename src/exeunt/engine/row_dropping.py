"""Dropping rows in place: the last rows move into the places of those that leave.

A state is megabytes. To copy all that stay because a few leave costs as much as a block of a small network; to move
only as many as leave, next to nothing. Rows change their order by that, which nobody minds who knows it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from typing import Any

    from numpy.typing import NDArray

    from exeunt._arrays import Integers

__all__ = ["compacted", "moves"]


def moves(keep: Integers) -> tuple[Integers, Integers, Integers]:
    """Return (holes, movers, order) that leave the rows `keep`, ascending, at the front.

    Rows `movers` go to the places `holes`; `order` (len(keep),) is then which row is at which place.
    """
    order = np.arange(len(keep))
    leaves = np.ones(len(keep), dtype=bool)
    leaves[keep[keep < len(keep)]] = False
    holes, movers = order[leaves], keep[keep >= len(keep)]
    order[holes] = movers
    return holes, movers, order


def compacted(array: NDArray[Any], keep: Integers, *, axis: int = 0) -> NDArray[Any]:
    """Return a view of an array's front, changed to hold the rows `keep` in the order of `moves`."""
    holes, movers, _ = moves(keep)
    rows = np.moveaxis(array, axis, 0)
    rows[holes] = rows[movers]
    return np.moveaxis(rows[: len(keep)], 0, axis)
