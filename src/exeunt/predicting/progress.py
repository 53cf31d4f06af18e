"""What a long job says of itself: the spend that is planned, and as it goes how much is done, spent and left."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from exeunt._text import counted

if TYPE_CHECKING:
    from exeunt.policy import Policy
    from exeunt.predicting.tally import Tally

__all__ = ["Progress", "planned_spend"]

_LEVEL = 0.95
_EVERY_S = 2.0


def planned_spend(policy: Policy, n: int) -> str:
    """Return what n inputs are expected to cost, and by the exact distribution of the mean cost what they cost at most with 95%."""
    show, expected = policy.cost.show, policy.expected_cost
    text = (
        f"planned: {show(expected * n)} for {counted(n, 'input')}, {show(expected)} each of {show(policy.budget)} "
        "allowed"
    )
    if policy.distribution is None:
        return f"{text} ({policy.calibration} calibration has no exact distribution of the mean cost)"
    most = policy.distribution.batch_quantile(_LEVEL, n)
    return f"{text}; with probability {_LEVEL:.0%} at most {show(most)} each"


class Progress:
    """Says how far a job of n inputs is, at most every two seconds; nothing of one that is done in a block.

    `policy`: that inputs are answered under, whose planned spend is told; None where all exits are asked.
    `total`: of what was done before. `clock`: in seconds.
    """

    def __init__(
        self,
        policy: Policy | None,
        n: int,
        total: Tally,
        *,
        block: int,
        say: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.total = total
        self._n, self._before, self._clock = n, total.n, clock
        self._say, self._tells = say, n > block
        self._began = clock()
        self._said = -_EVERY_S + self._began
        if self._tells and policy is not None:
            say(planned_spend(policy, n))
        if total.n:
            say(f"{total.n:,} of {counted(n, 'input')} were done before")

    def add(self, tally: Tally) -> None:
        """Count a block that was answered."""
        self.total += tally
        now = self._clock()
        if not self._tells or (now - self._said < _EVERY_S and self.total.n < self._n):
            return
        self._said = now
        text = f"{self.total.n:,} of {counted(self._n, 'input')} done"
        if self.total.allowed:
            text += f", {self.total.cost / self.total.allowed:.1%} of the budget spent so far"
        rest = (self._n - self.total.n) * (now - self._began) / (self.total.n - self._before)
        self._say(text + (f", about {_span(rest)} left" if self.total.n < self._n else ""))


def _span(seconds: float) -> str:
    """Return a time as people say it.

    >>> _span(3), _span(200), _span(9000), _span(500_000)
    ('3 s', '3 min', '2.5 h', '5.8 days')
    """
    for size, unit in ((86400, "days"), (3600, "h")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds / 60:.0f} min" if seconds >= 120 else f"{seconds:.0f} s"
