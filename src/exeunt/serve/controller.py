"""Which policy is active, and by when rows are answered, so that the asked latency is kept. No clock, no thread.

Rows have a soft deadline in the engine, `within_s` after they came: who has no answer by then gets what the exits so
far have said. So a crowd that comes by chance costs a little accuracy, and no time. `within_s` is the latency asked for
less a reserve, for a call that runs when the deadline comes, for decoding, HTTP and a busy machine. The reserve grows
with each request that is late and shrinks with the others, so that in the long run the allowed share is late, whatever
all that takes (stochastic approximation of a quantile: Robbins and Monro 1951).

Where more comes than the engine can do, a cheaper policy is better: it chooses who goes on, the deadline does not. Rows
come at `rate` a second; those that name a policy get it, and take `own` seconds of each. A pass through the network
takes `pass_s`, and `row_s` for each of its rows. A policy bears the load if the utilisation rate * row_s + own leaves
some room, if the rows that wait now do not take much longer than the latency, and if a request alone, of `size` rows,
is served in time: with two passes, as one is running when it comes.

Downward the controller acts at once. Upward it goes one policy at a time, after a pause, where the next policy would
bear a somewhat higher load too; sooner where it would bear a much higher one. The pause before a policy doubles each
time that the policy has to be left soon after it came into force, so that a constant load leads to ever fewer changes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from exeunt.errors import InputError
from exeunt.serve.load import Load, OperatingPoint, rising

__all__ = ["Controller"]

_LATE = 0.9
"""A request is late after this share of the latency asked for: the server does not see its way there and back."""
_ALONE = 0.8
"""A request alone may take this share of the latency asked for."""
_BUSY = 0.8
"""A policy is left once its rows take more than this share of the time."""
_IDLE = 0.5
"""Where the engine takes at most this share of the time, a cheaper policy is no remedy for what is late."""
_FULL, _EMPTY = 1.5, 0.75
"""A policy is left once what waits takes so many times the latency, and taken where that is at most the second."""
_RESERVE = (1 - _LATE, 0.5)
"""Between these shares of the latency asked for lies the reserve. It begins at `_FIRST_RESERVE` of it. Where the most
does not do, a cheaper policy is tried."""
_FIRST_RESERVE = 0.4
_GAIN, _AT_ONCE_S = 2.5, 0.02
"""While all are late, the reserve grows by `_GAIN` times the latency in a second. What is answered at once counts as at
most so many seconds."""
_MARGINS = ((1.15, 1.0), (2.0, 0.25))
"""A policy is taken where it would bear so many times the present rate, after so much of its pause."""
_RISING_S, _FALLING_S = 2.0, 3.0
"""Time constants of the arrival rate: the shorter alone decides downward, the higher of both upward."""
_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 32.0
_SOON = 4.0
"""A policy was left soon if it was active for less than so many pauses."""
_TRUSTED_S, _FORGOTTEN_S = 0.5, 10.0
"""The profile counts as so many seconds of measurement; measurements lose their weight with this time constant."""


class Controller:
    """Chooses among `points` so that the share `quantile` of rows is answered within `slo_s` seconds.

    `min_accuracy`: policies estimated below it are never chosen; by default the cheapest may be. `budget`: the most
    that may be spent, see `set_budget`; by default that of the dearest policy.

    Raises InputError for no points, points whose accuracy no policy has, numbers that are out of range, or a budget
    below that of the least policy.
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
        if not (0 < slo_s < math.inf and 0 < quantile < 1):
            raise InputError(
                f"the latency must be above 0 seconds and its quantile between 0 and 1, got {slo_s} and {quantile}"
            )
        ordered = sorted(points, key=lambda point: point.budget)
        # A policy that answers no better than a cheaper one is no choice.
        self.points = rising([point for point in ordered if point.accuracy >= min_accuracy])
        if not self.points:
            best = max((point.accuracy for point in ordered), default=0.0)
            raise InputError(
                f"no policy is estimated to answer {min_accuracy:.2%} of the inputs right, the best {best:.2%}: ask "
                "for less, or calibrate with larger budgets"
            )
        self.slo_s = slo_s
        self._reserve, self._some_late = _FIRST_RESERVE, False
        self._allowed = 1 - quantile
        self._at = self._most = len(self.points) - 1
        self._now: float | None = None
        self._rate = self._slow_rate = self._own = 0.0
        self._rows = self._requests = 0.0
        self._busy, self._busy_s, self._expected_s = 0.0, _TRUSTED_S, _TRUSTED_S
        self._pauses = [_PAUSE_S] * len(self.points)
        self._since = 0.0
        if budget is not None:
            self.set_budget(budget)

    @property
    def active(self) -> OperatingPoint:
        """The policy that new rows are answered under."""
        return self.points[self._at]

    @property
    def most(self) -> OperatingPoint:
        """The policy that would be active without load."""
        return self.points[self._most]

    @property
    def late_s(self) -> float:
        """Seconds after which an answer counts as late."""
        return self.slo_s * _LATE

    @property
    def within_s(self) -> float:
        """Seconds after which a row is answered with what the exits so far have said."""
        return self.slo_s * (1 - self._reserve)

    @property
    def helpless(self) -> bool:
        """Whether too much is late however early rows are cut short, and no cheaper policy would help."""
        return self._reserve == _RESERVE[1] and self._some_late and (self._at == 0 or self._busy <= _IDLE)

    @property
    def slowness(self) -> float:
        """How many times longer than profiled the engine takes."""
        return self._busy_s / self._expected_s

    @property
    def rate(self) -> float:
        """Rows that arrive in a second, smoothed."""
        return self._rate

    def set_budget(self, budget: float) -> None:
        """Set the most that may be spent per row: from now on no policy of a larger budget is active."""
        fitting = [i for i, point in enumerate(self.points) if point.budget <= budget * (1 + 1e-12)]
        if not fitting:
            why = "ask for at least that, or for less accuracy"
            raise InputError(f"the least budget that may be active is {self.points[0].name}: {why}")
        self._most = fitting[-1]
        if self._at > self._most:
            self._put(self._most, self._now or 0.0)

    def take_over(self, before: Controller) -> None:
        """Go on with the load that another controller has measured, from the policy that keeps the latency at it."""
        self._rate, self._slow_rate, self._own = before._rate, before._slow_rate, before._own
        self._rows, self._requests = before._rows, before._requests
        self._now, self._since = before._now, before._now or 0.0
        self._reserve = before._reserve
        self._at = self._borne_below(self._most + 1, 0)

    def observe(self, now: float, load: Load) -> OperatingPoint:
        """Take in what happened until `now`, in seconds of any clock, and return the policy that is active from now.

        To be called often, some ten times within the latency asked for, and at once when much has arrived.
        """
        elapsed = 0.0 if self._now is None else max(now - self._now, 0.0)
        if self._now is None:
            self._since = now
        self._now = now
        self._measure(elapsed, load)
        if self._at and (not self._bears(self._at, load.waiting) or self._too_late(now)):
            self._lower(now, load.waiting)
        elif self._at < self._most and self._may_rise(now - self._since, load.waiting):
            self._put(self._at + 1, now)
        return self.active

    def _measure(self, elapsed: float, load: Load) -> None:
        if elapsed > 0:
            self._busy += -math.expm1(-elapsed / _RISING_S) * (load.busy_s / elapsed - self._busy)
            arrived = load.rows / elapsed
            self._rate += -math.expm1(-elapsed / _RISING_S) * (arrived - self._rate)
            self._own += -math.expm1(-elapsed / _RISING_S) * (load.own_s / elapsed - self._own)
            self._slow_rate += -math.expm1(-elapsed / _FALLING_S) * (arrived - self._slow_rate)
        kept = math.exp(-elapsed / _FORGOTTEN_S)
        self._busy_s = kept * self._busy_s + (1 - kept) * _TRUSTED_S + load.busy_s
        self._expected_s = kept * self._expected_s + (1 - kept) * _TRUSTED_S + load.expected_s
        fresh = math.exp(-elapsed / _RISING_S)
        self._rows = fresh * self._rows + load.together
        self._requests = fresh * self._requests + load.requests
        self._some_late = load.late > 0
        if load.answered:
            seconds = min(load.answered / self._rate, _AT_ONCE_S) if self._rate else _AT_ONCE_S
            self._reserve += _GAIN * seconds * (load.late / load.answered - self._allowed)
            self._reserve = min(max(self._reserve, _RESERVE[0]), _RESERVE[1])

    def _bears(self, at: int, waiting: int, *, full: float = _FULL, margin: float = 1.0) -> bool:
        rate = self._rate if margin == 1.0 else margin * max(self._rate, self._slow_rate)
        size = self._rows / self._requests if self._requests else 1.0
        return self._holds(at, rate, size, waiting, full)

    def _may_rise(self, stayed: float, waiting: int) -> bool:
        return any(
            stayed >= share * self._pauses[self._at + 1]
            and self._bears(self._at + 1, waiting, full=_EMPTY, margin=margin)
            for margin, share in _MARGINS
        )

    def _holds(self, at: int, rate: float, size: float, waiting: int, full: float) -> bool:
        row_s = self.points[at].row_s * self.slowness
        pass_s = self.points[at].pass_s * self.slowness
        alone_s = size * row_s + 2 * pass_s
        busy = rate * row_s + self._own * self.slowness
        return busy <= _BUSY and waiting * row_s <= full * self.slo_s and alone_s <= _ALONE * self.slo_s

    def _too_late(self, now: float) -> bool:
        """Whether more than the allowed share is late however early rows are cut short: the model misses something.

        Where the engine is idle most of the time, it is not the policy.
        """
        return self._reserve == _RESERVE[1] and now - self._since >= _PAUSE_S and self._busy > _IDLE

    def _put(self, at: int, now: float) -> None:
        self._at, self._since = at, now

    def _lower(self, now: float, waiting: int) -> None:
        soon = now - self._since < _SOON * self._pauses[self._at]
        self._pauses[self._at] = min(2 * self._pauses[self._at], _LONGEST_PAUSE_S) if soon else _PAUSE_S
        self._put(self._borne_below(self._at, waiting), now)

    def _borne_below(self, end: int, waiting: int) -> int:
        """Return the last point before `end` that bears the load, else the least one."""
        return max((i for i in range(end) if self._bears(i, waiting)), default=0)
