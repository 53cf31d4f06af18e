"""Limits by day, week and month: each at its edge, and random calls against an oracle that keeps a list of attempts."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import closing
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_stores import EVERY_KIND, SHARED, buy, made_store, place_of, sent

import exeunt as ex
from exeunt.errors import InputError, OverBudget
from exeunt.ledger import core, ledger_of
from exeunt.ledger.books import Account
from exeunt.ledger.calendar import CalendarLimit, period_of

NOON = 1_796_644_800  # of Monday, 7 December 2026, in UTC
DAY_S = 86_400


@pytest.fixture
def opened(store):
    return lambda **limits: ex.Ledger(**limits, store=store, lease_s=10)


def left(ledger):
    return {name: limit.left for name, limit in ledger.limits.items()}


def fits(ledger, amount):
    try:
        return ledger.reserve(amount).release()
    except OverBudget:
        return False


# -- at its edge -------------------------------------------------------------------------------------------------------


@EVERY_KIND
def test_each_begins_anew_with_its_period(opened, clock):
    ledger = opened(total="100 usd", day="5 usd", week="8 usd", month="20 usd")
    buy(ledger, 5, 5)
    assert not fits(ledger, 0.01)
    clock.turn(hours=11, seconds=3599)
    assert not fits(ledger, 0.01)
    clock.turn(seconds=1)
    assert left(ledger) == {"total": 95, "day": 5, "week": 3, "month": 15}
    buy(ledger, 3, 3)
    assert not fits(ledger, 0.01)
    clock.turn(days=6)  # Monday
    assert left(ledger) == {"total": 92, "day": 5, "week": 8, "month": 12}
    clock.turn(days=18)  # the first of January, a Friday
    assert left(ledger) == {"total": 92, "day": 5, "week": 8, "month": 20}
    assert (ledger.spent, ledger.left) == (8, 5)


def test_a_period_is_that_of_the_time_zone(opened, clock):
    ledger = opened(day="1 usd", time_zone="America/New_York")
    buy(ledger, 1, 1)
    assert ledger.limits["day"].ends == NOON + 17 * 3600
    clock.turn(hours=16)
    assert not fits(ledger, 1)
    clock.turn(hours=1)
    assert fits(ledger, 1)


@EVERY_KIND
def test_what_is_reserved_counts_in_the_period_in_which_it_was(opened, clock):
    ledger = opened(day="1 usd")
    late, held, gone = (ledger.reserve(amount) for amount in (0.3, 0.3, 0.4))
    assert late.dispatch()
    clock.turn(hours=12)
    assert left(ledger) == {"day": 1}
    late.settle(0.1)  # cheaper than it might have been
    assert held.dispatch()
    gone.release()
    assert left(ledger) == {"day": 1}
    buy(ledger, 1, 0.75)
    held.settle(0.3)
    assert left(ledger) == {"day": 0.25}


def test_a_bill_that_is_booked_late_counts_in_its_period(opened, clock):
    ledger = opened(total="10 usd", day="1 usd", week="2 usd")
    held = sent(ledger, 1, model="large", key="a")
    clock.turn(hours=12)
    held.settle(1.5)
    assert left(ledger) == {"total": 9, "day": 1, "week": 1}
    held.book()
    assert left(ledger) == {"total": 8.5, "day": 1, "week": 0.5}
    ledger.reconcile("a", 0.25)
    assert left(ledger) == {"total": 9.75, "day": 1, "week": 1.75}


def test_a_bill_above_the_maximum_overdraws_its_period_and_no_other(opened, clock):
    ledger = opened(day="1 usd")
    held = sent(ledger, 1, model="large")
    held.settle(3)
    held.book()
    assert left(ledger) == {"day": -2}
    with pytest.raises(
        OverBudget, match=r"has 0 usd left \(it is overdrawn by 2 usd\) of 1 usd for the day until"
    ):
        ledger.reserve(0.5)
    clock.turn(hours=12)
    assert left(ledger) == {"day": 1}


@EVERY_KIND
def test_the_same_key_stays_in_its_period(opened, clock):
    ledger = opened(day="1 usd")
    ledger.reserve(0.75, key="a")
    clock.turn(hours=12)
    ledger.reserve(0.75, key="a")
    assert left(ledger) == {"day": 1}


def test_no_period_begins_again_after_the_clock_went_back(opened, clock):
    ledger = opened(day="1 usd")
    buy(ledger, 1, 1)
    clock.turn(hours=12)
    buy(ledger, 1, 1)
    for hours in (-1, 1, -40, 39, 24.9):
        clock.turn(hours=hours)
        assert not fits(ledger, 0.01), hours
    clock.turn(hours=0.2)
    assert fits(ledger, 1)


@EVERY_KIND
def test_a_jump_forth_and_back_allows_one_period_more(opened, clock):
    ledger = opened(day="1 usd", month="20 usd")
    buy(ledger, 1, 1)
    clock.turn(days=400)
    held = sent(ledger, 1)
    clock.turn(days=-400)
    assert not fits(ledger, 0.01)
    held.settle(0.5)
    assert left(ledger)["day"] == 0.5
    clock.turn(days=399)
    assert not fits(ledger, 0.51)
    clock.turn(days=1, hours=12)
    assert fits(ledger, 1)


@EVERY_KIND
def test_whatever_other_ledgers_clocks_saw_what_comes_back_late_makes_no_room(store, clock):
    """Order tells what is earlier: a ledger within another may have seen a later time than that one."""
    outer = ex.Ledger(month="10 usd", name="all", store=store)
    inner = ex.Ledger(day="10 usd", name="one", within=outer)
    clock.turn(days=400)
    buy(inner, 0, 0)
    clock.turn(days=-400)
    other = ex.Ledger(week="1 usd", name="two", within=outer)
    held = sent(other, 1)
    clock.turn(days=7)
    buy(other, 1, 1)
    held.settle(0)
    assert other.limits["week"].left == 0


def test_the_error_says_when_the_period_ends(opened, clock):
    ledger = opened(total="10 usd", day="1 usd", month="2 usd", time_zone="Europe/Berlin")
    buy(ledger, 1, 1)
    with pytest.raises(OverBudget) as error:
        ledger.reserve(0.5, model="large")
    assert str(error.value) == (
        "an attempt at the model 'large' may cost 0.5 usd, and the ledger 'ledger' has 0 usd left of 1 usd for the day "
        "until 2026-12-08 00:00 Europe/Berlin: try again in 11 hours, or raise the limit of the day"
    )
    assert (error.value.wait_s, error.value.left) == (11 * 3600, 0)
    clock.turn(days=1)
    buy(ledger, 1, 0.75)
    with pytest.raises(
        OverBudget, match=r"has 0\.25 usd left of 2 usd for the month until 2027-01-01 00:00"
    ) as error:
        ledger.reserve(0.5)
    assert error.value.wait_s == 23 * DAY_S + 11 * 3600
    with pytest.raises(
        OverBudget, match=r"0\.25 usd left of 1 usd for the day .*: raise the limit of the day"
    ) as error:
        opened(total="10 usd", day="1 usd", time_zone="Europe/Berlin").reserve(1.5)
    assert error.value.wait_s is None
    with pytest.raises(OverBudget, match=r"has 0\.5 usd left of 2\.25 usd: raise the total") as error:
        opened(total="2.25 usd", day="0.1 usd").reserve(0.6)
    assert error.value.wait_s is None


def test_a_limit_that_changes_goes_on_in_its_period_and_a_new_one_counts_from_then(opened, clock):
    ledger = opened(total="10 usd", day="1 usd")
    buy(ledger, 1, 1)
    assert left(opened(total="10 usd", day="3 usd", week="5 usd")) == {"total": 9, "day": 2, "week": 5}
    assert left(opened()) == {"total": 9, "day": 2, "week": 5}
    assert left(opened(day="0.5 usd")) == {"day": -0.5}
    clock.turn(hours=12)
    assert left(opened(day="0.5 usd")) == {"day": 0.5}
    assert left(opened(total="10 usd")) == {"total": 9}
    assert left(opened(rate="1 usd/day", day="0.5 usd")) == {"day": 0.5}


@pytest.mark.parametrize(("zone", "hours"), [("America/New_York", 17), ("Asia/Tokyo", 12)])
def test_another_time_zone_gives_no_day_twice(opened, clock, zone, hours):
    """Of the two ends the later one counts."""
    buy(opened(day="1 usd"), 1, 1)
    ledger = opened(day="1 usd", time_zone=zone)
    assert ledger.limits["day"].ends == NOON + hours * 3600
    clock.turn(hours=hours, seconds=-1)
    assert not fits(ledger, 0.01)
    clock.turn(seconds=1)
    assert fits(ledger, 1)


def test_a_limit_as_people_write_it(store):
    by_month = ledger_of("5 usd/month", time_zone="UTC", store=store)
    assert by_month.limits["month"].most == 5
    assert ledger_of("5 usd/day", time_zone="UTC", name="b", store=store).limits["day"].most == 5
    assert ledger_of("5 usd/hour", time_zone="UTC", name="c", store=store).limits == {}
    assert ledger_of("5 usd/day", name="d", store=store).limits == {}
    assert ledger_of("5 usd", time_zone="UTC", name="e", store=store).limits["total"].most == 5


@pytest.mark.parametrize(
    ("limits", "why"),
    [
        ({"day": "5"}, "write a number with its unit"),
        ({"day": "-5 usd"}, "from 0 to"),
        ({"day": 5}, "amounts are texts with their unit"),
        ({"month": "5 usd/day"}, "amounts in one unit, such as '5 usd', got 'usd/day'"),
        ({"day": "5 usd", "month": "5 cent"}, "got 'cent' and 'usd'"),
        ({"day": "5 usd", "total": "5 cent"}, "use one unit"),
        ({"day": "5 usd", "time_zone": "Mars/Base"}, "the time zone 'Mars/Base' is not known here"),
        ({"total": "5 usd", "time_zone": "UTC"}, "belongs to limits by day, week or month"),
        ({"time_zone": "UTC"}, "belongs to limits by day, week or month"),
        ({"total": "5 usd", "inputs": 3, "day": "1 usd"}, "leave out day, week and month"),
    ],
)
def test_what_cannot_be_a_limit_is_one_line(limits, why):
    with pytest.raises(InputError, match=rf"^[^\n]*{re.escape(why)}[^\n]*$"):
        ex.Ledger(**limits)


# -- random calls ------------------------------------------------------------------------------------------------------

LIMITS = {
    "all": {"total": "6", "day": "2", "month": "3"},
    "all/a": {"day": "1", "week": "1.5"},
    "all/b": {"month": "2"},
}
ZONES = {"all": "UTC", "all/a": "Asia/Tokyo", "all/b": "America/New_York"}
AMOUNTS = st.integers(0, 100).map(lambda hundredths: hundredths / 100)
LEDGERS = st.sampled_from(list(LIMITS))
CALLS = st.lists(
    st.one_of(
        st.tuples(st.just("reserve"), LEDGERS, AMOUNTS),
        st.tuples(st.just("buy"), LEDGERS, AMOUNTS),
        st.tuples(st.sampled_from(["dispatch", "release", "book"]), st.integers(0, 9)),
        st.tuples(st.just("settle"), st.integers(0, 9), AMOUNTS),
        st.tuples(st.just("turn"), st.sampled_from([1, 6, 12, 24, 24 * 7, 24 * 31, -1, -30, -24 * 31])),
    ),
    max_size=40,
)


class Oracle:
    """Keeps for each limit a list of the attempts of its period, and adds them up each time."""

    def __init__(self):
        self.wall = NOON
        self.ends = {(name, limit): self.end(name, limit) for name in LIMITS for limit in LIMITS[name]}
        self.of_period = {place: [] for place in self.ends}

    def end(self, name, limit):
        return None if limit == "total" else period_of(limit, ZONES[name], self.wall * 10**9)[1] // 10**9

    def places(self, name):
        return [(one, limit) for one in {name, "all"} for limit in LIMITS[one]]

    def begins_anew(self, place):
        return self.ends[place] is not None and self.wall >= self.ends[place]

    def left(self, place):
        mine = [] if self.begins_anew(place) else self.of_period[place]
        return Fraction(LIMITS[place[0]][place[1]]) - sum(amount["counts"] for amount in mine)

    def changes(self, name):
        """What is written begins new periods; reading does not."""
        for place in self.places(name):
            if self.begins_anew(place):
                self.ends[place], self.of_period[place] = self.end(*place), []

    def reserve(self, name, amount):
        if any(Fraction(str(amount)) > self.left(place) for place in self.places(name)):
            return None
        self.changes(name)
        attempt = {"counts": Fraction(str(amount))}
        for place in self.places(name):
            self.of_period[place].append(attempt)
        return attempt


def check_calls(store, clock, calls):
    """Make the calls, of the ledgers and of the oracle."""
    oracle = Oracle()
    clock.wall = NOON * 10**9
    whole = ex.Ledger(total="6 usd", day="2 usd", month="3 usd", name="all", store=store, lease_s=1e6)
    a = ex.Ledger(day="1 usd", week="1.5 usd", time_zone="Asia/Tokyo", name="a", within=whole)
    b = ex.Ledger(month="2 usd", time_zone="America/New_York", name="b", within=whole)
    ledgers, attempts = {"all": whole, "all/a": a, "all/b": b}, []
    for what, *given_ in calls:
        if what == "turn":
            clock.turn(hours=given_[0])
            oracle.wall += given_[0] * 3600
        elif what in ("reserve", "buy"):
            name, amount = given_
            expected = oracle.reserve(name, amount)
            try:
                held = ledgers[name].reserve(amount, key=str(len(attempts)))
            except OverBudget:
                assert expected is None
                continue
            assert expected is not None
            attempts.append((name, held, expected))
            if what == "buy":
                held.dispatch()
        elif attempts:
            name, held, expected = attempts[given_[0] % len(attempts)]
            act(oracle, what, name, held, expected, *given_[1:])
        for name, ledger in ledgers.items():
            for limit, found in ledger.limits.items():
                assert found.left == float(oracle.left((name, limit))), (what, name, limit)
                assert found.left >= 0 or any(attempt["counts"] > 1 for _, _, attempt in attempts)


def act(oracle, what, name, held, expected, cost=None):
    if what == "dispatch":
        if held.state == "reserved" and held.dispatch():
            oracle.changes(name)
    elif what == "release":
        if held.state == "reserved" and expected["counts"] is not None and held.release():
            oracle.changes(name)
            expected["counts"] = Fraction(0)
    elif what == "settle" and held.state in ("dispatched", "charged"):
        held.settle(cost if cost <= held.maximum else None)
        oracle.changes(name)
        expected["counts"] = Fraction(str(min(cost, held.maximum)))
    elif what == "book" and held.state == "settled" and held.key is not None:
        held._ledger.reconcile(held.key, held.cost / 2)
        if held.cost:
            oracle.changes(name)
        expected["counts"] = Fraction(str(held.cost / 2))
        held._hold = held._hold._replace(cost=int(held._hold.cost / 2), key=None)


@settings(max_examples=400, deadline=None)
@given(CALLS)
def test_a_ledger_in_memory_counts_what_the_oracle_counts(calls):
    with made_store("memory") as (store, clock):
        check_calls(store, clock, calls)


@pytest.mark.parametrize("kind", SHARED)
@settings(max_examples=15, deadline=None)
@given(calls=CALLS)
def test_a_shared_ledger_counts_what_the_oracle_counts(kind, calls):
    with made_store(kind) as (store, clock):
        check_calls(store, clock, calls)


def generous_sums(account, before, after):
    """What comes back late makes room in the period in which it comes back."""
    booked = BOOKED(account, before, after)
    return booked._replace(calendar=account.calendar)


def generous_renewal(limit, wall, used, made):
    """A clock that went back begins a period again."""
    begin, end = period_of(limit.period, limit.zone, wall)
    if begin < limit.ends <= end:
        return limit
    return limit._replace(limit=used + limit.amount, ends=end, earlier=made)


def forgetful_renewal(limit, wall, used, made):
    """What is held from earlier counts in the new period as if it were given back."""
    return limit if wall < limit.ends else RENEWED(limit, wall, used, made)._replace(earlier=0)


BOOKED, RENEWED = core._booked, CalendarLimit.renewed


def eager_renewed(account, wall, made):
    return account._replace(calendar=tuple(one.renewed(wall, account.used, made) for one in account.calendar))


LATE = [("buy", "all", 1.0), ("buy", "all/a", 1.0), ("turn", 24), ("settle", 0, 0.25), ("buy", "all", 1.0)]
BACK = [("buy", "all", 1.0), ("turn", 24), ("buy", "all", 0.5), ("turn", -30), ("buy", "all", 0.5)]


@pytest.mark.parametrize(
    ("place", "name", "mistake", "calls"),
    [
        (core, "_booked", generous_sums, LATE),
        (CalendarLimit, "renewed", forgetful_renewal, LATE),
        (CalendarLimit, "renewed", generous_renewal, BACK),
    ],
)
def test_the_oracle_finds_mistakes(monkeypatch, place, name, mistake, calls):
    with made_store("memory") as (store, clock):
        check_calls(store, clock, calls)
    monkeypatch.setattr(place, name, mistake)
    monkeypatch.setattr(core, "_renewed", eager_renewed)
    with pytest.raises(AssertionError), made_store("memory") as (store, clock):
        check_calls(store, clock, calls)


# -- processes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", SHARED)
def test_processes_spend_no_more_than_the_limit_of_each_day_and_lose_nothing(kind, tmp_path):
    """Days last a second. Answers come late, and one process is killed and begins again."""
    place = place_of(kind, tmp_path)
    began = str(time.time_ns())
    program = Path(__file__).with_name("calendar_process.py")
    logs = [tmp_path / f"{i}.log" for i in range(4)]

    def started(i):
        command = [sys.executable, program, str(place), str(logs[i]), began, str(i), "5" if i else "2"]
        return subprocess.Popen(command)

    processes = [started(i) for i in range(3)]
    while not logs[0].exists() or logs[0].stat().st_size < 500:
        time.sleep(0.01)
    os.kill(processes[0].pid, signal.SIGKILL)
    processes[0].wait()
    processes.append(started(3))
    assert [process.wait(60) for process in processes[1:]] == [0, 0, 0]
    lines = [json.loads(line) for log in logs for line in log.read_text().splitlines() if line.endswith("}")]
    days = {line["key"]: line["day"] for line in lines if line["what"] == "sends"}
    counts = {line["key"]: line["amount"] for line in lines if line["what"] != "refused"}  # in this order
    by_day = {day: sum(counts[key] for key in days if days[key] == day) for day in days.values()}
    assert max(by_day.values()) <= 40, by_day
    assert len(by_day) >= 3
    assert len({line["day"] for line in lines if line["what"] == "refused"}) >= 2
    with closing(ex.Ledger(name="ledger", file=place)) as ledger:
        assert ledger.spent * 100 == pytest.approx(sum(by_day.values()), abs=40)  # of what was killed


def test_the_account_of_a_limit_takes_no_more_room_over_time(store, clock):
    ledger = ex.Ledger(day="1 usd", store=store)
    for _ in range(50):
        buy(ledger, 1, 1)
        clock.turn(days=1)
    account = store.run(lambda books, _: books.account("ledger"))
    assert isinstance(account, Account)
    assert len(account.calendar) == 1
