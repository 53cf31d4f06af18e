"""Thresholds from calibration inputs that do not fit in memory, found in passes over files of their scores.

A sample in memory gives two (score, tie) between which the one sought most likely lies. One pass counts the inputs
above both and collects those between them, which decides it exactly. If the sample was wrong, or too many inputs lie
between, the next pass uses closer ones. Any number of scores may be equal.
"""

from __future__ import annotations

import math
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from exeunt._support.arrays import Floats, Integers
from exeunt._support.progress import Progress
from exeunt._support.text import counted
from exeunt.errors import InputError
from exeunt.policy.calibration import (
    ALWAYS,
    NEVER,
    Ranked,
    RankedInMemory,
    Thresholds,
    at_least,
    exits_under,
    release,
)
from exeunt.score.confidence import NamedScore
from exeunt.score.tie_breaking import Ties, tie_breaks
from exeunt.trace import ExitTrace, StoredTrace
from exeunt.trace.derived import score_matrix

if TYPE_CHECKING:
    from exeunt.score.kinds import Score

Pair: TypeAlias = "tuple[float, float]"
"""A score and a tie, by which inputs are compared."""

_BYTES_PER_INPUT, _BYTES_PER_SCORE = 9, 8  # tie and whether the input is still here; a score per exit
_ROWS = 1 << 18  # inputs that are read at a time
_SAMPLE = 1 << 18  # inputs whose scores are kept in memory, about
_COLLECTED = 1 << 21  # inputs between two guesses that are kept in memory, at most
_DEVIATIONS = 5.0  # distance of a guess from the rank sought, in standard deviations of a rank in the sample
_SECONDS = 10.0  # between two reports of progress


@contextmanager
def ranked(
    rule: Score, calibrate: ExitTrace | StoredTrace, ties: Ties, seed: int, exits: Sequence[int]
) -> Iterator[Ranked]:
    """Yield calibration inputs, ranked by their scores at `exits` (ascending); callers ask about no other exit.

    Raises InputError if the folder of temporary files has no room for the scores, or a score is NaN.
    """
    if not isinstance(calibrate, StoredTrace):
        yield RankedInMemory(score_matrix(rule, calibrate), tie_breaks(calibrate.keys(ties), seed))
        return
    place = tempfile.gettempdir()
    needed = calibrate.n * (_BYTES_PER_SCORE * len(exits) + _BYTES_PER_INPUT)
    if needed > (free := shutil.disk_usage(place).free):
        raise InputError(
            f"the scores of {counted(calibrate.n, 'input')} at {counted(len(exits), 'exit')} take "
            f"{needed / 2**30:.3g} GiB while thresholds are sought, and {place} has {free / 2**30:.3g} GiB: set TMPDIR "
            "to a folder with more"
        )
    with tempfile.TemporaryDirectory(prefix="exeunt-") as folder:
        yield _RankedInFiles(calibrate, exits, Path(folder), rule, ties, seed)


class _Numbers:
    """A file of numbers of one type, read and written in ranges."""

    def __init__(self, file: Path, dtype: type) -> None:
        self._file, self._dtype = file, np.dtype(dtype)
        file.touch()

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Return the values from `start` to before `stop`."""
        return np.fromfile(self._file, self._dtype, stop - start, offset=start * self._dtype.itemsize)

    def write(self, start: int, values: NDArray[Any]) -> None:
        """Replace the values from `start` on, or append them."""
        with self._file.open("r+b") as file:
            file.seek(start * self._dtype.itemsize)
            file.write(values.astype(self._dtype, copy=False).tobytes())


class _RankedInFiles:
    """Inputs whose scores at some exits, ties, and whether they are still here, lie in files.

    A sample of the scores and ties is kept in memory to guess by.
    """

    def __init__(
        self,
        trace: StoredTrace,
        exits: Sequence[int],
        folder: Path,
        rule: Score,
        ties: Ties,
        seed: int,
    ) -> None:
        self._trace, self._n_here = trace, trace.n
        self._scores = {exit_: _Numbers(folder / f"score-{exit_}", np.float64) for exit_ in exits}
        self._tie, self._here = _Numbers(folder / "tie", np.float64), _Numbers(folder / "here", np.bool_)
        self._rng = np.random.default_rng(0)  # its draws change nothing but the time that is taken
        self._score(rule, ties, seed)
        self._sampled_here = np.ones(len(self._sample_tie), dtype=np.bool_)

    @property
    def shape(self) -> tuple[int, int]:
        """Number of inputs n, and of exits m."""
        return self._trace.n, self._trace.n_exits

    def release(self, exit_: int, count: int) -> Pair:
        """Return the (score, tie) of the `count`-th surest of the inputs still here at an exit."""
        began, here = time.monotonic(), self._sampled_here
        low, high = _around(self._sample[exit_][here], self._sample_tie[here], count, self._n_here)
        least, highest = (ALWAYS, ALWAYS), (NEVER, NEVER)  # the one sought is one of these or between them
        passes = 0
        while True:
            passes += 1
            above, n_between, scores, ties = self._between(exit_, low, high)
            if count <= above:
                low, high = least, highest = (high[0], math.nextafter(high[1], NEVER)), highest
            elif count > above + n_between:
                low, high = least, highest = least, (low[0], math.nextafter(low[1], ALWAYS))
            elif n_between == len(scores):
                break
            elif low == high:  # very many copies of one input
                return low
            else:
                least, highest, before = max(least, low), min(highest, high), (low, high)
                low, high = _around(scores, ties, count - above, n_between)
                low, high = max(least, low), min(highest, high)
                # Very many copies of a few inputs: look at one alone.
                if (low, high) == before and len(scores):
                    low = high = release(scores, ties, 1)
        self._trace.say(
            f"exit {exit_}: threshold found among {counted(self._n_here, 'input')} in "
            f"{counted(passes, 'pass', 'passes')}, {time.monotonic() - began:.1f} s"
        )
        return release(scores, ties, count - above)

    def leave(self, exit_: int, reached: int) -> Pair:
        """Let the surest inputs here leave until `reached` of all have left; return the last one's (score, tie)."""
        if (sought := reached - (self._trace.n - self._n_here)) <= 0:
            return NEVER, NEVER
        least = self.release(exit_, sought)
        for start, stop in self._ranges():
            here = self._here.read(start, stop)
            stays = here & ~at_least(
                self._scores[exit_].read(start, stop), self._tie.read(start, stop), *least
            )
            self._n_here -= int(np.count_nonzero(here) - np.count_nonzero(stays))
            self._here.write(start, stays)
        self._sampled_here &= ~at_least(self._sample[exit_], self._sample_tie, *least)
        return least

    def counts(self, limits: Thresholds) -> Integers:
        """Return how many of all inputs answer at each exit, (m,)."""
        m = self._trace.n_exits
        counts = np.zeros(m, dtype=np.int64)
        for start, stop in self._ranges():
            # At an exit without scores no input leaves, or every input does: any score will do.
            scores = np.zeros((stop - start, m))
            for exit_, numbers in self._scores.items():
                scores[:, exit_] = numbers.read(start, stop)
            counts += np.bincount(exits_under(scores, self._tie.read(start, stop), limits), minlength=m)
        return counts

    def at(self, exit_: int) -> tuple[Floats, Floats]:
        """Return the scores (n,) of all inputs at an exit, and their ties (n,)."""
        return self._scores[exit_].read(0, self._trace.n), self._tie.read(0, self._trace.n)

    def _ranges(self) -> Iterator[tuple[int, int]]:
        """Yield the first input of each range that is read at a time, and the one after its last."""
        for start in range(0, self._trace.n, _ROWS):
            yield start, min(start + _ROWS, self._trace.n)

    def _score(self, rule: Score, kind: Ties, seed: int) -> None:
        """Write the scores of all inputs, exit after exit, as a policy computes them, and take the sample."""
        names = [rule.name] if isinstance(rule, NamedScore) else None
        sampled: dict[int, list[Floats]] = {exit_: [] for exit_ in self._scores}
        ties: list[Floats] = []
        progress = Progress("inputs scored", total=self._trace.n, say=self._trace.say, every_s=_SECONDS)
        start = 0
        for chunk in self._trace.chunks(names):
            taken = np.flatnonzero(self._rng.random(chunk.n) < _SAMPLE / self._trace.n)
            memory = rule.init(chunk.n)
            for exit_ in range(max(self._scores, default=-1) + 1):
                column, memory = rule(exit_, chunk.evidence(exit_), memory)
                scores = np.asarray(column, dtype=np.float64)
                if np.isnan(scores).any():
                    raise InputError(f"the score {rule.name} is NaN for an input at exit {exit_}")
                if exit_ in self._scores:
                    self._scores[exit_].write(start, scores)
                    sampled[exit_].append(scores[taken])
            tie = tie_breaks(chunk.keys(kind), seed)
            self._tie.write(start, tie)
            self._here.write(start, np.ones(chunk.n, dtype=np.bool_))
            ties.append(tie[taken])
            start += chunk.n
            progress.update(chunk.n)
        self._sample = {exit_: np.concatenate(parts) for exit_, parts in sampled.items()}
        self._sample_tie = np.concatenate(ties)

    def _between(self, exit_: int, low: Pair, high: Pair) -> tuple[int, int, Floats, Floats]:
        """Compare the inputs still here with two guesses.

        Returns how many are above `high`, how many of the others are at least `low`, and the scores and ties of the
        latter, or of a random part of them if they are many.
        """
        above = between = held = 0
        scores: list[Floats] = []
        ties: list[Floats] = []
        share = 1.0
        for start, stop in self._ranges():
            here = np.flatnonzero(self._here.read(start, stop))
            score, tie = self._scores[exit_].read(start, stop)[here], self._tie.read(start, stop)[here]
            surer = (score > high[0]) | ((score == high[0]) & (tie > high[1]))
            rows = np.flatnonzero(at_least(score, tie, *low) & ~surer)
            above += int(np.count_nonzero(surer))
            between += len(rows)
            rows = rows if share == 1.0 else rows[self._rng.random(len(rows)) < share]
            scores.append(score[rows])
            ties.append(tie[rows])
            held += len(rows)
            while held > _COLLECTED:
                drawn = self._rng.random(held) < 0.5
                scores, ties = [np.concatenate(scores)[drawn]], [np.concatenate(ties)[drawn]]
                share, held = share / 2, int(np.count_nonzero(drawn))
        return above, between, np.concatenate(scores), np.concatenate(ties)


def _around(scores: Floats, ties: Floats, count: int, n: int) -> tuple[Pair, Pair]:
    """Return two (score, tie) of a sample between which the `count`-th surest of n inputs most likely lies."""
    size = len(scores)
    place, margin = count / n * size, _DEVIATIONS * size**0.5 / 2 + 1
    high, low = int(np.floor(place - margin)), int(np.ceil(place + margin))
    return (
        release(scores, ties, low) if low <= size else (ALWAYS, ALWAYS),
        release(scores, ties, high),
    )
