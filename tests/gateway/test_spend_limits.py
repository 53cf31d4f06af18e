"""Limits of a gateway by day, week, month and in total: for all requests, and for each client."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from exeunt.cli.app import run as exeunt
from exeunt.errors import OverBudget
from exeunt.gateway.config import Shadow, Spend
from exeunt.gateway.key_store import Client
from exeunt.gateway.ledgers import Money, compared_in, limits_in
from exeunt.ledger import Ledger, ledger_of
from exeunt.ledger.sqlite_store import SQLiteStore

from .running_gateway import error_of, running

NOON, HOUR_S, DAY_S = 1_796_644_800, 3600, 86_400
"""Of Monday, 7 December 2026, in UTC."""
MIDNIGHT_S = {"UTC": 12 * HOUR_S, "America/New_York": 17 * HOUR_S, "Asia/Tokyo": 3 * HOUR_S}
DAYS_UNTIL = {"day": 0, "week": 6, "month": 24}
"""Until the midnight at which the next period begins, from the next one on; in Tokyo as in UTC."""


@pytest.fixture
def turned(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Set the calendar of gateways that are opened from now on, to seconds after that noon."""
    now = [float(NOON)]

    def calendar() -> int:
        return int(now[0] * 1e9)

    monkeypatch.setattr(SQLiteStore.__init__, "__defaults__", ("normal", None, calendar))

    def turn(seconds: float) -> None:
        now[0] = NOON + seconds

    return turn


@pytest.mark.parametrize("zone", MIDNIGHT_S)
@pytest.mark.parametrize("period", DAYS_UNTIL)
@pytest.mark.parametrize("of", ["all", "client"])
def test_a_limit_holds_until_its_period_ends_there(
    tmp_path: Path, turned: Callable[[float], None], of: str, period: str, zone: str
) -> None:
    limit = f"{period}: '0.008 usd'" if of == "all" else f"key: '0.008 usd/{period}'"
    end = MIDNIGHT_S[zone] + DAYS_UNTIL[period] * DAY_S
    with running(tmp_path, spend=f"{{{limit}, time_zone: {zone}}}", shadow="") as run:
        statuses: list[int] = []
        while 429 not in statuses and len(statuses) < 100:
            statuses.append(run.ask("easy").status_code)
        assert statuses[0] == 200
        refused = run.ask("easy")
        assert refused.headers["retry-after"] == str(end)
        assert ("try again in" if end < DAY_S else "there is enough on") in error_of(refused)
        shown = run.state()["money"]
        told = shown[period] if of == "all" else shown["clients"]["alice"]
        assert (told["limit"], told["most"], told["ends"]) == (f"0.008 usd/{period}", 0.008, NOON + end)
        assert told["left"] < 0.004
        turned(end - 1)
        assert run.ask("easy").status_code == 429
        turned(end)
        assert run.ask("easy").status_code == 200
        assert run.gateway.money.total.spent > 0.004


def test_all_limits_hold_at_once(tmp_path: Path, turned: Callable[[float], None]) -> None:
    spend = Spend(total="10 usd", month="8 usd", week="4 usd", day="3 usd", key="2 usd/day")
    clients = [Client(name, f"{i}" * 64) for i, name in enumerate(["alice", "bob", "carol"])]
    with closing(Money(tmp_path / "money.db", spend, None)) as money:
        for day in range(60):
            turned(day * DAY_S)
            for client in clients:
                for _ in range(30):
                    try:
                        held = money.of(client).reserve(0.1)
                    except OverBudget:
                        break
                    held.dispatch()
                    held.settle(0.1)
            left = money.state(clients)
            assert (
                min(one["left"] for one in (left["all"], left["day"], left["week"], left["month"]))
                == money.left
            )
        assert money.total.spent == 10
        assert money.state(clients)["month"]["left"] == pytest.approx(8)  # of a later one


def test_the_table_says_until_when(
    tmp_path: Path, turned: Callable[[float], None], capsys: pytest.CaptureFixture[str]
) -> None:
    spend = "{month: '20 usd', day: '3 usd', time_zone: Europe/Paris}"
    with running(tmp_path, spend=spend, shadow="") as run:
        run.ask("easy")
    exeunt(["gateway", "money", str(tmp_path / "gateway.yaml")])
    rows = {line.split("  ")[0]: line.split() for line in capsys.readouterr().out.splitlines()}
    assert rows["each day"][-3:] == ["2026-12-08", "00:00", "Europe/Paris"]
    assert rows["each month"][-3:] == ["2027-01-01", "00:00", "Europe/Paris"]
    assert "each week" not in rows


def older_folder(folder: Path) -> None:
    """Spend as before there were limits by the calendar: a day was a rate."""
    with closing(SQLiteStore(folder / "money.db")) as store:
        whole = ledger_of("100 usd", name="all", store=store)
        day = ledger_of("20 usd/day", name="day", within=whole)
        for name, limit in (("client alice", "5 usd"), ("client bob", "5 usd/day"), ("shadow", "1 usd")):
            ledger = ledger_of(limit, name=name, within=day)
            held = ledger.reserve(0.75)
            held.dispatch()
            held.settle(0.5)


def test_a_folder_in_which_a_day_was_a_rate_goes_on(tmp_path: Path, turned: Callable[[float], None]) -> None:
    older_folder(tmp_path)
    spend, shadow = Spend(total="100 usd", day="20 usd", month="30 usd"), Shadow(("small",), "1 usd")
    clients = [Client("alice", "a" * 64, spend="5 usd"), Client("bob", "b" * 64, spend="5 usd/day")]
    with closing(Money(tmp_path / "money.db", spend, shadow)) as money:
        left = money.state(clients)
        assert (left["all"]["left"], left["day"]["left"], left["month"]["left"]) == (98.5, 20, 30)
        assert (left["shadow"]["left"], left["clients"]["alice"]["left"]) == (0.5, 4.5)
        assert left["clients"]["bob"]["left"] == 5
        money.of(clients[1]).reserve(5).release()
        with pytest.raises(OverBudget):
            money.of(clients[1]).reserve(5.01)
    assert compared_in(tmp_path) == 0.5
    looked, _ = limits_in(tmp_path, spend, shadow, clients)
    assert {name: one["left"] for name, one in looked.items()} == {
        "all": 98.5, "each day": 20, "each month": 30, "comparisons": 0.5, "client alice": 4.5, "client bob": 5,
    }  # fmt: skip


def test_a_limit_that_is_added_or_taken_away_leaves_what_was_spent(
    tmp_path: Path, turned: Callable[[float], None]
) -> None:
    def opened(**limits: Any) -> Money:
        return Money(tmp_path / "money.db", Spend(**limits), None)

    client = Client("alice", "a" * 64)
    for limits, left in (
        ({}, {}),
        ({"day": "3 usd"}, {"day": 2}),
        ({"day": "4 usd", "week": "9 usd"}, {"day": 2, "week": 8}),
        ({"week": "9 usd"}, {"week": 7}),
        ({}, {}),
    ):
        with closing(opened(**limits)) as money:
            held = money.of(client).reserve(1)
            held.dispatch()
            held.settle(1)
            state = money.state([client])
            assert {name: state[name]["left"] for name in ("day", "week", "month") if name in state} == left
    assert state["all"]["spent"] == 5


def test_rates_of_clients_by_the_hour_stay_rates(tmp_path: Path) -> None:
    with closing(Money(tmp_path / "money.db", Spend(), None)) as money:
        ledger = money.of(Client("alice", "a" * 64, spend="3600000 usd/hour"))
        assert isinstance(ledger, Ledger)
        held = ledger.reserve(3_600_000)
        held.dispatch()
        held.settle()
        before = ledger.left
        time.sleep(0.01)
        assert ledger.left > before
