"""Which units are compared: drawn by lot before anybody looks at what they hold, with a probability that is known.

The lots are HMACs of a unit's number, one for whether it is drawn and another for whether it tests policies or fits
them. The probability is set at the start of a period from earlier periods alone, and is constant in it.
"""

from __future__ import annotations

import hmac
import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from exeunt.stream.units import DAY_S

LOOKED_AT = 20
"""Periods by which the probability is set. It is tried whether money lasts again when it did in all of them: so it is
missing in about one of 21, which is less than the one in ten in which it may be."""
_SPARED = 2.0
"""Standard deviations of the number of chosen units for which money is spared: it comes by chance."""
_SHORT = 0.02
"""Money is short in a period in which it was missing for more of the chosen units than this."""


@dataclass
class Period:
    """The units that began in a period. `number`: of the period. `probability`: with which its units were chosen.

    `units`: that began, of clients that are compared. `chosen`: by lot; `refused`: of these, those that were not drawn
    because money was not free. `settled`: when all of its units had closed and been graded; None before. `length`: in
    seconds.
    """

    number: int
    probability: float
    units: int = 0
    chosen: int = 0
    refused: int = 0
    settled: float | None = None
    length: float = DAY_S

    @property
    def is_short(self) -> bool:
        """Whether money was missing for many of the units that were chosen."""
        return self.refused > _SHORT * self.chosen

    @property
    def affordable(self) -> float:
        """The probability at which the money would have lasted, but for one time in fifty; 1 where it did."""
        if not self.refused:
            return 1.0
        paid = max(self.chosen - self.refused, 1)  # else nothing would ever be drawn again
        return (math.sqrt(paid + _SPARED**2 / 4) - _SPARED / 2) ** 2 / max(self.units, 1)


class Drawing:
    """Draws units. `secret`: of the HMACs. `period_s`: the length of a period, from the beginning of 1970 on (UTC).

    `before`: the latest periods of this length of before a restart, the oldest first.
    """

    def __init__(self, secret: bytes, period_s: float, before: Iterable[Period] = ()) -> None:
        self._secret, self.period_s = secret, period_s
        self._periods: deque[Period] = deque(before, maxlen=LOOKED_AT + 1)

    def number_of(self, now: float) -> int:
        """Return the number of the period of a time."""
        return int(now // self.period_s)

    def period(self, now: float, limit: float) -> Period:
        """Return the period of a time. If it begins now, its probability is at most `limit`."""
        number = self.number_of(now)
        if not self._periods or self._periods[-1].number < number:
            self._periods.append(Period(number, self._probability(limit), length=self.period_s))
        return self._periods[-1]

    def refuse(self, number: int) -> None:
        """Take note that money was not free for a chosen unit of a period."""
        for period in self._periods:
            if period.number == number:
                period.refused += 1

    @property
    def latest(self) -> list[Period]:
        """The latest periods, two at most: requests of the one before may still be under way."""
        return [*self._periods][-2:]

    def is_chosen(self, unit: int, probability: float) -> bool:
        """Return whether the lot of a unit falls on comparing it."""
        return self._lot(b"draw", unit) < probability

    def is_held_out(self, unit: int) -> bool:
        """Return whether a unit tests policies; others fit them."""
        return self._lot(b"half", unit) < 0.5

    def _lot(self, use: bytes, unit: int) -> float:
        digest = hmac.digest(self._secret, b"%s %d" % (use, unit), "sha256")
        return int.from_bytes(digest[:7], "big") / 2**56

    def _probability(self, limit: float) -> float:
        """Return the highest probability at which the money would have lasted in all of the latest periods."""
        return min([limit, *(period.affordable for period in [*self._periods][-LOOKED_AT:])])
