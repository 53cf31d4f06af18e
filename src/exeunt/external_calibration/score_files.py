"""Scores, ties and keys of inputs that do not fit in memory, in files."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from exeunt._arrays import Floats, Integers, Keys
from exeunt.errors import InputError
from exeunt.score.confidence import NamedScore
from exeunt.score.tie_breaking import copy_numbers, keys_of_copies, scramble, tie_breaks

if TYPE_CHECKING:
    from exeunt.score.kinds import Score
    from exeunt.trace import ExitTrace, StoredTrace

__all__ = ["BYTES_PER_INPUT", "BYTES_PER_SCORE", "ScoreFiles"]

BYTES_PER_INPUT, BYTES_PER_SCORE = 17, 8
"""What is written of an input: its key, its tie and whether it is here; and a score for each exit."""

_ROWS = 1 << 18
"""Inputs that are read at a time."""
_SAMPLE = 1 << 18
"""Inputs whose scores are kept in memory, about."""
_AT_ONCE = 1 << 22
"""Keys that are looked through for copies at a time."""
_SECONDS = 10.0
"""How often it is told how far a pass is."""


class Numbers:
    """A file of numbers of one type, read and written in ranges."""

    def __init__(self, path: Path, kind: type) -> None:
        self._file = path.open("w+b")
        self._kind: np.dtype[Any] = np.dtype(kind)

    def append(self, values: NDArray[Any]) -> None:
        """Write values at the end: the file is not read before it is complete."""
        self._file.write(values.astype(self._kind, copy=False).tobytes())

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Return the values from `start` to before `stop`; they cannot be changed."""
        self._file.seek(start * self._kind.itemsize)
        return np.frombuffer(self._file.read((stop - start) * self._kind.itemsize), dtype=self._kind)

    def write(self, start: int, values: NDArray[Any]) -> None:
        """Replace the values from `start` on."""
        self._file.seek(start * self._kind.itemsize)
        self._file.write(values.tobytes())

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class ScoreFiles:
    """Scores at some exits, by exit, ties, keys, and who is still here, of the inputs of a trace, in a folder.

    `sample`: the scores of some of the inputs by exit, `sample_tie` their ties, about, to guess by.
    """

    def __init__(self, folder: Path, trace: StoredTrace, exits: Sequence[int]) -> None:
        self._trace, self.n = trace, trace.n
        self.scores = {exit_: Numbers(folder / f"score-{exit_}", np.float64) for exit_ in exits}
        self.tie = Numbers(folder / "tie", np.float64)
        self.here = Numbers(folder / "here", np.bool_)
        self._id = Numbers(folder / "id", np.uint64)
        self.sample: dict[int, Floats] = {}
        self.sample_tie: Floats = np.empty(0)

    def close(self) -> None:
        """Close the files."""
        for numbers in (*self.scores.values(), self.tie, self.here, self._id):
            numbers.close()

    def ranges(self) -> Iterator[tuple[int, int]]:
        """Yield the first input of each range that is read at a time, and the one after its last."""
        for start in range(0, self.n, _ROWS):
            yield start, min(start + _ROWS, self.n)

    def score(self, rule: Score, seed: int) -> None:
        """Compute the scores of all inputs, exit after exit, as a policy sees them."""
        names = [rule.name] if isinstance(rule, NamedScore) else None
        sampled: dict[int, list[Floats]] = {exit_: [] for exit_ in self.scores}
        ties: list[Floats] = []
        told = _Telling(self._trace, "scored", self.n)
        rng = np.random.default_rng(0)  # what it draws changes nothing but the time that is taken
        for chunk in self._trace.chunks(names):
            taken = np.flatnonzero(rng.random(chunk.n) < _SAMPLE / self.n)
            for exit_, scores in _scored(rule, chunk, max(self.scores, default=-1)):
                if exit_ in self.scores:
                    self.scores[exit_].append(scores)
                    sampled[exit_].append(scores[taken])
            own = tie_breaks(chunk.id, seed)
            self._id.append(chunk.id)
            self.tie.append(own)
            self.here.append(np.ones(chunk.n, dtype=np.bool_))
            ties.append(own[taken])
            told.add(chunk.n)
        self.sample = {exit_: np.concatenate(found) for exit_, found in sampled.items()}
        self.sample_tie = np.concatenate(ties)
        self._part_copies(seed)

    def _part_copies(self, seed: int) -> None:
        """Give copies of one key ties of their own, as `distinct_tie_breaks` does.

        The keys are gone through in as many parts as bound memory, each by a hash of the keys.
        """
        n_parts = -(-self.n // _AT_ONCE)
        told = _Telling(self._trace, "looked through for copies", n_parts * self.n)
        for part in range(n_parts):
            known, seen = np.empty(0, dtype=np.uint64), np.empty(0, dtype=np.uint64)
            for rows, ids, more in self._blocks(part, n_parts, told):
                copies, before = copy_numbers(ids), _looked_up(known, seen, ids)
                if copies is not None or before.any():
                    copies = before if copies is None else copies + before
                    again = np.flatnonzero(copies)
                    self._rewrite(rows[again], tie_breaks(keys_of_copies(ids[again], copies[again]), seed))
                if more:
                    known, seen = _added(known, seen, ids)

    def _blocks(self, part: int, n_parts: int, told: _Telling) -> Iterator[tuple[Integers, Keys, bool]]:
        """Yield the rows and keys of a part in order, about as many at a time as may be looked through at once, and
        whether more follow.
        """
        rows: list[Integers] = []
        ids: list[Keys] = []
        held = 0
        for start, stop in self.ranges():
            found = self._id.read(start, stop)
            mine = np.flatnonzero(scramble(found) % np.uint64(n_parts) == part)
            rows.append(mine + start)
            ids.append(found[mine])
            held += len(mine)
            told.add(stop - start)
            if held >= 2 * _AT_ONCE:  # one key occurs very often
                yield np.concatenate(rows), np.concatenate(ids), True
                rows, ids, held = [], [], 0
        if held:
            yield np.concatenate(rows), np.concatenate(ids), False

    def _rewrite(self, rows: Integers, ties: Floats) -> None:
        """Replace the ties of some rows, ascending."""
        for start, stop in self.ranges():
            low, high = np.searchsorted(rows, [start, stop])
            if high > low:
                block = self.tie.read(start, stop).copy()
                block[rows[low:high] - start] = ties[low:high]
                self.tie.write(start, block)


def _scored(rule: Score, chunk: ExitTrace, last: int) -> Iterator[tuple[int, Floats]]:
    """Yield each exit up to the last that is needed, and the scores (rows,) there."""
    memory = rule.init(chunk.n)
    for exit_ in range(last + 1):
        column, memory = rule(exit_, chunk.evidence(exit_), memory)
        scores = np.asarray(column, dtype=np.float64)
        if np.isnan(scores).any():
            raise InputError(f"the score {rule.name} is NaN for an input at exit {exit_}")
        yield exit_, scores


def _looked_up(known: Keys, seen: Keys, ids: Keys) -> Keys:
    """Return how often each of these keys was seen before, (rows,): `known` are sorted, `seen` says how often."""
    if len(known) == 0:
        return np.zeros(len(ids), dtype=np.uint64)
    place = np.minimum(np.searchsorted(known, ids), len(known) - 1)
    return np.where(known[place] == ids, seen[place], np.uint64(0))


def _added(known: Keys, seen: Keys, ids: Keys) -> tuple[Keys, Keys]:
    """Return the keys known after these were seen too, sorted, and how often."""
    distinct, times = np.unique(ids, return_counts=True)
    keys, of = np.unique(np.concatenate([known, distinct]), return_inverse=True)
    total = np.zeros(len(keys), dtype=np.uint64)
    np.add.at(total, of, np.concatenate([seen, times.astype(np.uint64)]))
    return keys, total


class _Telling:
    """Says how far a pass is and how long the rest of it will take, now and then."""

    def __init__(self, trace: StoredTrace, what: str, n: int) -> None:
        self._say, self._what, self._n = trace.say, what, n
        self._began = self._told = time.monotonic()
        self._done = 0

    def add(self, n: int) -> None:
        """Note that so many more are done."""
        self._done += n
        now = time.monotonic()
        if now - self._told >= _SECONDS:
            self._told = now
            left = (now - self._began) * (self._n - self._done) / self._done
            self._say(f"{self._done / self._n:.0%} of the inputs {self._what}, some {left:.0f} s left")
