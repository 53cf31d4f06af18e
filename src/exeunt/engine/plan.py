"""Plans: how many rows run in a call, and when finished rows are dropped. A plan never changes an answer."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from exeunt._support.checked_types import check_unchanged, of_kinds
from exeunt.engine.executor import Segments
from exeunt.errors import InputError

_PIECE = 64  # rows per call without measurements: larger batches seldom gain on a CPU


@dataclass(frozen=True)
class Plan:
    """How rows are grouped into calls of an executor.

    `executor`: its name. `segments`: those the plan is for. `piece` (s): best number of rows per
    call of each segment. Smaller groups are joined if possible, larger ones are split. `min_batch` (s): rows that are
    worth a call in a stream, where more may arrive; by default `piece`.
    `sizes` (b), `most_alive` (s, b): finished rows are dropped before segment i, from a state of `sizes[j]` rows, once
    at most `most_alive[i][j]` unfinished ones are left. Without sizes they are always dropped.
    `machine`: where it was measured, JSON-able; empty for a plan without measurements.
    """

    executor: str
    segments: Segments
    piece: tuple[int, ...]
    sizes: tuple[int, ...] = ()
    most_alive: tuple[tuple[int, ...], ...] = ()
    machine: Mapping[str, Any] = field(default_factory=dict)
    min_batch: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name in ("segments", "most_alive"):
            object.__setattr__(self, name, tuple(tuple(map(int, row)) for row in getattr(self, name)))
        object.__setattr__(self, "min_batch", self.min_batch or self.piece)
        for name in ("piece", "sizes", "min_batch"):
            object.__setattr__(self, name, tuple(map(int, getattr(self, name))))
        check_segments(self.segments)
        count = len(self.segments)
        for name, rows in {"piece": self.piece, "min_batch": self.min_batch}.items():
            if len(rows) != count or min(rows) < 1:
                raise InputError(f"{name} must be {count} numbers of rows of at least 1, got {rows}")
        if list(self.sizes) != sorted(set(self.sizes)) or min(self.sizes, default=1) < 1:
            raise InputError(f"sizes must be ascending numbers of rows from 1 on, got {self.sizes}")
        shape = {len(row) for row in self.most_alive}
        if self.sizes and (len(self.most_alive) != count or shape != {len(self.sizes)}):
            raise InputError(f"most_alive must be {count} rows of {len(self.sizes)}, got {self.most_alive}")

    @classmethod
    def unmeasured(cls, executor: str, segments: Segments, *, piece: int = _PIECE) -> Plan:
        """Return the plan for an executor without measurements: pieces of one size, finished rows always dropped."""
        return cls(executor, segments, (piece,) * len(segments))

    @property
    def n_exits(self) -> int:
        """Number of exits m."""
        return self.segments[-1][1] + 1

    def calls(self, segment: int, rows: int) -> int:
        """Return the number of calls for this many rows: of the planned size, or up to half as many more."""
        return max(1, int(rows / self.piece[segment] + 0.5))

    def drops(self, segment: int, rows: int, alive: int) -> bool:
        """Whether it pays to drop the finished rows of a state before this segment, with `alive` others left."""
        if not self.sizes:
            return True
        place = max(bisect_right(self.sizes, rows) - 1, 0)
        return alive * self.sizes[place] <= self.most_alive[segment][place] * rows

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able form; `from_dict` gives back an equal plan."""
        return asdict(self)

    @classmethod
    def from_dict(cls, body: Mapping[str, Any]) -> Plan:
        """Rebuild a plan from `to_dict`. Older ones say `company` for `min_batch`. Raises InputError for no plan."""
        plan = of_kinds(
            cls(**{"min_batch" if name == "company" else name: field for name, field in body.items()})
        )
        check_unchanged(plan.to_dict(), body)
        return plan


def segments_between(ends: Iterable[int]) -> Segments:
    """Return the segments that end at these exits, ascending, the network's last among them.

    >>> segments_between([1, 3])
    ((0, 1), (2, 3))
    """
    last = list(ends)
    return tuple(zip([0, *(end + 1 for end in last[:-1])], last, strict=True))


def check_segments(segments: Segments, n_exits: int | None = None) -> None:
    """Raise InputError unless the segments hold every exit from 0 on (to n_exits - 1) once, in order."""
    expected = 0
    for first, last in segments:
        if first != expected or last < first:
            raise InputError(f"segments must follow one another from exit 0 on, got {segments}")
        expected = last + 1
    if expected == 0 or n_exits not in (None, expected):
        raise InputError(f"segments must hold {n_exits or 'some'} exits, got {segments}")
