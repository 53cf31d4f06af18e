"""Ledgers in a SQLite file, which threads and processes share."""

from __future__ import annotations

import os
import sqlite3
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, cast
from weakref import finalize

from exeunt._files import open_regular
from exeunt._sqlite import DatabaseKind
from exeunt.errors import FileError, InputError
from exeunt.ledger.books import Account, Hold
from exeunt.ledger.group_commit import GroupCommitStore, Job
from exeunt.ledger.sql_books import SQLBooks, statements
from exeunt.ledger.store import Clock

_DURABILITY = ("normal", "full")


class SQLiteStore(GroupCommitStore):
    """Ledgers in a file. Any number of threads and processes of one machine may share it.

    `durability`: "normal" survives the end of any process. "full" also survives a power failure: each dispatch waits
    for the disk, and what was settled in the last moment may count at its maximum. Operations of several threads that
    come together are kept in one transaction. If the file is moved, replaced or full, what was asked has not happened.
    """

    # The default clock is the same for all processes of a machine, and setting the time does not change it.
    def __init__(
        self, file: str | Path, durability: str = "normal", clock: Clock = time.monotonic_ns
    ) -> None:
        if durability not in _DURABILITY:
            raise InputError(f"durability is {' or '.join(map(repr, _DURABILITY))}, got {durability!r}")
        self.file, self._durability, self._clock = Path(file), durability, clock
        self._connection = cast("sqlite3.Connection | None", None)
        self._gate: IO[bytes] | None = None
        super().__init__(str(file))

    def begin_anew(self) -> None:
        """Have no connection and no thread, as `GroupCommitStore.begin_anew` says."""
        _of_parents.append(self._connection)
        self._connection = None
        if self._gate is not None:
            self._gate.close()
        super().begin_anew()

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()

    def _keep(self, jobs: list[Job]) -> None:
        """Do these operations in one transaction: all are kept, or none."""
        try:
            connection = self._connected()
            if self._durability == "full":
                last = any(job.lasting for job in jobs)
                connection.execute(f"PRAGMA synchronous = {'full' if last else 'normal'}")
            with _turn(self._gate):
                connection.execute("BEGIN IMMEDIATE")
                books, now = SQLBooks(connection.execute, _STATEMENTS), self._clock()
                for job in jobs:
                    job.do(books, now)
                books.flush()
                connection.execute("COMMIT")
        except BaseException as error:
            if self._connection is not None:
                with suppress(sqlite3.Error):
                    self._connection.rollback()
            for job in jobs:
                job.error = _KIND.failure(self.file, error)

    def _connected(self) -> sqlite3.Connection:
        """Return the connection to the file, which must be the one that was opened."""
        self._check_open()
        if self._connection is None:
            if not os.path.lexists(self.file):
                _KIND.make(self.file)
            self._connection, self._place = _KIND.connect(self.file), self.file.stat()
            self._gate = open_regular(self.file.with_name(f"{self.file.name}-lock"), "ab")
            finalize(self, self._gate.close)
        if not os.path.samestat(self._place, self.file.stat()):
            raise FileError(f"the ledger {self.file} was moved away and replaced: open it again")
        return self._connection


@contextmanager
def _turn(gate: IO[bytes] | None) -> Iterator[None]:
    """Wait for other processes in the order in which they came. SQLite lets each try again at random times."""
    if sys.platform == "win32" or gate is None:
        yield
        return
    import fcntl

    with suppress(OSError):  # a disk without locks
        fcntl.lockf(gate, fcntl.LOCK_EX)  # the next one holds this, so that the last one cannot overtake it
        fcntl.flock(gate, fcntl.LOCK_EX)
        fcntl.lockf(gate, fcntl.LOCK_UN)
    try:
        yield
    finally:
        with suppress(OSError):
            fcntl.flock(gate, fcntl.LOCK_UN)
            fcntl.lockf(gate, fcntl.LOCK_UN)


_of_parents: list[sqlite3.Connection | None] = []
_STATEMENTS = statements("account", "hold", "?")


def _columns(kind: type[Account] | type[Hold]) -> str:
    return ", ".join(f'"{name}"' for name in kind._fields)


_SCHEMA = f"""
CREATE TABLE account ({_columns(Account)}, PRIMARY KEY (name)) WITHOUT ROWID;
CREATE TABLE hold ({_columns(Hold)}, PRIMARY KEY (ledger, number)) WITHOUT ROWID;
CREATE UNIQUE INDEX keys ON hold (ledger, key) WHERE key IS NOT NULL;
CREATE INDEX unsettled ON hold (state) WHERE state < 3;
"""
_KIND = DatabaseKind("ledger", 0x45584C44, 1, _SCHEMA, page_size=1024)
