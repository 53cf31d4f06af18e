"""What an executor takes on this machine: seconds per segment, head and copy, by the number of rows."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from exeunt._support.arrays import Floats
from exeunt.engine.executor import Executor, Segments
from exeunt.score.confidence import Evidence, softmax
from exeunt.timing.timing_tools import describe_machine, seconds_of, waiting_clock


@dataclass(frozen=True, eq=False)
class Profile:
    """Seconds per call on one machine, each a median over repeats.

    `executor`: its name. `segments`: s of them. `sizes` (b,): rows of a call, ascending, at least 1.
    `run` (s, b): of a segment without its heads. `head` (m, b): added by an exit's head, score and decision.
    `gather` (s, b): copying that many rows before this segment (0 before the first).
    `machine`: where it was measured, JSON-able (see `describe_machine`).
    """

    executor: str
    segments: Segments
    sizes: tuple[int, ...]
    run: Floats
    head: Floats
    gather: Floats
    machine: Mapping[str, Any] = field(default_factory=dict)

    def seconds(self, segment: int, rows: Any) -> Any:
        """Return the seconds of one call with `rows` rows (a number or an array), with all heads of the segment.

        They are linear between the measured sizes, and proportional to the rows above them. An expected number of
        rows below 1 takes this fraction of a call with one row.
        """
        first, last = self.segments[segment]
        return _interpolated(self.sizes, self.run[segment] + self.head[first : last + 1].sum(axis=0), rows)

    def gather_seconds(self, segment: int, rows: Any) -> Any:
        """Return the seconds of copying `rows` rows before a segment, interpolated as in `seconds`."""
        return _interpolated(self.sizes, self.gather[segment], rows)


def _interpolated(sizes: ArrayLike, seconds: Floats, rows: Any) -> Any:
    grid, wanted = np.asarray(sizes, dtype=np.float64), np.asarray(rows, dtype=np.float64)
    beyond = np.maximum(wanted / grid[-1], 1.0) * np.minimum(wanted, 1.0)
    return np.interp(wanted, grid, seconds) * beyond


SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_FEWEST_ROUNDS = 3
_SMALL, _SMALL_REPEATS = 16, 4  # calls of few rows are cheap and their times vary more, so they are repeated
_SCORE = "margin"  # stands for any score: all of them take microseconds


def measure_profile(
    executor: Executor,
    inputs: Any,
    *,
    sizes: Sequence[int] = SIZES,
    repeats: int = 9,
    max_seconds: float = 60.0,
    clock: Callable[[], float] = time.perf_counter,
    progress: Callable[[str], None] = lambda _: None,
) -> Profile:
    """Measure what an executor takes on this machine.

    `inputs`: some inputs of the shape that will be used; their values do not matter. `sizes`: numbers of rows per
    call. Each of the `repeats` rounds measures everything, so that other work on the machine slows all alike; the
    profile holds medians. A first round is not counted. No round starts after `max_seconds`, once three are done.
    Calls of up to 16 rows are made four times a round.
    """
    wanted, clock = sorted({int(size) for size in sizes}), waiting_clock(executor, clock)
    state, valid = executor.start(inputs)
    states = [_state_of_size(executor, state, len(valid), size) for size in wanted]
    samples: list[list[Floats]] = [[] for _ in wanted]
    end = clock() + max_seconds
    for number in range(repeats + 1):
        if number > _FEWEST_ROUNDS and clock() > end:
            break
        for place, size in enumerate(wanted):
            for _ in range(_SMALL_REPEATS if size <= _SMALL else 1):
                cells = _time_pass(executor, states[place], size, clock)
                if number:
                    samples[place].append(np.array(cells))
        progress(f"round {number} of {repeats} measured")
    # Times of heads are differences, and noisy.
    medians = np.maximum(np.stack([np.median(rows, axis=0) for rows in samples], axis=1), 0.0)
    s = len(executor.segments)
    gather, run, head = np.split(medians, [s, 2 * s])
    return Profile(
        executor.name, executor.segments, tuple(wanted), run, head, gather, describe_machine(executor.device)
    )


def _state_of_size(executor: Executor, state: Any, n: int, size: int) -> Any:
    """Return a state of `size` rows made of the n rows of a state, repeated where they are too few."""
    full, rest = divmod(size, n)
    parts: list[tuple[Any, Any]] = [(state, None)] * full + ([(state, slice(0, rest))] if rest else [])
    return executor.gather(parts)


def _time_pass(executor: Executor, state: Any, size: int, clock: Callable[[], float]) -> list[float]:
    """Return the seconds of gather and run of each segment, then of each head."""
    gathers, runs, heads = [], [], []
    for segment, (first, last) in enumerate(executor.segments):
        gathers.append(0.0)
        if segment:
            began = clock()
            state = executor.gather([(state, np.arange(size))])
            gathers[-1] = clock() - began
        always = [last] if segment == len(executor.segments) - 1 else []
        began = clock()
        logits, after = executor.run(segment, state, always)
        runs.append(clock() - began)
        for exit_ in range(first, last + 1):
            if [exit_] != always:
                began = clock()
                logits, _ = executor.run(segment, state, [exit_, *always])
                heads.append(clock() - began - runs[-1])
            else:
                heads.append(0.0)
            heads[-1] += seconds_of(_decide, logits[0], clock)
        state = after
    return [*gathers, *runs, *heads]


def _decide(logits: Any) -> Any:
    evidence = Evidence(softmax(np.asarray(logits, dtype=np.float64)))
    return evidence[_SCORE], evidence["prediction"], evidence["max_probability"]
