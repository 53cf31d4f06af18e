"""Days, weeks and months in time zones, against a walk through time that looks at the clocks there."""

from datetime import datetime, timezone
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from exeunt.errors import InputError
from exeunt.ledger.calendar import CalendarLimit, period_of, zone_of

SECOND, DAY_S = 10**9, 86_400
KEYS = {
    "day": lambda local: local.date(),
    "week": lambda local: local.isocalendar()[:2],
    "month": lambda local: (local.year, local.month),
}
LONGEST = {"day": 3, "week": 9, "month": 33}
"""Days that are walked back and forth."""
ODD = {
    "America/St_Johns": "2010-11-07",  # at 0:01, clocks go back to 23:01
    "America/Havana": "2025-03-09",  # there is no midnight
    "Africa/Cairo": "2026-10-29",  # it is midnight twice
    "America/Nuuk": "2025-10-25",
    "Australia/Lord_Howe": "2026-04-04",  # by half an hour
    "Pacific/Apia": "2011-12-30",  # there is no such day
    "Europe/Berlin": "2026-10-25",
    "America/New_York": "2027-03-14",
    "Asia/Kathmandu": "2026-12-31",
    "UTC": "2028-02-29",
}


def walked(period, zone, time_s, step_s):
    """Return when the period begins and ends that holds a time: when clocks first show what they did not before."""
    where, key = ZoneInfo(zone), KEYS[period]
    begins, shown, latest = [], None, None
    for second in range(time_s - LONGEST[period] * DAY_S, time_s + LONGEST[period] * DAY_S, step_s):
        now = key(datetime.fromtimestamp(second, where))
        if shown is None:
            shown = latest = now
        elif now > latest:
            begins, latest = [*begins, second], now
    return max(one for one in begins if one <= time_s), min(one for one in begins if one > time_s)


@pytest.mark.parametrize("zone", ODD)
@pytest.mark.parametrize(("period", "step_s", "n"), [("day", 60, 12), ("week", 900, 6), ("month", 900, 6)])
def test_it_is_what_clocks_show(zone, period, step_s, n):
    if zone == "America/St_Johns" and period != "day":
        step_s, n = 60, 1
    around = int(datetime.fromisoformat(f"{ODD[zone]}T12:00").replace(tzinfo=timezone.utc).timestamp())
    rng = np.random.default_rng(len(zone))
    for minutes in rng.integers(-2880, 2880, size=n):
        time_s = (around + int(minutes) * 60) // step_s * step_s
        begin, end = period_of(period, zone, time_s * SECOND + 7)
        assert (begin // SECOND, end // SECOND) == walked(period, zone, time_s, step_s), time_s


@pytest.mark.parametrize("period", KEYS)
@pytest.mark.parametrize("zone", ODD)
def test_one_follows_the_other_without_a_gap(zone, period):
    begin, end = period_of(period, zone, 1_262_304_000 * SECOND)  # 2010
    while end < 1_893_456_000 * SECOND:  # 2030
        assert period_of(period, zone, begin) == period_of(period, zone, end - 1) == (begin, end)
        assert begin < end <= begin + {"day": 1.1, "week": 7.1, "month": 31.1}[period] * DAY_S * SECOND
        begin, end = period_of(period, zone, end)


def test_the_end_is_shown_as_people_there_write_it():
    limit = CalendarLimit("month", "Europe/Paris", 10**9).renewed(1_796_644_800 * SECOND, 0, 0)
    assert limit.shown_end == "2027-01-01 00:00 Europe/Paris"


@pytest.mark.parametrize("name", ["Mars/Base", "", "../etc/passwd", "Europe", None, 7, "\0", "x" * 300])
def test_an_unknown_time_zone_is_one_line(name):
    with pytest.raises(
        InputError, match=r"^the time zone [^\n]* is not known here: write a name such as [^\n]*$"
    ):
        zone_of(name)
