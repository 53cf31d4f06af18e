"""How long an executor takes here: seconds per segment and number of rows. Measured once, kept in the bundle."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from exeunt import _arrays
from exeunt._sealed import read_sealed, write_sealed
from exeunt.errors import ArtefactError, InputError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import ArrayLike

    from exeunt._arrays import Floats
    from exeunt.runtime.executor import Segments

__all__ = ["Profile"]

_FORMAT, _VERSION = "exeunt-profile", 1


@dataclass(frozen=True, eq=False)
class Profile:
    """Seconds per call, each a median over repeats, on one machine.

    `executor`: its name. `segments`: s of them. `sizes` (b,): rows of a call, ascending, at least 1.
    `run` (s, b): a segment without its heads. `head` (m, b): what an exit's head adds, scores and decision
    included. `gather` (s, b): putting that many rows together for this segment (0 before the first).
    `whole` (b,): the uncut network, without heads, on the same executor; None where it was not measured.
    `spread` (s, b): relative half-width of `run`, from the 10 % to the 90 % quantile of repeats; None if unknown.
    `machine`: what it was measured on, JSON-able.
    """

    executor: str
    segments: Segments
    sizes: tuple[int, ...]
    run: Floats
    head: Floats
    gather: Floats
    whole: Floats | None = None
    spread: Floats | None = None
    machine: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        sizes = tuple(int(size) for size in self.sizes)
        if not sizes or sizes[0] < 1 or any(a >= b for a, b in pairwise(sizes)):
            raise InputError(f"sizes must be ascending numbers of rows from 1 on, got {self.sizes}")
        object.__setattr__(self, "sizes", sizes)
        segments = tuple((int(first), int(last)) for first, last in self.segments)
        object.__setattr__(self, "segments", segments)
        shapes = {
            "run": (len(segments), len(sizes)),
            "head": (self.n_exits, len(sizes)),
            "gather": (len(segments), len(sizes)),
            "whole": (len(sizes),),
            "spread": (len(segments), len(sizes)),
        }
        for name, shape in shapes.items():
            if getattr(self, name) is not None:
                object.__setattr__(self, name, _table(getattr(self, name), name, shape))

    @property
    def n_exits(self) -> int:
        """Number of exits m."""
        return self.segments[-1][1] + 1

    def seconds(self, segment: int, rows: Any, heads: Any = ()) -> Any:
        """Return the seconds of one call with `rows` rows (a number or an array), the `heads` of it included.

        Linear between the sizes measured; beyond them in proportion to the rows. Part of a row (an expected
        number below 1) takes that part of a call with one.
        """
        table = self.run[segment] + self.head[list(heads)].sum(axis=0)
        return interpolated(self.sizes, table, rows)

    def gather_seconds(self, segment: int, rows: Any) -> Any:
        """Return the seconds of putting `rows` rows together for a segment, as `seconds` does."""
        return interpolated(self.sizes, self.gather[segment], rows)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able form; `from_dict` gives back an equal profile."""
        tables = ("run", "head", "gather", "whole", "spread")
        return {
            "executor": self.executor,
            "segments": [list(segment) for segment in self.segments],
            "sizes": list(self.sizes),
            **{name: None if (value := getattr(self, name)) is None else value.tolist() for name in tables},
            "machine": dict(self.machine),
        }

    @classmethod
    def from_dict(cls, body: Mapping[str, Any]) -> Profile:
        """Rebuild a profile from `to_dict`."""
        return cls(**body)

    def save(self, path: str | Path) -> None:
        """Write the profile as sealed JSON, atomically."""
        write_sealed(path, "profile", self.to_dict(), format_=_FORMAT, version=_VERSION)

    @classmethod
    def load(cls, path: str | Path) -> Profile:
        """Read a profile. Raises ArtefactError if the file is damaged, edited, foreign or newer."""
        body = read_sealed(
            path, "profile", kind="profile", format_=_FORMAT, version=_VERSION, remedy="measure it again"
        )
        try:
            return cls.from_dict(body)
        except (TypeError, ValueError, LookupError) as error:
            raise ArtefactError(f"{path} cannot be read as a profile: {error!r}") from error


def interpolated(sizes: ArrayLike, seconds: Floats, rows: Any) -> Any:
    """Return the seconds of calls with `rows` rows: linear in between, in proportion outside the sizes."""
    grid, wanted = np.asarray(sizes, dtype=np.float64), np.asarray(rows, dtype=np.float64)
    beyond = np.maximum(wanted / grid[-1], 1.0) * np.minimum(wanted, 1.0)
    return np.interp(wanted, grid, seconds) * beyond


def _table(value: Any, name: str, shape: tuple[int, ...]) -> Floats:
    table = _arrays.floats(value, name, ndim=len(shape))
    if table.shape != shape or (table < 0).any() or not np.isfinite(table).all():
        raise InputError(
            f"{name} must have shape {shape} and hold finite seconds of 0 or above, got {table.shape}"
        )
    return _arrays.frozen(table)
