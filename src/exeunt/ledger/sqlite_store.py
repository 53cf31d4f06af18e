"""Ledgers in a SQLite file, which threads and processes share."""

from __future__ import annotations

import os
import sqlite3
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, cast, get_args, get_type_hints
from weakref import finalize
from zlib import crc32

from exeunt._support.files import open_regular
from exeunt._support.sqlite import DatabaseKind, discard
from exeunt.errors import FileError, InputError
from exeunt.ledger.books import Account, Hold
from exeunt.ledger.group_commit import GroupCommitStore, Job
from exeunt.ledger.sql_books import (
    CHECKSUM,
    DISPUTED,
    OLD_COLUMNS,
    KnownRows,
    SQLBooks,
    brought_over,
    statements,
)
from exeunt.ledger.store import Clock

if sys.platform != "win32":
    import fcntl

_DURABILITY = ("normal", "full")


class SQLiteStore(GroupCommitStore):
    """Ledgers in a file. Any number of threads and processes of one machine may share it.

    `durability`: "normal" survives the end of any process. "full" also survives a power failure: each dispatch waits
    for the disk, and what was settled in the last moment may count at its maximum. Operations of several threads that
    come together are kept in one transaction. If the file is moved, replaced or full, what was asked has not happened.
    `clock`: of leases and rates; `calendar`: of days, weeks and months.
    """

    # The default clock is the same for all processes of a machine, and setting the time does not change it.
    def __init__(
        self,
        file: str | Path,
        durability: str = "normal",
        clock: Clock | None = None,
        calendar: Clock = time.time_ns,
    ) -> None:
        if durability not in _DURABILITY:
            raise InputError(f"durability is {' or '.join(map(repr, _DURABILITY))}, got {durability!r}")
        self.file, self._durability, self._clock, self._base = Path(file), durability, clock, 0
        self._calendar = calendar
        self._connection = cast("sqlite3.Connection | None", None)
        self._known: KnownRows = {}
        self._gate: IO[bytes] | None = None
        super().__init__(str(file))

    def begin_anew(self) -> None:
        """Have no connection and no thread, as `GroupCommitStore.begin_anew` says."""
        _of_parents.append(self._connection)
        self._connection = None
        if self._gate is not None:
            self._gate.close()
            self._gate = None
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
            with _Turn(self._gate):
                connection.execute("BEGIN IMMEDIATE")
                books = SQLBooks(connection.execute, _STATEMENTS, self.shown, self._known, self._calendar())
                now = time.monotonic_ns() + self._base if self._clock is None else self._clock()
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
            connection, self._place = _KIND.connect(self.file), self.file.stat()
            try:
                self._prepare(connection)
            except BaseException:
                discard(connection)
                raise
            self._connection = connection
        if not os.path.samestat(self._place, os.stat(self.file)):  # noqa: PTH116 - Path.stat takes longer
            raise FileError(f"the ledger {self.file} was moved away and replaced: open it again")
        return self._connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        """Look for damage, and set the clock."""
        if self._gate is None:
            self._gate = open_regular(self.file.with_name(f"{self.file.name}-lock"), "ab")
            finalize(self, self._gate.close)
        _check_pages(connection)
        _check_schema(connection)
        with _Turn(self._gate):
            connection.execute("BEGIN IMMEDIATE")
            latest = SQLBooks(connection.execute, _STATEMENTS, self.shown, self._known).check()
            if self._clock is None:
                self._base = _base_of_time(connection, latest)
            connection.execute("COMMIT")


class _Turn:
    """Waits for other processes in the order in which they came. SQLite lets each try again at random times."""

    def __init__(self, gate: IO[bytes] | None) -> None:
        self._gate = gate

    def __enter__(self) -> None:
        if sys.platform == "win32" or self._gate is None:
            return
        try:
            # The next one holds this lock, so that the last one cannot overtake it.
            fcntl.lockf(self._gate, fcntl.LOCK_EX)
            fcntl.flock(self._gate, fcntl.LOCK_EX)
            fcntl.lockf(self._gate, fcntl.LOCK_UN)
        except OSError:  # a disk without locks
            return

    def __exit__(self, *error: object) -> None:
        if sys.platform == "win32" or self._gate is None:
            return
        try:
            fcntl.flock(self._gate, fcntl.LOCK_UN)
            fcntl.lockf(self._gate, fcntl.LOCK_UN)
        except OSError:
            return


_of_parents: list[sqlite3.Connection | None] = []
_TABLES: dict[str, type[Account] | type[Hold]] = {"account": Account, "hold": Hold}
_STATEMENTS = statements("account", "hold", "?")
_BOOT = Path("/proc/sys/kernel/random/boot_id")


def _base_of_time(connection: sqlite3.Connection, latest: int) -> int:
    """Return what is added to the clock, which begins anew with each boot, so that time in the file goes on.

    It is the same for all connections of a boot. Where the system does not name its boots, one is noticed by a clock
    that is behind the latest time in the file.
    """
    try:
        boot = _BOOT.read_text(encoding="ascii").strip()
    except OSError:
        boot = ""
    row = connection.execute('SELECT "boot", "base", "checksum" FROM clock').fetchone()
    known, base = ("", 0) if row is None else row[:2]
    if row is not None and row != _clock_row(known, base):
        raise sqlite3.DatabaseError("the checksum of its clock is wrong")
    if known != boot:
        base = 0
    if known != boot or not boot:
        base = max(base, latest - time.monotonic_ns())
    if row != (new := _clock_row(boot, base)):
        connection.execute("DELETE FROM clock")
        connection.execute("INSERT INTO clock VALUES (?, ?, ?)", new)
    return int(base)


def _clock_row(boot: str, base: int) -> tuple[str, int, int]:
    return boot, base, crc32(f"{boot}\0{base}".encode())


# -- files -------------------------------------------------------------------------------------------------------------


def _columns(kind: type[Account] | type[Hold]) -> str:
    return ", ".join(f'"{name}"' for name in (*kind._fields, CHECKSUM))


_SCHEMA = f"""
CREATE TABLE account ({_columns(Account)}, PRIMARY KEY (name)) WITHOUT ROWID;
CREATE TABLE hold ({_columns(Hold)}, PRIMARY KEY (ledger, number)) WITHOUT ROWID;
CREATE UNIQUE INDEX keys ON hold (ledger, key) WHERE key IS NOT NULL;
CREATE INDEX unsettled ON hold (state) WHERE state < 3;
CREATE INDEX disputed ON hold (ledger) WHERE {DISPUTED};
CREATE TABLE clock ("boot", "base", "checksum");
"""


def _check_pages(connection: sqlite3.Connection) -> None:
    """Raise sqlite3.DatabaseError if rows are lost, or are not where they are looked for."""
    if (problem := connection.execute("PRAGMA integrity_check(1)").fetchone()[0]) != "ok":
        raise sqlite3.DatabaseError(problem)


def _check_schema(connection: sqlite3.Connection) -> None:
    """Raise sqlite3.DatabaseError if the tables are not those of `_SCHEMA`: a wrong name may be read as a text."""
    there = {sql for (sql,) in connection.execute("SELECT sql FROM sqlite_master")}
    if not there.issuperset(_statements(_SCHEMA)):
        raise sqlite3.DatabaseError("its tables are not those of a ledger")


def _bring_over(connection: sqlite3.Connection, version: int) -> None:
    """Bring a file of the first version, which had neither checksums nor the table `clock`, or of the second here."""
    _check_pages(connection)
    for name in ("keys", "unsettled", "disputed"):
        connection.execute(f"DROP INDEX IF EXISTS {name}")
    clock = connection.execute("SELECT * FROM clock").fetchall() if version > 1 else []
    connection.execute("DROP TABLE IF EXISTS clock")
    for table in _TABLES:
        connection.execute(f"ALTER TABLE {table} RENAME TO old_{table}")
    for statement in _statements(_SCHEMA):
        connection.execute(statement)
    for table, kind in _TABLES.items():
        places = ", ".join("?" * (len(kind._fields) + 1))
        rows = connection.execute(f"SELECT * FROM old_{table}")  # noqa: S608 - constants
        brought = (_brought_over(kind, row, version) for row in rows)
        connection.executemany(f"INSERT INTO {table} VALUES ({places})", brought)  # noqa: S608 - constants
        connection.execute(f"DROP TABLE old_{table}")
    connection.executemany("INSERT INTO clock VALUES (?, ?, ?)", clock)


def _brought_over(kind: type[Account] | type[Hold], row: tuple[Any, ...], version: int) -> tuple[Any, ...]:
    """Return a row of an older version as one of this. Raises sqlite3.DatabaseError for what no ledger has written."""
    hints, names = get_type_hints(kind), OLD_COLUMNS[kind]
    if len(row) != len(names) + (version > 1):
        raise sqlite3.DatabaseError("its tables are not those of a ledger")
    for field, name in zip(row, names, strict=False):
        hint = hints[name]
        if hint in (int, bool):
            fits = isinstance(field, int)
        else:
            fits = isinstance(field, str) or (field is None and type(None) in get_args(hint))
        if not fits:
            raise sqlite3.DatabaseError(f"{name} cannot be {field!r:.40}")
    try:
        return brought_over(kind, row, checked=version > 1)
    except ValueError as error:
        raise sqlite3.DatabaseError(str(error)) from None


def _statements(schema: str) -> list[str]:
    return [statement.strip() for statement in schema.split(";") if statement.strip()]


_KIND = DatabaseKind("ledger", 0x45584C44, 3, _SCHEMA, page_size=1024, upgrade=_bring_over)
