"""Ledgers in a SQLite file, which threads and processes share."""

from __future__ import annotations

import os
import sqlite3
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import IO, cast
from weakref import finalize

from exeunt._files import check_writable, make_folder, open_regular, temporary_name, why_it_failed
from exeunt.errors import ArtefactError, ExeuntError, FileError, InputError
from exeunt.ledger.books import Account, Hold
from exeunt.ledger.group_commit import GroupCommitStore, Job
from exeunt.ledger.sql_books import SQLBooks, statements
from exeunt.ledger.store import Clock

_APPLICATION, _VERSION = 0x45584C44, 1  # what SQLite files of this kind have in their header
_DURABILITY = ("normal", "full")
_WAIT_S = 30.0  # for other processes


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
                job.error = self._failure(error)

    def _connected(self) -> sqlite3.Connection:
        """Return the connection to the file, which must be the one that was opened."""
        self._check_open()
        if self._connection is None:
            if not os.path.lexists(self.file):
                _make(self.file)
            self._connection, self._place = _connect(self.file), self.file.stat()
            self._gate = open_regular(self.file.with_name(f"{self.file.name}-lock"), "ab")
            finalize(self, self._gate.close)
        if not os.path.samestat(self._place, self.file.stat()):
            raise FileError(f"the ledger {self.file} was moved away and replaced: open it again")
        return self._connection

    def _failure(self, error: BaseException) -> BaseException:
        """Return the error for what was asked when the file failed."""
        if isinstance(error, sqlite3.OperationalError):
            return FileError(
                f"the ledger {self.file} cannot be read or written ({error}): nothing was changed"
            )
        if isinstance(error, sqlite3.Error):
            return ArtefactError(
                f"{self.file} is no ledger, or is damaged ({error}): restore it, or choose another file"
            )
        if isinstance(error, OSError) and not isinstance(error, ExeuntError):
            return FileError(f"the ledger {self.file} cannot be used: {why_it_failed(error)}")
        return error


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
PRAGMA page_size = 1024;
PRAGMA journal_mode = WAL;
PRAGMA application_id = {_APPLICATION};
PRAGMA user_version = {_VERSION};
CREATE TABLE account ({_columns(Account)}, PRIMARY KEY (name)) WITHOUT ROWID;
CREATE TABLE hold ({_columns(Hold)}, PRIMARY KEY (ledger, number)) WITHOUT ROWID;
CREATE UNIQUE INDEX keys ON hold (ledger, key) WHERE key IS NOT NULL;
CREATE INDEX unsettled ON hold (state) WHERE state < 3;
"""


def _make(file: Path) -> None:
    """Make an empty file of ledgers, unless another process is faster. A file is never there half made."""
    check_writable(make_folder(file.parent), f"cannot make the ledger {file}")
    new = temporary_name(file, "tmp")
    try:
        new.touch(mode=0o600)
        with closing(sqlite3.connect(new)) as connection:
            connection.executescript(_SCHEMA)
        with suppress(FileExistsError):
            os.link(new, file)
    finally:
        new.unlink(missing_ok=True)


def _connect(file: Path) -> sqlite3.Connection:
    """Connect to a file of ledgers. What is in its place otherwise is an error."""
    # Not opened to look: closing it would free the locks of other connections of this process.
    found = file.stat()
    if not stat.S_ISREG(found.st_mode) or not found.st_size:
        what = "is empty" if stat.S_ISREG(found.st_mode) else "is not a file"
        raise ArtefactError(
            f"{file} {what}, so it is no ledger: choose another file, or remove it to begin anew"
        )
    connection = sqlite3.connect(file, timeout=_WAIT_S, isolation_level=None, check_same_thread=False)
    try:
        kind, version = (
            connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version")
        )
        if kind != _APPLICATION:
            raise ArtefactError(f"{file} is no ledger but another database: choose another file")
        if version != _VERSION:
            raise ArtefactError(
                f"{file} was written by a newer version of Exeunt: use that version, or another file"
            )
        connection.execute("PRAGMA synchronous = normal")
    except BaseException:
        connection.close()
        raise
    return connection
