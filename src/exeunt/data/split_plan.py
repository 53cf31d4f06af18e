"""The record of which inputs of a source go where."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from exeunt.errors import ArtefactError, InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from exeunt._arrays import Booleans, Integers
    from exeunt.data.dataset import Dataset
    from exeunt.data.source import Source

PARTS = ("train", "fit", "calibrate", "test")


@dataclass(frozen=True, kw_only=True)
class PartRows:
    """Rows of one part: those `listed` of a file of `n_file` rows, or with `rest` all but those."""

    file: str
    n_file: int
    listed: tuple[int, ...] = field(repr=False)
    rest: bool = False

    def __len__(self) -> int:
        return self.n_file - len(self.listed) if self.rest else len(self.listed)

    def indices(self) -> Integers:
        """Return the rows in ascending order, int64."""
        listed = np.array(self.listed, dtype=np.int64)
        if not self.rest:
            return listed
        kept: Booleans = np.ones(self.n_file, dtype=np.bool_)
        kept[listed] = False
        return np.flatnonzero(kept)

    @classmethod
    def of(cls, file: str, n_file: int, rows: Integers) -> PartRows:
        """Describe `rows`, or their complement where that is shorter."""
        chosen: Booleans = np.zeros(n_file, dtype=np.bool_)
        chosen[rows] = True
        rest = 2 * int(chosen.sum()) > n_file
        listed = np.flatnonzero(~chosen if rest else chosen)
        return cls(file=file, n_file=n_file, listed=tuple(listed.tolist()), rest=rest)


@dataclass(frozen=True, kw_only=True)
class SplitPlan:
    """Which inputs of a source go where; JSON-able, and bound to the source by its fingerprint.

    dropped: training inputs left out because a test input is identical to them.
    matched_by: how identical inputs were found, "content" (decoded) or "stored" (bytes as they lie).
    """

    source: str
    fingerprint: str
    seed: int
    pretrained: bool
    matched_by: str
    dropped: int
    parts: Mapping[str, PartRows]

    def indices(self, part: str) -> Integers:
        """Return the rows of `part` within its file, ascending."""
        return self._part(part).indices()

    def size(self, part: str) -> int:
        """Return how many inputs `part` has."""
        return len(self._part(part))

    def select(self, source: Source, part: str) -> Dataset:
        """Return the inputs of `part`; raises InputError if `source` is not the data planned for."""
        rows = self._part(part)
        if source.fingerprint != self.fingerprint:
            raise InputError(
                f"this split was planned for {self.source} with fingerprint {self.fingerprint}, but "
                f"{source.name} has {source.fingerprint}: the data has changed, plan the split again"
            )
        return source.file(rows.file).take(rows.indices())

    def describe(self) -> str:
        """Return a small table: part, inputs, and the file they come from."""
        lines = [f"{'part':<10} {'inputs':>9}  from"]
        lines += [
            f"{part:<10} {len(rows):>9,}  {rows.file} ({rows.n_file:,})" for part, rows in self.parts.items()
        ]
        if self.dropped:
            lines.append(f"{self.dropped:,} training inputs dropped: identical to test inputs")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able form."""
        parts = {
            part: {"file": r.file, "n_file": r.n_file, "rest": r.rest, "listed": list(r.listed)}
            for part, r in self.parts.items()
        }
        plain = ("source", "fingerprint", "seed", "pretrained", "matched_by", "dropped")
        return {**{name: getattr(self, name) for name in plain}, "parts": parts}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> SplitPlan:
        """Rebuild from `to_dict`; raises ArtefactError if something is missing or parts overlap."""
        try:
            parts = {
                part: PartRows(**{**rows, "listed": tuple(rows["listed"])})
                for part, rows in value["parts"].items()
            }
            plan = cls(**{**value, "parts": parts})
            plan._check_disjoint()
        except (KeyError, TypeError, AttributeError, IndexError) as error:
            raise ArtefactError(f"this is not a split plan: {error!r}") from error
        return plan

    def _part(self, part: str) -> PartRows:
        if part not in self.parts:
            raise InputError(f"there is no part {part!r}; parts are {', '.join(self.parts)}")
        return self.parts[part]

    def _check_disjoint(self) -> None:
        for file in {rows.file for rows in self.parts.values()}:
            rows = [part.indices() for part in self.parts.values() if part.file == file]
            joined = np.concatenate(rows)
            if len(np.unique(joined)) != len(joined):
                raise ArtefactError(f"the parts of this split plan overlap in the {file} data")
