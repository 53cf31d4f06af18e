"""Taking times on a machine that has other work: in turns, with medians and spread."""

from __future__ import annotations

import gc
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import ArrayLike

    from exeunt._arrays import Floats

__all__ = ["Spread", "in_turns"]

_FEWEST_ROUNDS = 3


@dataclass(frozen=True)
class Spread:
    """Median, 10 % and 90 % quantile of what was measured several times."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: ArrayLike) -> Spread:
        """Return the spread of values (n,), at least one."""
        median, low, high = np.quantile(np.asarray(values, dtype=np.float64), [0.5, 0.1, 0.9])
        return cls(float(median), float(low), float(high))

    def __str__(self) -> str:
        return f"{self.median:.3g} ({self.low:.3g} to {self.high:.3g})"


def in_turns(
    calls: Mapping[str, Callable[[int], Any]],
    *,
    rounds: int,
    max_seconds: float,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Floats]:
    """Return the seconds of each call, (rounds,), all of them called once a round: A B C, B C A, C A B, ...

    So whatever else the machine does falls on all alike, and a ratio within a round is free of it. A call gets the
    number of its round, to choose inputs by. One round more goes before, uncounted. It ends after `rounds`, or
    after `max_seconds` once there are three. Garbage is not collected meanwhile.
    """
    names: list[str] = list(calls)
    taken: dict[str, list[float]] = {name: [] for name in names}
    for name in names:
        calls[name](0)
    end, collecting = clock() + max_seconds, gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        for number in range(rounds):
            if number >= _FEWEST_ROUNDS and clock() > end:
                break
            for place in range(len(names)):
                name = names[(place + number) % len(names)]
                began = clock()
                calls[name](number)
                taken[name].append(clock() - began)
    finally:
        if collecting:
            gc.enable()
    return {name: np.array(seconds) for name, seconds in taken.items()}
