"""Stores whose clock is set by hand, and where all kinds of them are."""

from __future__ import annotations

import tempfile
from contextlib import contextmanager
from pathlib import Path

from exeunt.ledger.postgresql_store import PostgreSQLStore
from exeunt.ledger.sqlite_store import SQLiteStore
from exeunt.ledger.store import MemoryStore
from postgresql_server import server

SECOND = 10**9
SHARED = ("file", "postgresql")
"""The kinds of stores that processes share."""


class Clock:
    """A clock that stands still."""

    now = 1000 * SECOND

    def __call__(self):
        return self.now

    def move(self, seconds):
        self.now += int(seconds * SECOND)


def place_of(kind, folder):
    """Return a new place for ledgers: a file in a folder, or the address of a database."""
    return server().new_database() if kind == "postgresql" else Path(folder) / "money.db"


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
        return MemoryStore(clock)
    if kind == "file":
        return SQLiteStore(place_of(kind, folder), clock=clock)
    tables = "exeunt_account, exeunt_hold"  # emptied, which takes less time than a new database
    store = PostgreSQLStore(server().address(), clock=clock)
    server().sql(f"TRUNCATE {tables}")
    return store
