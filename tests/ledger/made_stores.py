"""Stores whose clock is set by hand, and where all kinds of them are; attempts that are sent and paid, and threads."""

import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from exeunt.ledger.postgresql_store import PostgreSQLStore
from exeunt.ledger.sqlite_store import SQLiteStore
from exeunt.ledger.store import MemoryStore
from postgresql_server import name_of, server

SECOND = 10**9
SHARED = ("file", "postgresql")
"""The kinds of stores that processes share."""
EVERY_KIND = pytest.mark.parametrize("store_and_clock", ["memory", *SHARED], indirect=True)


class Clock:
    """A clock that stands still. `wall`: that of the calendar, at first noon of Monday, 7 December 2026 in UTC."""

    now = 1000 * SECOND
    wall = 1_796_644_800 * SECOND

    def __call__(self):
        return self.now

    def move(self, seconds):
        self.now += int(seconds * SECOND)

    def turn(self, days=0, hours=0, seconds=0):
        """Set the clock of the calendar forth or back."""
        self.wall += int(86_400 * days + 3600 * hours + seconds) * SECOND

    def calendar(self):
        return self.wall


def place_of(kind, folder):
    """Return a new place for ledgers: a file in a folder, or the address of a database."""
    return server().new_database() if kind == "postgresql" else Path(folder) / "money.db"


def made_role(name, place):
    """Make a user who may do nothing yet, and return the user's address of a database."""
    server().sql(f"DROP ROLE IF EXISTS {name}")
    server().sql(f"CREATE ROLE {name} LOGIN")
    return server().address(name_of(place), user=name)


@contextmanager
def made_store(kind):
    """Yield a new store, and its clock."""
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        store = _store(kind, folder, clock)
        try:
            yield store, clock
        finally:
            store.close()


def _store(kind, folder, clock):
    if kind == "memory":
        return MemoryStore(clock, clock.calendar)
    if kind == "file":
        return SQLiteStore(place_of(kind, folder), clock=clock, calendar=clock.calendar)
    store = PostgreSQLStore(server().address(), clock=clock, calendar=clock.calendar)
    server().sql("TRUNCATE exeunt_account, exeunt_hold")  # which takes less time than a new database
    return store


def sent(ledger, amount, **options):
    """Return an attempt that was reserved and may be sent."""
    held = ledger.reserve(amount, **options)
    assert held.dispatch()
    return held


def buy(ledger, maximum=0.01, cost=0.005, **options):
    """Return an attempt that was sent and has cost this."""
    held = sent(ledger, maximum, **options)
    held.settle(cost)
    return held


def together(*calls):
    """Make all calls at the same time, and return what they return."""
    with ThreadPoolExecutor(len(calls)) as pool:
        return [one.result() for one in [pool.submit(call) for call in calls]]
