"""Timing on a machine that has other work: calls interleaved, medians with spread, and which machine it was."""

from __future__ import annotations

import gc
import os
import platform
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import ArrayLike

    from exeunt._arrays import Floats

__all__ = ["Spread", "describe_machine", "in_turns", "is_here"]

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


_CPUINFO = Path("/proc/cpuinfo")


def describe_machine() -> dict[str, Any]:
    """Return what tells this machine from another, JSON-able."""
    return {
        "system": platform.system(),
        "machine": platform.machine(),
        "processor": _processor(),
        "node": platform.node(),
        "cores": os.cpu_count(),
    }


def is_here(machine: Mapping[str, Any]) -> bool:
    """Whether what `describe_machine` said is true of this machine.

    Names of nodes do not count: equal machines take equal time, and a container has a new name each time.
    """
    here = describe_machine()
    return all(machine.get(name) == here[name] for name in here if name != "node")


def _processor() -> str:
    """Return the name of the processor; on Linux Python itself does not know it."""
    lines = _CPUINFO.read_text().splitlines() if _CPUINFO.is_file() else []
    names = {line.partition(":")[2].strip() for line in lines if line.startswith("model name")}
    return ", ".join(sorted(names)) or platform.processor()
