"""Thresholds of calibration inputs that do not fit in memory, found in passes over files of their scores.

A sample that is kept in memory says between which two (score, tie) the one sought is, about; one pass counts who is
surer than both and gathers those between. That decides it, exactly. Where the sample was wrong, or too many lie
between, the next pass looks closer. Ties are told apart by keys, so it makes no difference how many scores are equal.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from exeunt._arrays import Floats, Integers
from exeunt._text import counted
from exeunt.calibration import (
    ALWAYS,
    NEVER,
    Ranked,
    RankedInMemory,
    Thresholds,
    at_least,
    exits_under,
    release,
)
from exeunt.errors import InputError
from exeunt.external_calibration.score_files import BYTES_PER_INPUT, BYTES_PER_SCORE, ScoreFiles
from exeunt.score.tie_breaking import distinct_tie_breaks
from exeunt.trace import ExitTrace, StoredTrace
from exeunt.trace.scoring import score_matrix

if TYPE_CHECKING:
    from exeunt.score.kinds import Score

__all__ = ["ranked"]

_GATHERED = 1 << 21
"""Inputs between two guesses that are kept in memory, at most: of more, some."""
_DEVIATIONS = 5.0
"""How far the guesses lie apart, in standard deviations of a rank in the sample, on either side."""


@contextmanager
def ranked(
    rule: Score, calibrate: ExitTrace | StoredTrace, seed: int, exits: Sequence[int]
) -> Iterator[Ranked]:
    """Yield calibration inputs by how sure they are at these `exits`, ascending; of no others is anything asked.

    Raises InputError if there is no room for their scores in the folder of temporary files, or a score is NaN.
    """
    if not isinstance(calibrate, StoredTrace):
        yield RankedInMemory(score_matrix(rule, calibrate), distinct_tie_breaks(calibrate.id, seed))
        return
    _check_room(calibrate, len(exits))
    with tempfile.TemporaryDirectory(prefix="exeunt-") as folder:
        files = ScoreFiles(Path(folder), calibrate, exits)
        try:
            files.score(rule, seed)
            yield _RankedInFiles(files, calibrate)
        finally:
            files.close()


def _check_room(trace: StoredTrace, n_exits: int) -> None:
    folder = Path(tempfile.gettempdir())
    needed, free = trace.n * (BYTES_PER_SCORE * n_exits + BYTES_PER_INPUT), shutil.disk_usage(folder).free
    if needed > free:
        raise InputError(
            f"the scores of {counted(trace.n, 'input')} at {counted(n_exits, 'exit')} take {needed / 2**30:.3g} GiB "
            f"while thresholds are sought, and {folder} has {free / 2**30:.3g} GiB: set TMPDIR to a folder with more"
        )


class _RankedInFiles:
    """Inputs whose scores, ties and keys lie in files, and whether each is still here."""

    def __init__(self, files: ScoreFiles, trace: StoredTrace) -> None:
        self._files, self._trace, self._n_here = files, trace, trace.n
        self._sampled_here = np.ones(len(files.sample_tie), dtype=np.bool_)
        self._rng = np.random.default_rng(0)  # what it draws changes nothing but the time that is taken

    @property
    def shape(self) -> tuple[int, int]:
        """Number of inputs n, and of exits m."""
        return self._trace.n, self._trace.n_exits

    def release(self, exit_: int, count: int) -> tuple[float, float]:
        """Return the (score, tie) of the `count`-th surest of all inputs at an exit."""
        return self._surest(exit_, count)

    def leave(self, exit_: int, count: int) -> tuple[float, float]:
        """Return that of the inputs still here, or of the last of fewer than that; who is as sure leaves."""
        if (sought := min(count, self._n_here)) <= 0:
            return NEVER, NEVER
        least = self._surest(exit_, sought)
        for start, stop in self._files.ranges():
            here = self._files.here.read(start, stop).copy()
            stays = ~at_least(
                self._files.scores[exit_].read(start, stop), self._files.tie.read(start, stop), *least
            )
            self._n_here -= int(np.count_nonzero(here & ~stays))
            self._files.here.write(start, here & stays)
        self._sampled_here &= ~at_least(self._files.sample[exit_], self._files.sample_tie, *least)
        return least

    def counts(self, limits: Thresholds) -> Integers:
        """Return how many of all inputs answer at each exit, (m,)."""
        m = self._trace.n_exits
        found = np.zeros(m, dtype=np.int64)
        for start, stop in self._files.ranges():
            # Of an exit without scores nobody leaves, or everybody: any score will do.
            scores = np.zeros((stop - start, m))
            for exit_, numbers in self._files.scores.items():
                scores[:, exit_] = numbers.read(start, stop)
            found += np.bincount(exits_under(scores, self._files.tie.read(start, stop), limits), minlength=m)
        return found

    def _surest(self, exit_: int, count: int) -> tuple[float, float]:
        """Return the (score, tie) of the `count`-th surest of the inputs still here at an exit."""
        began, here = time.monotonic(), self._sampled_here
        low, high = _around(
            self._files.sample[exit_][here], self._files.sample_tie[here], count, self._n_here
        )
        passes = 0
        while True:
            passes += 1
            surer, n_between, scores, ties = self._between(exit_, low, high)
            if count <= surer:
                low, high = high, (NEVER, NEVER)
            elif count > surer + n_between:
                low, high = (ALWAYS, ALWAYS), low
            elif n_between == len(scores):
                break
            elif low == high:  # as good as impossible: so many with one score and one tie
                return low
            else:
                low, high = _around(scores, ties, count - surer, n_between)
        self._trace.say(
            f"exit {exit_}: threshold found among {counted(self._n_here, 'input')} in "
            f"{counted(passes, 'pass', 'passes')}, {time.monotonic() - began:.1f} s"
        )
        return release(scores, ties, count - surer)

    def _between(
        self, exit_: int, low: tuple[float, float], high: tuple[float, float]
    ) -> tuple[int, int, Floats, Floats]:
        """Return how many of the inputs here are surer than `high`, how many of the others are as sure as `low`, and
        scores and ties of those; if they are many, of some of them.
        """
        surer = between = held = 0
        scores: list[Floats] = []
        ties: list[Floats] = []
        share = 1.0
        for start, stop in self._files.ranges():
            here = np.flatnonzero(self._files.here.read(start, stop))
            score, tie = (
                self._files.scores[exit_].read(start, stop)[here],
                self._files.tie.read(start, stop)[here],
            )
            above = (score > high[0]) | ((score == high[0]) & (tie > high[1]))
            found = np.flatnonzero(at_least(score, tie, *low) & ~above)
            surer += int(np.count_nonzero(above))
            between += len(found)
            found = found if share == 1.0 else found[self._rng.random(len(found)) < share]
            scores.append(score[found])
            ties.append(tie[found])
            held += len(found)
            while held > _GATHERED:
                kept = self._rng.random(held) < 0.5
                scores, ties = [np.concatenate(scores)[kept]], [np.concatenate(ties)[kept]]
                share, held = share / 2, int(np.count_nonzero(kept))
        return surer, between, np.concatenate(scores), np.concatenate(ties)


def _around(
    scores: Floats, ties: Floats, count: int, n: int
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Return two (score, tie) between which the `count`-th surest of n inputs is, most likely, by a sample of them."""
    size = len(scores)
    place, margin = count / n * size, _DEVIATIONS * size**0.5 / 2 + 1
    high, low = int(np.floor(place - margin)), int(np.ceil(place + margin))
    return (
        release(scores, ties, low) if low <= size else (ALWAYS, ALWAYS),
        release(scores, ties, high),
    )
