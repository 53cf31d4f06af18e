"""What a controller of the budget is told: the policies that there are, and what happens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from exeunt.errors import InputError

__all__ = ["Load", "OperatingPoint", "rising"]


@dataclass(frozen=True)
class OperatingPoint:
    """A policy as the controller sees it.

    `budget`: in the unit of its costs. `accuracy`: estimated, in [0, 1]. `row_s`: seconds that a row takes in a large
    pass. `pass_s`: seconds of a pass from the first segment to the last whatever its number of rows.
    """

    name: str
    budget: float
    accuracy: float
    row_s: float
    pass_s: float = 0.0


@dataclass(frozen=True)
class Load:
    """What happened since the last observation, and what waits now.

    `rows`: arrived for the active policy. `requests`: of those without a deadline of their own; `together`: their
    rows. `own_s`: seconds that rows take which arrived for a policy of their own. `waiting`: rows without a deadline of
    their own that are not answered yet, being decoded or in the engine; `answered`: those that were; `late`: after more
    than `Controller.late_s`. `busy_s`: seconds that the engine took; `expected_s`: what its calls take by profile.
    """

    rows: int = 0
    requests: int = 0
    together: int = 0
    own_s: float = 0.0
    waiting: int = 0
    answered: int = 0
    late: int = 0
    busy_s: float = 0.0
    expected_s: float = 0.0


def rising(points: Sequence[OperatingPoint]) -> tuple[OperatingPoint, ...]:
    """Leave out points that answer no better than a cheaper one. Raises InputError unless times are above 0."""
    kept: list[OperatingPoint] = []
    for point in points:
        if not (point.row_s > 0 and point.pass_s >= 0):
            raise InputError(
                f"{point.name} must take seconds above 0 per row and at least 0 per pass, got {point.row_s} and "
                f"{point.pass_s}"
            )
        if not kept or point.accuracy > kept[-1].accuracy:
            kept.append(point)
    return tuple(kept)
