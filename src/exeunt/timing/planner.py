"""From a profile to a plan: how large calls should be, when to drop rows, which segments to join.

Dropping the rows that have answered costs a copy of some others, and makes every later segment cheaper until rows
are dropped again. Backward induction over the segments finds where this pays, for the expected number of rows that
remain.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from exeunt._support.arrays import Floats, check_length, floats
from exeunt.engine.executor import Executor, Segments
from exeunt.engine.plan import Plan
from exeunt.timing.profile import Profile, measure_profile

_FRACTIONS = np.arange(1, 33) / 32  # of a state's rows: how many have not answered
_SIZES_AROUND = (0.75, 1.0, 1.5)  # calls have these multiples of the planned size
_AS_GOOD = 1.03  # sizes within a few percent of the best differ by noise alone


def profile_and_plan(
    open_: Callable[[Segments | None], Executor], inputs: Any, *, rows: int = 64, **options: Any
) -> tuple[Profile, Plan]:
    """Measure an executor in its finest cut, then with segments joined where that is faster for batches of `rows`.

    `open_`: opens the executor with given segments; None stands for the finest cut. `options`: see `measure_profile`.
    Returns the profile of the chosen segments, and the plan for them.
    """
    profile = measure_profile(open_(None), inputs, **options)
    segments = joined_segments(profile, rows=rows)
    if segments != profile.segments:
        profile = measure_profile(open_(segments), inputs, **options)
    return profile, plan_from_profile(profile)


def plan_from_profile(profile: Profile, *, leaving: ArrayLike | None = None) -> Plan:
    """Return the plan for the profile's segments.

    `leaving` (m,): share of inputs that answer at each exit, such as a policy's `rates`; by default the same at
    each. A plan made for other shares is slightly slower and gives the same answers.
    """
    reach = _reach(profile, leaving)
    sizes = np.array(profile.sizes, dtype=np.float64)
    most_rows = [np.zeros(len(sizes))]
    for segment in range(1, len(profile.segments)):
        in_state = sizes[:, None] * np.ones_like(_FRACTIONS)
        drop, keep = _seconds_to_end(profile, reach, segment, in_state, in_state * _FRACTIONS)
        # The largest fraction up to which dropping pays without a gap.
        count = np.logical_and.accumulate(drop < keep, axis=1).sum(axis=1)
        most_rows.append(np.floor(np.append(0.0, _FRACTIONS)[count] * sizes))
    return Plan(
        executor=profile.executor,
        segments=profile.segments,
        piece=tuple(_best_call_size(profile, reach, segment) for segment in range(len(profile.segments))),
        sizes=profile.sizes,
        most_alive=tuple(tuple(int(rows) for rows in row) for row in most_rows),
        machine=profile.machine,
        min_batch=tuple(_worth_a_call(profile, segment) for segment in range(len(profile.segments))),
    )


def joined_segments(profile: Profile, *, rows: int = 64, leaving: ArrayLike | None = None) -> Segments:
    """Return the profile's segments, joined wherever a batch of `rows` inputs should drop no rows between two.

    The profile does not contain what executors gain by running joined segments in one call.
    """
    reach = _reach(profile, leaving)
    in_state, joined = float(rows), [profile.segments[0]]
    for segment in range(1, len(profile.segments)):
        remaining = rows * reach[segment]
        first, last = profile.segments[segment]
        drop, keep = _seconds_to_end(profile, reach, segment, np.array(in_state), np.array(remaining))
        if remaining > 0 and drop < keep:
            in_state = remaining
            joined.append((first, last))
        else:
            joined[-1] = (joined[-1][0], last)
    return tuple(joined)


def _reach(profile: Profile, leaving: ArrayLike | None) -> Floats:
    """Return the share of inputs that reach each segment, (s,)."""
    m = len(profile.head)
    shares = np.full(m, 1 / m) if leaving is None else floats(leaving, "leaving", ndim=1)
    check_length(shares, "leaving", m)
    reach: Floats = np.array([1.0 - shares[:first].sum() for first, _ in profile.segments])
    return np.where(reach < 1e-9, 0.0, reach)


def _seconds_to_end(
    profile: Profile, reach: Floats, segment: int, in_state: Floats, remaining: Floats
) -> tuple[Floats, Floats]:
    """Return the seconds from a segment to the end if rows are dropped before it, and if they are kept.

    `in_state`: rows of the state. `remaining`: rows that have not answered. Both are arrays of one shape. Before later
    segments, rows are dropped wherever that is faster.
    """
    last = len(profile.segments) - 1
    share = reach / reach[segment] if reach[segment] > 0 else np.zeros_like(reach)
    # to_end[j]: seconds from the current segment on, if rows were last dropped before segment j (None: not yet)
    to_end: dict[int | None, Floats] = dict.fromkeys(
        [None, *range(segment, last + 1)], np.zeros_like(remaining)
    )
    drops: dict[int | None, Floats] = {}
    keeps: dict[int | None, Floats] = {}
    for place in range(last, segment - 1, -1):
        left = remaining * share[place]
        after_drop = profile.seconds(place, left) + to_end[place]
        rows_by_drop = {
            since: in_state if since is None else remaining * share[since]
            for since in (None, *range(segment, place))
        }
        # To drop rows, as many are moved as leave or as stay, whichever are fewer.
        drops = {
            since: profile.gather_seconds(place, np.minimum(left, rows - left)) + after_drop
            for since, rows in rows_by_drop.items()
        }
        keeps = {since: profile.seconds(place, rows) + to_end[since] for since, rows in rows_by_drop.items()}
        to_end = {since: np.minimum(drops[since], keeps[since]) for since in rows_by_drop}
    return drops[None], keeps[None]


def _best_call_size(profile: Profile, reach: Floats, segment: int) -> int:
    """Return the largest size at which a row costs as little as possible.

    Among equal sizes the largest is best, because it splits a state least often: what remains of the parts must be
    copied together again before the next segment.
    """
    per_row = _seconds_per_row(profile, segment)
    largest = profile.sizes[-1]
    if reach[segment] > 0 and segment + 1 < len(profile.segments):
        left = largest * reach[segment + 1] / reach[segment]
        copied = float(profile.gather_seconds(segment + 1, left)) / largest
        per_row = {size: seconds + copied * (size < largest) for size, seconds in per_row.items()}
    return max(size for size, seconds in per_row.items() if seconds <= _AS_GOOD * min(per_row.values()))


def _worth_a_call(profile: Profile, segment: int) -> int:
    """Return the smallest size of a call that need not wait for more rows: copying them would cost more than it saves.

    A profile does not contain the time to copy inputs, so before the first segment copying counts as free.
    """
    per_row = _seconds_per_row(profile, segment)
    joined = {
        size: seconds + float(profile.gather_seconds(segment, size)) / size
        for size, seconds in per_row.items()
    }
    return next(
        size
        for size, seconds in per_row.items()
        if seconds <= _AS_GOOD * min((joined[other] for other in joined if other > size), default=seconds)
    )


def _seconds_per_row(profile: Profile, segment: int) -> dict[int, float]:
    """Return the seconds per row for each planned size of calls, as a mean over the sizes that calls really have."""
    of_sizes = {size: np.array(_SIZES_AROUND) * size for size in profile.sizes}
    return {size: float(np.mean(profile.seconds(segment, rows) / rows)) for size, rows in of_sizes.items()}
