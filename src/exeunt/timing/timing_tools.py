"""Timing on a machine that also does other work: calls in turns, the spread of their times, and which machine it is."""

from __future__ import annotations

import gc
import os
import platform
import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike

from exeunt._support.arrays import Floats
from exeunt._support.limits import usable_cores
from exeunt.engine.executor import CPU, Executor

_FEWEST_ROUNDS = 3
_IDLE_LOAD = 0.5
"""An idle machine has about this load at most."""
_CPUINFO = Path("/proc/cpuinfo")

Key = TypeVar("Key", bound="Hashable")


@dataclass(frozen=True)
class Spread:
    """Median, 10% and 90% quantile of repeated measurements."""

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

    @property
    def percent(self) -> str:
        """The same of shares, in percent.

        >>> Spread(0.512, 0.48, 0.6).percent
        '51.2% (48% to 60%)'
        """
        return f"{self.median:.1%} ({self.low:.0%} to {self.high:.0%})"


def time_interleaved(
    calls: Mapping[Key, Callable[[int], Any]],
    *,
    rounds: int,
    max_seconds: float,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[Key, Floats]:
    """Return the seconds of each call, (rounds,). Every round makes all the calls: A B C, then B C A, then C A B, ...

    Other work on the machine then slows all calls alike, and cancels out in the ratio of two calls of one round.
    Each call gets the number of its round, to choose its inputs by. A first round is not counted. No round
    starts after `max_seconds`, once three are done. Garbage is not collected meanwhile.
    """
    names = list(calls)
    seconds: dict[Key, list[float]] = {name: [] for name in names}
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
                seconds[name].append(seconds_of(calls[name], number, clock))
    finally:
        if collecting:
            gc.enable()
    return {name: np.array(values) for name, values in seconds.items()}


def seconds_of(call: Callable[[Any], Any], argument: Any, clock: Callable[[], float]) -> float:
    """Return the seconds of one call."""
    began = clock()
    call(argument)
    return clock() - began


def waiting_clock(executor: Executor, clock: Callable[[], float]) -> Callable[[], float]:
    """Return a clock that waits until the executor's device is done before it shows the time."""

    def now() -> float:
        executor.wait()
        return clock()

    return now


def other_work() -> str:
    """Say that other work takes cores on which this process would compute; "" where it leaves them free.

    It goes by the machine's load in the last minute. A system that does not tell it is idle.
    """
    try:
        load = os.getloadavg()[0]
    except (AttributeError, OSError):
        return ""
    own, cores = usable_cores(), os.cpu_count() or 1
    if load + own <= cores + _IDLE_LOAD:
        return ""
    return (
        f"other work keeps {load:.1f} of the machine's {cores} cores busy, and the network would compute on {own}: "
        "times are longer, and several threads may take far longer than one. Measure when the machine is idle, or "
        "PyTorch with OMP_NUM_THREADS=1"
    )


def describe_machine(device: str = CPU) -> dict[str, Any]:
    """Return what identifies this machine and its device that computes, JSON-able."""
    return {
        "system": platform.system(),
        "machine": platform.machine(),
        "processor": _processor(),
        "node": platform.node(),
        "cores": usable_cores(),
        "device": device,
    }


def is_this_machine(machine: Mapping[str, Any], device: str = CPU) -> bool:
    """Return whether a result of `describe_machine` describes a machine like this one, computing on this device.

    The node's name does not count: equal machines take equal time, and a container has a new name each time. A
    description without a device is of the processor.
    """
    here, there = describe_machine(device), {"device": CPU, **machine}
    return all(there.get(name) == here[name] for name in here if name != "node")


def _processor() -> str:
    """Return the name of the processor, which Python itself does not know on Linux."""
    lines = _CPUINFO.read_text().splitlines() if _CPUINFO.is_file() else []
    names = {line.partition(":")[2].strip() for line in lines if line.startswith("model name")}
    return ", ".join(sorted(names)) or platform.processor()
