"""From a profile to a plan: how large calls should be, when dropping rows pays, which segments to fuse.

Dropping the answered rows of a state costs moving some of the others, and saves their share of every segment until the
next time that rows are dropped. What pays is found by backward induction over the segments, for the number of rows
that is expected to be left.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from exeunt._arrays import check_length, floats
from exeunt.engine.plan import Plan
from exeunt.errors import InputError
from exeunt.timing.profile import Profile, measure_profile

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import ArrayLike

    from exeunt._arrays import Booleans, Floats
    from exeunt.engine.executor import Executor, Segments

__all__ = ["fused_segments", "measure_plan", "measured_plan"]

_FRACTIONS = np.arange(1, 33) / 32  # of a state's rows: how many have not answered
_AROUND = (0.75, 1.0, 1.5)  # calls are of this much of the planned size
_AS_GOOD = 1.03


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


def measured_plan(profile: Profile, *, leaving: ArrayLike | None = None) -> Plan:
    """Return the plan for the profile's segments.

    `leaving` (m,): share of inputs that answer at each exit, such as a policy's `rates`; by default the same at
    each. A plan made for other shares is somewhat slower, never wrong.
    """
    reach = _reach(profile, leaving)
    sizes = np.array(profile.sizes, dtype=np.float64)
    most = [np.zeros(len(sizes))]
    for segment in range(1, len(profile.segments)):
        pays = _dropping_pays(profile, reach, segment)
        # The largest share up to which dropping pays throughout.
        prefix = np.logical_and.accumulate(pays, axis=1).sum(axis=1)
        most.append(np.floor(np.append(0.0, _FRACTIONS)[prefix] * sizes))
    return Plan(
        executor=profile.executor,
        segments=profile.segments,
        piece=tuple(_piece(profile, segment) for segment in range(len(profile.segments))),
        sizes=profile.sizes,
        most_alive=tuple(tuple(int(rows) for rows in row) for row in most),
        machine=profile.machine,
    )


def fused_segments(profile: Profile, *, rows: int = 64, leaving: ArrayLike | None = None) -> Segments:
    """Return the profile's segments, joined wherever a batch of `rows` inputs is expected not to drop any between.

    Executors gain by running joined segments at one go; what they gain is not in the profile.
    Raises InputError for fewer than one row.
    """
    if rows < 1:
        raise InputError(f"rows must be at least 1, got {rows}")
    reach = _reach(profile, leaving)
    height, fused = float(rows), [profile.segments[0]]
    for segment in range(1, len(profile.segments)):
        alive = rows * reach[segment]
        first, last = profile.segments[segment]
        drop, ride = _both_ways(profile, reach, segment, np.array(height), np.array(alive))
        if alive > 0 and drop < ride:
            height = alive
            fused.append((first, last))
        else:
            fused[-1] = (fused[-1][0], last)
    return tuple(fused)


def _reach(profile: Profile, leaving: ArrayLike | None) -> Floats:
    """Return the share of inputs that are left before each segment, (s,)."""
    m = profile.n_exits
    shares = np.full(m, 1 / m) if leaving is None else floats(leaving, "leaving", ndim=1)
    check_length(shares, "leaving", m)
    left: Floats = np.array([1.0 - shares[:first].sum() for first, _ in profile.segments])
    return np.where(left < 1e-9, 0.0, left)


def _dropping_pays(profile: Profile, reach: Floats, segment: int) -> Booleans:
    """Return whether dropping pays before a segment: by size of the state and fraction left, (b, fractions)."""
    height = np.array(profile.sizes, dtype=np.float64)[:, None] * np.ones_like(_FRACTIONS)
    drop, ride = _both_ways(profile, reach, segment, height, height * _FRACTIONS)
    pays: Booleans = drop < ride
    return pays


def _both_ways(
    profile: Profile, reach: Floats, segment: int, height: Floats, alive: Floats
) -> tuple[Floats, Floats]:
    """Return the seconds from a segment on if rows are dropped before it, and if they ride along.

    `height`: rows of the state, `alive`: those that have not answered, arrays of one shape. Later on rows are
    dropped wherever that is best.
    """
    last = len(profile.segments) - 1
    share = reach / reach[segment] if reach[segment] > 0 else np.zeros_like(reach)
    # to_go[j]: seconds from the segment in hand on, if rows were last dropped before segment j (None: not yet)
    to_go: dict[int | None, Floats] = dict.fromkeys([None, *range(segment, last + 1)], np.zeros_like(alive))
    drops: dict[int | None, Floats] = {}
    rides: dict[int | None, Floats] = {}
    for at in range(last, segment - 1, -1):
        left = alive * share[at]
        alone = _run(profile, at, left) + to_go[at]
        before = {
            since: height if since is None else alive * share[since] for since in (None, *range(segment, at))
        }
        # To drop rows, as many are moved as leave or as stay.
        drops = {
            since: profile.gather_seconds(at, np.minimum(left, rows - left)) + alone
            for since, rows in before.items()
        }
        rides = {since: _run(profile, at, rows) + to_go[since] for since, rows in before.items()}
        to_go = {since: np.minimum(drops[since], rides[since]) for since in before}
    return drops[None], rides[None]


def _run(profile: Profile, segment: int, rows: Floats) -> Floats:
    first, last = profile.segments[segment]
    seconds: Floats = profile.seconds(segment, rows, range(first, last + 1))
    return seconds


def _piece(profile: Profile, segment: int) -> int:
    """Return the largest size of call at which a row is as good as cheapest, on the sizes that calls around it come to.

    Sizes within a few percent of each other are told apart by noise, and large calls need fewer cuts.
    """
    per_row = {
        size: sum(float(_run(profile, segment, np.array(part * size))) / part / size for part in _AROUND)
        for size in profile.sizes
    }
    return max(size for size, seconds in per_row.items() if seconds <= _AS_GOOD * min(per_row.values()))
