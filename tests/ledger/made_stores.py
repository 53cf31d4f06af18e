"""Stores whose clock is set by hand."""

from __future__ import annotations

import tempfile
from contextlib import contextmanager
from pathlib import Path

from exeunt.ledger.sqlite_store import SQLiteStore
from exeunt.ledger.store import MemoryStore

SECOND = 10**9


class Clock:
    """A clock that stands still."""

    now = 1000 * SECOND

    def __call__(self):
        return self.now

    def move(self, seconds):
        self.now += int(seconds * SECOND)


@contextmanager
def made_store(kind):
    """Yield a new store, and its clock."""
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        store = (
            MemoryStore(clock) if kind == "memory" else SQLiteStore(Path(folder) / "money.db", clock=clock)
        )
        try:
            yield store, clock
        finally:
            store.close()
