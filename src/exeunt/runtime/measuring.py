"""Measuring an executor here: seconds of every segment, head and copy at several numbers of rows."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np

from exeunt.errors import InputError
from exeunt.runtime.evidence import Evidence
from exeunt.runtime.machine import describe_machine
from exeunt.runtime.planner import fused_segments, measured_plan
from exeunt.runtime.profile import Profile

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from exeunt._arrays import Floats
    from exeunt.runtime.executor import Executor, Segments
    from exeunt.runtime.plan import Plan

__all__ = ["SIZES", "measure_plan", "measure_profile", "rows_of"]

SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_FEWEST_ROUNDS = 3
_SMALL = 16  # rows: calls this small are cheap and their times uncertain, so they are taken more often
_OFTEN = 4
_SCORE = "margin"  # any score will do: all of them take microseconds


def measure_profile(
    executor: Executor,
    inputs: Any,
    *,
    sizes: Sequence[int] = SIZES,
    whole: Callable[[Any], Any] | None = None,
    repeats: int = 9,
    max_seconds: float = 60.0,
    clock: Callable[[], float] = time.perf_counter,
    progress: Callable[[str], None] = lambda _: None,
) -> Profile:
    """Measure what an executor takes on this machine.

    `inputs`: some of the inputs that it will run on, or such as these; their values do not matter. `sizes`: numbers
    of rows per call. `whole`: runs the uncut network on such inputs, to compare with.
    All cells are measured in turns, `repeats` rounds of them after one that is not counted, so that whatever else
    the machine does falls on all alike; medians are kept. After `max_seconds` no new round begins, from the third
    on. Small calls are made four times a round.

    Raises InputError for sizes below 1, no inputs, or fewer than one repeat.
    """
    wanted = sorted({int(size) for size in sizes})
    state, valid = executor.start(inputs)
    if not wanted or wanted[0] < 1 or repeats < 1 or not len(valid):
        raise InputError(
            f"measuring needs inputs, sizes and repeats of at least 1, got {len(valid)} inputs, "
            f"sizes {wanted}, repeats {repeats}"
        )
    states = [rows_of(executor, state, len(valid), size) for size in wanted]
    wholes = [] if whole is None else [_repeated(inputs, len(valid), size) for size in wanted]
    samples: list[list[Floats]] = [[] for _ in wanted]
    end = clock() + max_seconds
    for number in range(repeats + 1):
        if number > _FEWEST_ROUNDS and clock() > end:
            break
        for place, size in enumerate(wanted):
            for _ in range(_OFTEN if size <= _SMALL else 1):
                cells = _one_pass(executor, states[place], size, clock)
                cells.append(0.0 if whole is None else _seconds(whole, wholes[place], clock))
                if number:
                    samples[place].append(np.array(cells))
        progress(f"round {number} of {repeats} measured")
    return _summary(executor, wanted, samples, with_whole=whole is not None)


def measure_plan(
    open_: Callable[[Segments | None], Executor], inputs: Any, *, rows: int = 64, **options: Any
) -> tuple[Profile, Plan]:
    """Measure an executor in its finest cut, and again with the segments joined that batches of `rows` pay for.

    `open_`: opens the executor with these segments, None for the finest. `options`: see `measure_profile`.
    Returns the profile of the segments chosen, and the plan for them.
    """
    profile = measure_profile(open_(None), inputs, **options)
    segments = fused_segments(profile, rows=rows)
    if segments != profile.segments:
        profile = measure_profile(open_(segments), inputs, **options)
    return profile, measured_plan(profile)


def rows_of(executor: Executor, state: Any, n: int, size: int) -> Any:
    """Return a state of `size` rows made of those of a state of n, repeated if need be."""
    full, rest = divmod(size, n)
    parts: list[tuple[Any, Any]] = [(state, None)] * full + ([(state, slice(0, rest))] if rest else [])
    return executor.gather(parts)


def _repeated(inputs: Any, n: int, size: int) -> Any:
    """Return `size` rows of the inputs, repeated if need be."""
    rows = np.arange(size) % n
    if hasattr(inputs, "items"):
        return {name: value[rows] for name, value in inputs.items()}
    if isinstance(inputs, (tuple, list)):
        return type(inputs)(value[rows] for value in inputs)
    return inputs[rows]


def _one_pass(executor: Executor, state: Any, size: int, clock: Callable[[], float]) -> list[float]:
    """Return the seconds of gather and run of each segment, then of each head."""
    gathers, runs, heads = [], [], []
    for segment, (first, last) in enumerate(executor.segments):
        gathers.append(0.0)
        if segment:
            began = clock()
            state = executor.gather([(state, np.arange(size))])
            gathers[-1] = clock() - began
        ends = [last] if segment == len(executor.segments) - 1 else []
        began = clock()
        logits, after = executor.run(segment, state, ends)
        runs.append(clock() - began)
        for exit_ in range(first, last + 1):
            if [exit_] != ends:
                began = clock()
                logits, _ = executor.run(segment, state, [exit_, *ends])
                heads.append(clock() - began - runs[-1])
            else:
                heads.append(0.0)
            heads[-1] += _seconds(_decide, logits[0], clock)
        state = after
    return [*gathers, *runs, *heads]


def _seconds(call: Callable[[Any], Any], argument: Any, clock: Callable[[], float]) -> float:
    began = clock()
    call(argument)
    return clock() - began


def _decide(logits: Any) -> Any:
    evidence = Evidence(np.asarray(logits, dtype=np.float64))
    return evidence[_SCORE], evidence["prediction"], evidence["max_probability"]


def _summary(
    executor: Executor, sizes: Sequence[int], samples: Sequence[Sequence[Floats]], *, with_whole: bool
) -> Profile:
    s, m = len(executor.segments), executor.n_exits
    table = np.stack([np.median(rows, axis=0) for rows in samples], axis=1)
    low, high = (np.stack([np.quantile(rows, q, axis=0) for rows in samples], axis=1) for q in (0.1, 0.9))
    run = np.maximum(table[s : 2 * s], 0.0)
    return Profile(
        executor=executor.name,
        segments=executor.segments,
        sizes=tuple(sizes),
        run=run,
        head=np.maximum(
            table[2 * s : 2 * s + m], 0.0
        ),  # a difference of two times: noise may make it negative
        gather=np.maximum(table[:s], 0.0),
        whole=table[-1] if with_whole else None,
        spread=(high - low)[s : 2 * s] / (2 * np.maximum(run, 1e-12)),
        machine=describe_machine(),
    )
