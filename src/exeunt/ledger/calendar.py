"""Days, weeks and months of the calendar in a time zone, and limits that begin anew with each of them.

Times are nanoseconds since 1970, those of the machine or the server: clocks that are set. A period that has begun never
begins again: while a clock that went back has not caught up, the later period goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import date, datetime, timedelta, timezone
from types import MappingProxyType
from typing import NamedTuple
from zoneinfo import ZoneInfo

from exeunt._support.arrays import short
from exeunt.errors import InputError

_SECOND = 10**9
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
UTC = "UTC"


class CalendarLimit(NamedTuple):
    """The most of a period that holds which are made in it may take.

    `limit`: as that of an account, so what is left of it is what all that was ever held falls short of.
    """

    period: str
    zone: str
    amount: int
    limit: int = 0
    ends: int = 0  # when the next period begins
    earlier: int = 0  # the latest hold of earlier periods, see `Hold.made`

    def renewed(self, wall: int, used: int, made: int) -> CalendarLimit:
        """Return the limit at a time. `used`: all that was ever held. `made`: the latest hold so far."""
        if wall < self.ends:
            return self
        return self._replace(
            limit=used + self.amount, ends=period_of(self.period, self.zone, wall)[1], earlier=made
        )

    def changed(self, old: CalendarLimit | None, wall: int, used: int, made: int) -> CalendarLimit:
        """Return this limit in the place of the old one of the same period, whose period goes on."""
        if old is None:
            return self.renewed(wall, used, made)
        ends = old.ends
        if self.zone != old.zone:
            ends = max(ends, period_of(self.period, self.zone, wall)[1])
        return self._replace(limit=old.limit - old.amount + self.amount, ends=ends, earlier=old.earlier)

    @property
    def shown_end(self) -> str:
        """When the next period begins, as people there write it."""
        return shown_time(self.ends, self.zone)


def shown_time(time: int, zone: str) -> str:
    """Write a time as people in a zone do.

    >>> shown_time(1_796_644_800 * 10**9, "Europe/Paris")
    '2026-12-07 13:00 Europe/Paris'
    """
    return f"{_local(time, zone_of(zone)):%Y-%m-%d %H:%M} {zone}"


def zone_of(name: str) -> ZoneInfo:
    """Return a time zone. Raises InputError for a name that is none, or that this machine does not know."""
    try:
        return ZoneInfo(name)
    except (ValueError, TypeError, LookupError, OSError):
        raise InputError(
            f"the time zone {short(name)} is not known here: write a name such as 'Europe/Paris' or 'UTC' (where all "
            "names are unknown, install the package tzdata)"
        ) from None


def period_of(period: str, zone: str, time: int) -> tuple[int, int]:
    """Return when the day, week or month begins that holds a time, and when the next one does.

    A week begins on Monday. A period begins when the clocks of the zone first show its date.
    """
    first_day, next_day = _DAYS[period]
    where = zone_of(zone)
    first = first_day(_local(time, where).date())
    if _midnight(next_day(first), where) <= time:  # clocks that went back over midnight show the day before
        first = next_day(first)
    return _midnight(first, where), _midnight(next_day(first), where)


def _local(time: int, zone: ZoneInfo) -> datetime:
    return (_EPOCH + timedelta(microseconds=time // 1000)).astimezone(zone)


def _midnight(day: date, zone: ZoneInfo) -> int:
    """Return when a day begins. Where clocks skip midnight, that is when they do; where they repeat it, the first."""
    begin = datetime(day.year, day.month, day.day, tzinfo=zone).astimezone(timezone.utc)
    return (begin - _EPOCH) // timedelta(seconds=1) * _SECOND


def _next_month(day: date) -> date:
    return (day.replace(day=1) + timedelta(days=31)).replace(day=1)


_DAYS: Mapping[str, tuple[Callable[[date], date], Callable[[date], date]]] = MappingProxyType(
    {
        "day": (lambda day: day, lambda day: day + timedelta(days=1)),
        "week": (lambda day: day - timedelta(days=day.weekday()), lambda day: day + timedelta(days=7)),
        "month": (lambda day: day.replace(day=1), _next_month),
    }
)
PERIODS = tuple(_DAYS)
"""By length."""
