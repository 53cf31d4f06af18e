"""Ledgers in a SQLite file, which threads and processes share."""

from __future__ import annotations

import json
import os
import sqlite3
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from itertools import starmap
from pathlib import Path
from queue import SimpleQueue
from typing import IO, Any, cast
from weakref import WeakSet, finalize

from exeunt._files import check_writable, make_folder, open_regular, temporary_name, why_it_failed
from exeunt.errors import ArtefactError, ExeuntError, FileError, InputError
from exeunt.ledger.books import Account, Books, Hold
from exeunt.ledger.store import Clock, T

_APPLICATION, _VERSION = 0x45584C44, 1  # what SQLite files of this kind have in their header
_DURABILITY = ("normal", "full")
_WAIT_S = 30.0  # for other processes


class _Job:
    """An operation that a thread waits for."""

    __slots__ = ("done", "error", "lasting", "operation", "result")

    def __init__(self, operation: Callable[[Books, int], object], lasting: bool) -> None:
        self.operation, self.lasting, self.result = operation, lasting, cast(object, None)
        self.error: BaseException | None = None
        self.done = threading.Lock()
        self.done.acquire()

    def do(self, books: Books, now: int) -> None:
        """Do it. What the rules refuse changes nothing, so the others in the transaction are not touched."""
        try:
            self.result = self.operation(books, now)
        except ExeuntError as error:
            self.error = error


class SQLiteStore:
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
        self._closed, self._connection = False, cast("sqlite3.Connection | None", None)
        self._gate: IO[bytes] | None = None
        self.begin_anew()
        self.run(lambda *_: None)
        _stores.add(self)

    def begin_anew(self) -> None:
        """Have no connection and no thread, as in a child process, which must not use or close those of its parent."""
        _of_parents.append(self._connection)
        self._connection, self._writer = None, cast("threading.Thread | None", None)
        if self._gate is not None:
            self._gate.close()
        self._writing, self._handing, self._jobs = threading.Lock(), threading.Lock(), SimpleQueue[Any]()

    def run(self, operation: Callable[[Books, int], T], *, lasting: bool = True) -> T:
        """Call `operation`, as `Store.run` says."""
        job = _Job(operation, lasting)
        if self._writer is None and self._writing.acquire(blocking=False):
            try:
                self._keep([job])
            finally:
                self._writing.release()
        else:  # several threads: from now on, a thread writes for all of them
            with self._handing:
                self._check_open()
                if self._writer is None:
                    self._writer = threading.Thread(target=self._write, name="ledger", daemon=True)
                    self._writer.start()
                self._jobs.put(job)
            job.done.acquire()
        if job.error is not None:
            raise job.error
        return cast(T, job.result)

    def close(self) -> None:
        """Close the file."""
        with self._handing:
            self._closed = True
            self._jobs.put(None)
        with self._writing:
            if self._connection is not None:
                self._connection.close()

    def _check_open(self) -> None:
        if self._closed:
            raise InputError(f"the ledger {self.file} is closed: open it again")

    def _write(self) -> None:
        ended = False
        while not ended:
            jobs = [self._jobs.get()]
            while not self._jobs.empty():
                jobs.append(self._jobs.get())
            if ended := jobs[-1] is None:
                jobs.pop()
            with self._writing:
                self._keep(jobs)
            for job in jobs:
                job.done.release()

    def _keep(self, jobs: list[_Job]) -> None:
        """Do these operations in one transaction: all are kept, or none."""
        try:
            connection = self._connected()
            if self._durability == "full":
                last = any(job.lasting for job in jobs)
                connection.execute(f"PRAGMA synchronous = {'full' if last else 'normal'}")
            with _turn(self._gate):
                connection.execute("BEGIN IMMEDIATE")
                books, now = _SQLiteBooks(connection), self._clock()
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


_stores: WeakSet[SQLiteStore] = WeakSet()
_of_parents: list[sqlite3.Connection | None] = []


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lambda: list(map(SQLiteStore.begin_anew, _stores)))


class _SQLiteBooks:
    """Books in one transaction of a SQLite file. Accounts are read once and written by `flush`."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._sql = connection.execute
        self._accounts: dict[str, Account] = {}
        self._changed: set[str] = set()

    def account(self, name: str) -> Account | None:
        if name not in self._accounts:
            row = self._sql("SELECT * FROM account WHERE name = ?", (name,)).fetchone()
            if row is None:
                return None
            self._accounts[name] = Account._make((*row[:-1], tuple(json.loads(row[-1]) if row[-1] else ())))
        return self._accounts[name]

    def put(self, account: Account) -> None:
        self._accounts[account.name] = account
        self._changed.add(account.name)

    def flush(self) -> None:
        """Write the accounts that have changed."""
        for name in self._changed:
            account = self._accounts[name]
            self._sql(_PUT, (*account[:-1], json.dumps(account.stopped) if account.stopped else ""))

    def find(self, ledger: str, key: str) -> Hold | None:
        rows = self._sql("SELECT * FROM hold WHERE ledger = ? AND key = ?", (ledger, key))
        return next(starmap(Hold, rows), None)

    def hold(self, ledger: str, number: int) -> Hold | None:
        rows = self._sql("SELECT * FROM hold WHERE ledger = ? AND number = ?", (ledger, number))
        return next(starmap(Hold, rows), None)

    def write(self, before: Hold | None, after: Hold | None) -> None:
        if before is None:
            self._sql(_ADD, cast(Hold, after))
        elif after is None:
            self._sql("DELETE FROM hold WHERE ledger = ? AND number = ?", (before.ledger, before.number))
        else:
            self._sql(
                _CHANGE, (after.promised, after.time, after.state, after.cost, after.ledger, after.number)
            )

    def unsettled(self, last: int) -> Iterable[Hold]:
        # The index holds the states below SETTLED.
        return starmap(Hold, self._sql("SELECT * FROM hold WHERE state < 3 AND state <= ?", (last,)))


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
_PUT = f"INSERT OR REPLACE INTO account VALUES ({', '.join('?' * len(Account._fields))})"  # noqa: S608
_ADD = f"INSERT INTO hold VALUES ({', '.join('?' * len(Hold._fields))})"  # noqa: S608
_CHANGE = "UPDATE hold SET promised = ?, time = ?, state = ?, cost = ? WHERE ledger = ? AND number = ?"


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
