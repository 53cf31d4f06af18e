"""Which policy is active, and by when rows are answered, so that the latency target is kept. No clock, no thread.

Each row has a soft deadline in the engine, `within_s` after its arrival. A row that is not done by then returns the
prediction of its latest exit, so a random burst costs a little accuracy, not latency. `within_s` is the target less a
reserve: for a call that runs when the deadline comes, for decoding, for HTTP and for a busy machine. The reserve grows
with each late request and shrinks with the others, so that in the long run the allowed share is late, however long all
that takes (stochastic approximation of a quantile: Robbins and Monro 1951).

If more rows arrive than the engine can process, a cheaper policy is better than the deadline: it selects which rows go
on. Rows arrive at `rate` per second; rows that name a policy get it, and take `own_s` of each second. A pass through
the network takes `pass_s`, plus `row_s` for each of its rows. A policy sustains the load if three conditions hold: the
utilisation rate * row_s + own_s leaves some room; the rows that wait now do not take much longer than the target; and a
request alone, of `size` rows, is served in time even if another pass is running when it arrives.

Downward the controller acts at once. Upward it goes one policy at a time, after a pause, if the next policy would
sustain a somewhat higher load too; sooner if it would sustain a much higher one. The pause before a policy doubles each
time that the policy is left soon after it became active, so that a constant load leads to ever fewer changes.

The arrival rate is known only after a while, and a deadline cuts rows off whether they are easy or hard. So below the
policy that is settled on so, the queue decides: rows begin under the most accurate policy that answers all rows that
wait before their deadlines, also below `min_accuracy`. By Little's law that policy's throughput meets any rate.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from exeunt.errors import InputError

_LATE = 0.9
"""A request is late after this share of the target: the server does not see its way there and back."""
_ALONE = 0.8
"""A request alone may take this share of the target."""
_BUSY = 0.8
"""The controller leaves a policy whose rows take more than this share of the time."""
_IDLE = 0.5
"""If the engine is busy for at most this share of the time, a cheaper policy does not help against late requests."""
_BEFORE_DEADLINE = 0.6
"""The rows that wait may take this share of the time from a row's arrival to its deadline."""
_FULL, _EMPTY = 1.5, 0.75
"""The controller leaves a policy if the waiting rows take more than `_FULL` targets, and takes one if they take at most
`_EMPTY`."""
_RESERVE = (1 - _LATE, 0.5)
"""Bounds of the reserve, as shares of the target. If the upper one is not enough, a cheaper policy is tried."""
_FIRST_RESERVE = 0.4
_GAIN, _AT_ONCE_S = 2.5, 0.02
"""While all requests are late, the reserve grows by `_GAIN` targets per second. Requests that are answered together
count as at most `_AT_ONCE_S`."""
_MARGINS = ((1.15, 1.0), (2.0, 0.25))
"""(times the present rate that the next policy must sustain, share of its pause to wait)."""
_RISING_S, _FALLING_S = 2.0, 3.0
"""Time constants of the arrival rate. The shorter one decides downward, the higher of both rates upward."""
_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 32.0
_SOON = 4.0
"""A policy was left soon if it was active for less than so many pauses."""
_TRUSTED_S, _FORGOTTEN_S = 0.5, 10.0
"""The profile counts as so many seconds of measurement; measurements lose their weight with this time constant."""


@dataclass(frozen=True)
class OperatingPoint:
    """A policy as the controller sees it.

    `budget`: in the unit of its costs. `accuracy`: estimated, in [0, 1]. `row_s`: seconds per row in a large pass.
    `pass_s`: seconds of a pass from the first segment to the last, whatever its number of rows.
    """

    name: str
    budget: float
    accuracy: float
    row_s: float
    pass_s: float = 0.0


@dataclass(frozen=True)
class Load:
    """What happened since the last observation, and how many rows wait now.

    `rows`: arrived for the active policy. `requests`: of those without a deadline of their own; `together`: their
    rows. `own_s`: seconds that the rows take that arrived for a policy which they name. `waiting`: rows without a
    deadline of their own that are being decoded or in the engine; `answered`: those that were answered; `late`: after
    more than `Controller.late_s`. `busy_s`: seconds that the engine took; `expected_s`: by the profile of its calls.
    """

    rows: int = 0
    requests: int = 0
    together: int = 0
    own_s: float = 0.0
    waiting: int = 0
    answered: int = 0
    late: int = 0
    busy_s: float = 0.0
    expected_s: float = 0.0


class Controller:
    """Chooses among `points` so that the share `quantile` of rows is answered within `slo_s` seconds.

    `min_accuracy`: policies with a lower estimate are chosen only while the rows that wait would else be cut off at
    their deadlines, which costs more accuracy; by default there is no such limit. `budget`: the largest budget that may
    be active, see `set_budget`; by default that of the most expensive policy.

    Raises InputError for points of which none has the accuracy, or a budget below that of the cheapest policy.
    """

    def __init__(
        self,
        points: Sequence[OperatingPoint],
        *,
        slo_s: float,
        quantile: float = 0.99,
        min_accuracy: float = 0.0,
        budget: float | None = None,
    ) -> None:
        frontier: list[OperatingPoint] = []
        for point in sorted(points, key=lambda point: point.budget):
            # A policy that is no more accurate than a cheaper one is no choice.
            if not frontier or point.accuracy > frontier[-1].accuracy:
                frontier.append(point)
        if not frontier or frontier[-1].accuracy < min_accuracy:
            best = max((point.accuracy for point in points), default=0.0)
            raise InputError(
                f"no policy is estimated to answer {min_accuracy:.2%} of the inputs right, the best {best:.2%}: ask "
                "for less, or calibrate with larger budgets"
            )
        self.points = tuple(frontier)
        self._floor = next(i for i, point in enumerate(frontier) if point.accuracy >= min_accuracy)
        self.slo_s = slo_s
        self._reserve, self._some_late = _FIRST_RESERVE, False
        self._allowed = 1 - quantile
        self._at = self._limit = self._in_time = len(self.points) - 1
        self._now: float | None = None
        self.rate = self._slow_rate = self._own = 0.0
        self._rows = self._requests = 0.0
        self._busy, self._busy_s, self._expected_s = 0.0, _TRUSTED_S, _TRUSTED_S
        self._pauses = [_PAUSE_S] * len(self.points)
        self._since = 0.0
        if budget is not None:
            self.set_budget(budget)

    @property
    def active(self) -> OperatingPoint:
        """The policy of new rows."""
        return self.points[min(self._at, self._in_time)]

    @property
    def settled(self) -> OperatingPoint:
        """The policy of new rows where no row would be cut off."""
        return self.points[self._at]

    @property
    def without_load(self) -> OperatingPoint:
        """The policy that would be active without load."""
        return self.points[self._limit]

    @property
    def late_s(self) -> float:
        """Seconds after which an answer is late."""
        return self.slo_s * _LATE

    @property
    def within_s(self) -> float:
        """Seconds after which a row returns the prediction of its latest exit."""
        return self.slo_s * (1 - self._reserve)

    @property
    def out_of_options(self) -> bool:
        """Whether too many requests are late at the largest reserve, and no cheaper policy would help."""
        return (
            self._reserve == _RESERVE[1]
            and self._some_late
            and (self._at == self._floor or self._busy <= _IDLE)
        )

    @property
    def slowness(self) -> float:
        """Duration of the engine's calls, in multiples of the profile."""
        return self._busy_s / self._expected_s

    def set_budget(self, budget: float) -> None:
        """Set the largest budget that may be active from now on."""
        allowed = range(self._floor, len(self.points))
        fitting = [i for i in allowed if self.points[i].budget <= budget * (1 + 1e-12)]
        if not fitting:
            why = "ask for at least that, or for less accuracy"
            raise InputError(f"the least budget that may be active is {self.points[self._floor].name}: {why}")
        self._limit = fitting[-1]
        if self._at > self._limit:
            self._activate(self._limit, self._now or 0.0)

    def take_over(self, before: Controller) -> None:
        """Go on with the load that another controller has measured, from the best policy that sustains it."""
        self.rate, self._slow_rate, self._own = before.rate, before._slow_rate, before._own
        self._rows, self._requests = before._rows, before._requests
        self._now, self._since = before._now, before._now or 0.0
        self._reserve = before._reserve
        self._at = self._best_below(self._limit + 1, 0)

    def observe(self, now: float, load: Load) -> OperatingPoint:
        """Take in what happened until `now`, in seconds of any clock, and return the policy that is active from now.

        To be called often, some ten times within the target, and at once when many rows have arrived.
        """
        elapsed = 0.0 if self._now is None else max(now - self._now, 0.0)
        if self._now is None:
            self._since = now
        self._now = now
        self._measure(elapsed, load)
        if self._at > self._floor and (not self._sustains(self._at, load.waiting) or self._too_late(now)):
            soon = now - self._since < _SOON * self._pauses[self._at]
            self._pauses[self._at] = min(2 * self._pauses[self._at], _LONGEST_PAUSE_S) if soon else _PAUSE_S
            self._activate(self._best_below(self._at, load.waiting), now)
        elif self._at < self._limit and self._may_rise(now - self._since, load.waiting):
            self._activate(self._at + 1, now)
        self._in_time = self._most_accurate_in_time(load.waiting)
        return self.active

    def _measure(self, elapsed: float, load: Load) -> None:
        if elapsed > 0:
            weight, arrived = -math.expm1(-elapsed / _RISING_S), load.rows / elapsed
            self._busy += weight * (load.busy_s / elapsed - self._busy)
            self.rate += weight * (arrived - self.rate)
            self._own += weight * (load.own_s / elapsed - self._own)
            self._slow_rate += -math.expm1(-elapsed / _FALLING_S) * (arrived - self._slow_rate)
        share = math.exp(-elapsed / _FORGOTTEN_S)
        self._busy_s = share * self._busy_s + (1 - share) * _TRUSTED_S + load.busy_s
        self._expected_s = share * self._expected_s + (1 - share) * _TRUSTED_S + load.expected_s
        fresh = math.exp(-elapsed / _RISING_S)
        self._rows = fresh * self._rows + load.together
        self._requests = fresh * self._requests + load.requests
        self._some_late = load.late > 0
        if load.answered:
            seconds = min(load.answered / self.rate, _AT_ONCE_S) if self.rate else _AT_ONCE_S
            self._reserve += _GAIN * seconds * (load.late / load.answered - self._allowed)
            self._reserve = min(max(self._reserve, _RESERVE[0]), _RESERVE[1])

    def _sustains(self, point: int, waiting: int, *, full: float = _FULL, margin: float = 1.0) -> bool:
        """Whether a policy sustains the load, at `margin` times the present rate."""
        rate = self.rate if margin == 1.0 else margin * max(self.rate, self._slow_rate)
        size = self._rows / self._requests if self._requests else 1.0
        row_s = self.points[point].row_s * self.slowness
        alone_s = size * row_s + 2 * self.points[point].pass_s * self.slowness
        busy = rate * row_s + self._own * self.slowness
        return busy <= _BUSY and waiting * row_s <= full * self.slo_s and alone_s <= _ALONE * self.slo_s

    def _may_rise(self, stayed: float, waiting: int) -> bool:
        return any(
            stayed >= share * self._pauses[self._at + 1]
            and self._sustains(self._at + 1, waiting, full=_EMPTY, margin=margin)
            for margin, share in _MARGINS
        )

    def _too_late(self, now: float) -> bool:
        """Whether more than the allowed share is late at the largest reserve: the model misses something.

        If the engine is idle most of the time, the policy is not the cause.
        """
        return self._reserve == _RESERVE[1] and now - self._since >= _PAUSE_S and self._busy > _IDLE

    def _activate(self, point: int, now: float) -> None:
        self._at, self._since = point, now

    def _best_below(self, end: int, waiting: int) -> int:
        """Return the last point before `end` that sustains the load, else the first one that has the accuracy."""
        return max((i for i in range(self._floor, end) if self._sustains(i, waiting)), default=self._floor)

    def _most_accurate_in_time(self, waiting: int) -> int:
        """Return the last point at which the waiting rows are answered before their deadlines, else the first one."""
        most_s = _BEFORE_DEADLINE * self.within_s / self.slowness
        return max((i for i, point in enumerate(self.points) if waiting * point.row_s <= most_s), default=0)
