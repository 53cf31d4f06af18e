"""Ledgers in a PostgreSQL database, which several machines share (extra `exeunt[postgres]`).

The statements are those of the SQLite store (`sql_books`), and go through psycopg.
"""

from __future__ import annotations

import ipaddress
import os
import time
from collections.abc import Mapping
from typing import Any, get_args, get_type_hints
from urllib.parse import quote
from uuid import uuid4
from weakref import finalize

from exeunt.errors import ArtefactError, FileError, InputError, require
from exeunt.ledger.books import Account, Hold
from exeunt.ledger.group_commit import GroupCommitStore, Job
from exeunt.ledger.sql_books import (
    CHECKSUM,
    DISPUTED,
    OLD_COLUMNS,
    KnownRows,
    SQLBooks,
    brought_over,
    damaged,
    statements,
)
from exeunt.ledger.store import Clock

_SCHEMES = ("postgresql", "postgres", "postgresql+psycopg")
_ACCOUNT, _HOLD, _CLIENT = "exeunt_account", "exeunt_hold", "exeunt_client"
_COMMENT, _VERSION, _BEFORE = "Exeunt ledgers, version ", "3", ("1", "2")
_STATEMENTS = statements(_ACCOUNT, _HOLD, "%s")
_LOCK = 0x45584C44
_WAIT_S, _OPENING_S = 30.0, 5.0
# A client that stops in a transaction, or whose machine is gone, must not hold up the others.
_IDLE_S = 10
# What is looked up after a lost connection is kept for longer than a client may wait for another one.
_KEPT_DAYS, _MOST_S = 2, 86_400
# Keepalives tell that a machine is gone while nothing is under way, the user timeout (in ms) while something is.
_OPTIONS = {
    "connect_timeout": 5,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 11_000,
}
# The server ends a connection, takes none now, or lets transactions fail that may succeed if they are tried again.
_LOST = {"08000", "08003", "08006", "57P01", "57P02", "57P03", "57P05", "25P03", "53300", "40001", "40P01"}
_BUSY, _NO_RIGHTS, _READ_ONLY = "55P03", "42501", "25006"

# The order is that of the CASE: first the lock of these tables, which all transactions take, then the time.
_TAKE_TURN = f"pg_advisory_xact_lock({_LOCK}, '{_ACCOUNT}'::regclass::oid::int)"
_BEGIN = f"""
SELECT CASE WHEN {_TAKE_TURN} IS NULL THEN 0
ELSE (extract(epoch FROM clock_timestamp()) * 1000000)::bigint * 1000 END
"""  # noqa: S608 - constants
_NOTE = (
    f"INSERT INTO {_CLIENT} VALUES (%s, %s, now()) "  # noqa: S608 - constants
    "ON CONFLICT (id) DO UPDATE SET latest = excluded.latest, time = excluded.time"
)
_DISPUTED = f"CREATE INDEX {_HOLD}_disputed ON {_HOLD} (ledger) WHERE {DISPUTED}"


class PostgreSQLStore(GroupCommitStore):
    """Ledgers in the tables `exeunt_...` of a database, made if they are missing. Any number of machines may share it.

    `address`: such as "postgresql://user@host:5432/database"; options of libpq may follow after "?", and its
    environment variables and password file are read. `wait_s`: for how many seconds, from 0 to 86,400, a lost
    connection is opened again before an error; the first one for at most 5. `clock`: of leases and rates,
    `calendar`: of days, weeks and months; by default the server's.

    One lock lets one transaction after the other change the ledgers. What was asked is kept once, also where the
    connection is lost while it is: each transaction leaves its number, which is looked up before it is tried again.

    Raises MissingExtra, InputError for an address that cannot be read or another `wait_s`, FileError if the database
    cannot be reached or lacks rights, ArtefactError if its tables are not those of this version.
    """

    def __init__(
        self,
        address: str,
        *,
        wait_s: float = _WAIT_S,
        clock: Clock | None = None,
        calendar: Clock | None = None,
    ) -> None:
        if not 0 <= wait_s <= _MOST_S:
            raise InputError(f"wait_s is a number of seconds from 0 to {_MOST_S:,}, got {wait_s}")
        self._driver: Any = require("psycopg", extra="postgres")
        self._address = _read_address(self._driver, address)
        self._wait_s, self._clock, self._calendar = wait_s, clock, calendar
        self._connection: Any = None
        self._known: KnownRows = {}
        self._opened = self._away = False
        super().__init__(_shown(self._address))

    def begin_anew(self) -> None:
        """Have no connection and no thread, as `GroupCommitStore.begin_anew` says."""
        _of_parents.append(self._connection)
        self._connection, self._client, self._number = None, uuid4().hex, 0
        super().begin_anew()

    def _keep(self, jobs: list[Job]) -> None:
        """Do these operations in one transaction; see `GroupCommitStore`. A lost connection is opened again."""
        self._number += 1
        patience = self._wait_s if self._opened else min(self._wait_s, _OPENING_S)
        # Once a call has waited in vain, others fail at their first try, until the server is there again.
        end, pause, unknown = time.monotonic() + (0.0 if self._away else patience), 0.05, False
        while True:
            try:
                self._check_open()
                connection = self._connected()
                now = connection.execute(_BEGIN).fetchone()[0]
                if self._away:
                    self._away, end = False, time.monotonic() + patience
                if unknown and self._is_kept(connection):
                    connection.commit()
                    return
                unknown = False  # the lock is here, so the transaction that was lost has ended
                wall = now if self._calendar is None else self._calendar()
                books = SQLBooks(connection.execute, _STATEMENTS, self.shown, self._known, wall)
                for job in jobs:
                    job.do(books, now if self._clock is None else self._clock())
                books.flush()
                if books.changed:
                    connection.execute(_NOTE, (self._client, self._number))
                unknown = books.changed
                connection.commit()
                return
            except BaseException as error:
                self._disconnect()
                if not self._is_lost(error) or time.monotonic() > end:
                    self._away, failure = self._is_lost(error), self._failure(error, unknown)
                    for job in jobs:
                        job.error = failure
                    return
            time.sleep(pause)
            pause = min(2 * pause, 1.0)

    def _is_kept(self, connection: Any) -> bool:
        """Return whether the latest transaction was kept, though the connection was lost before it was told so."""
        latest = f"SELECT latest FROM {_CLIENT} WHERE id = %s"  # noqa: S608 - constants
        row = connection.execute(latest, (self._client,)).fetchone()
        return row is not None and int(row[0]) == self._number

    # -- the connection ------------------------------------------------------------------------------------------------

    def _connected(self) -> Any:
        """Return the connection, opened if there is none."""
        if self._connection is None:
            connection = self._driver.connect(**_OPTIONS | self._address, client_encoding="utf8")
            try:
                # Each statement must see what was committed before it got the lock.
                connection.isolation_level = self._driver.IsolationLevel.READ_COMMITTED
                self._prepare(connection)
            except BaseException:
                connection.close()
                raise
            self._connection, self._opened = connection, True
            self._closing = finalize(self, _close, connection, os.getpid())
        return self._connection

    def _prepare(self, connection: Any) -> None:
        """Set what the connection needs, make the tables unless they are there, and look for damage."""

        def setting(statement: str) -> Any:
            return connection.execute(statement).fetchone()[0]

        if (encoding := setting("SHOW server_encoding")) != "UTF8":
            raise InputError(
                f"{self.shown} has the encoding {encoding}, and ledgers need UTF8: name another database"
            )
        connection.execute(f"SET idle_in_transaction_session_timeout = '{_IDLE_S}s'")
        connection.execute(f"SET lock_timeout = {max(1, int(self._wait_s * 1000))}")
        if setting("SHOW synchronous_commit") == "off":  # a kill of the server would undo what was returned
            connection.execute("SET synchronous_commit = on")
        connection.commit()
        connection.execute(f"SELECT pg_advisory_xact_lock({_LOCK}, 0)")
        if setting(f"SELECT to_regclass('{_ACCOUNT}')") is None:
            connection.execute(_TABLES)
        comment = setting(f"SELECT obj_description('{_ACCOUNT}'::regclass, 'pg_class')") or ""
        if not comment.startswith(_COMMENT):
            raise ArtefactError(
                f"the table {_ACCOUNT} of {self.shown} is none of Exeunt's: name another database"
            )
        if (version := comment.removeprefix(_COMMENT)) in _BEFORE:
            self._bring_over(connection, has_checksums=version != _BEFORE[0])
        elif comment != _COMMENT + _VERSION:
            raise ArtefactError(
                f"the ledgers in {self.shown} were written by a newer version of Exeunt: use that version, or another "
                "database"
            )
        connection.execute(f"DELETE FROM {_CLIENT} WHERE time < now() - interval '{_KEPT_DAYS} days'")  # noqa: S608 - constants
        connection.commit()
        # What others keep meanwhile is not seen.
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        SQLBooks(connection.execute, _STATEMENTS, self.shown, self._known).check()
        connection.commit()

    def _bring_over(self, connection: Any, *, has_checksums: bool) -> None:
        """Bring tables of the first version, which had no checksums, or of the second to this one.

        Clients of an older version that are connected get an error from then on.
        """
        connection.execute(f"SELECT {_TAKE_TURN}")
        tables: dict[type[Account] | type[Hold], tuple[str, tuple[str, ...]]] = {
            Account: (_ACCOUNT, ("name",)),
            Hold: (_HOLD, ("ledger", "number")),
        }
        new = {
            kind: [column for column in (*kind._fields, CHECKSUM) if column not in OLD_COLUMNS[kind]]
            for kind in tables
        }
        old = {kind: (*OLD_COLUMNS[kind], CHECKSUM) for kind in tables}
        try:
            for kind, (table, _) in tables.items():
                for name in new[kind][: -1 if has_checksums else None]:
                    column = _columns_of(kind)[name].removesuffix(" NOT NULL")
                    connection.execute(f'ALTER TABLE {table} ADD COLUMN "{name}" {column}')
        except self._driver.errors.InsufficientPrivilege as error:
            raise FileError(
                f"the ledgers in {self.shown} are of an older version of Exeunt ({self._reason(error)}): let the owner "
                "of the tables open one of them once"
            ) from None
        for kind, (table, key) in tables.items():
            names = ", ".join(f'"{name}"' for name in old[kind])
            this = " AND ".join(f"{name} = %s" for name in key)
            values = ", ".join(f'"{name}" = %s' for name in new[kind])
            rows = connection.execute(f"SELECT {names} FROM {table}").fetchall()  # noqa: S608 - constants
            try:
                brought = [brought_over(kind, row, checked=has_checksums) for row in rows]
            except ValueError as error:
                raise damaged(self.shown, str(error)) from None
            with connection.cursor() as cursor:
                cursor.executemany(
                    f"UPDATE {table} SET {values} WHERE {this}",  # noqa: S608 - constants
                    [(*row[-len(new[kind]) :], *row[: len(key)]) for row in brought],
                )
            for name in new[kind]:
                connection.execute(f'ALTER TABLE {table} ALTER COLUMN "{name}" SET NOT NULL')
        if not has_checksums:
            connection.execute(_DISPUTED)
        connection.execute(f"COMMENT ON TABLE {_ACCOUNT} IS '{_COMMENT}{_VERSION}'")

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._closing()
            self._connection = None

    # -- errors --------------------------------------------------------------------------------------------------------

    def _is_lost(self, error: BaseException) -> bool:
        if not isinstance(error, self._driver.Error) or error.sqlstate is not None:
            return getattr(error, "sqlstate", None) in _LOST
        return isinstance(error, self._driver.OperationalError)

    def _failure(self, error: BaseException, unknown: bool) -> BaseException:
        """Return the error for what was asked. `unknown`: the connection was lost while it was being kept."""
        if not isinstance(error, self._driver.Error):
            return error
        why, changed = self._reason(error), "nothing was changed"
        if unknown:
            changed = "what was asked was kept or was not; send nothing, it counts at its maximum if it was"
        if self._is_lost(error):
            if not self._opened:
                return FileError(
                    f"the ledger {self.shown} cannot be opened ({why}): start the server, or correct the address"
                )
            return FileError(
                f"the ledger {self.shown} could not be reached for {self._wait_s:g} s ({why}): {changed}"
            )
        if error.sqlstate == _BUSY:
            return FileError(
                f"the ledger {self.shown} was held by other clients for {self._wait_s:g} s: {changed}"
            )
        if error.sqlstate in (_NO_RIGHTS, _READ_ONLY):
            return FileError(
                f"the user may not write to the ledger {self.shown} ({why}): grant CREATE on the schema once, and "
                f"SELECT, INSERT, UPDATE and DELETE on its tables {_ACCOUNT}, {_HOLD} and {_CLIENT}"
            )
        return FileError(f"the ledger {self.shown} cannot be read or written ({why}): {changed}")

    def _reason(self, error: BaseException) -> str:
        """Return what the server or the driver says, in a line and without the password."""
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        why = lines[0] if lines else type(error).__name__
        secrets = [self._address[name] for name in ("password", "sslpassword") if self._address.get(name)]
        return "for a reason that names the password" if any(secret in why for secret in secrets) else why


_of_parents: list[Any] = []


def _close(connection: Any, process: int) -> None:
    if os.getpid() == process:
        connection.close()


def _read_address(driver: Any, address: str) -> dict[str, str]:
    """Return the options of libpq that an address gives.

    Raises InputError, which says nothing of what may be a password, also for options that are not libpq's: psycopg's
    `autocommit` would end the lock with each statement.
    """
    scheme, _, rest = address.partition("://")
    if scheme not in _SCHEMES:
        raise InputError(
            f"a ledger is kept in a file, or at an address postgresql://user@host/database, got {scheme!r:.40}://"
        )
    names = [option.partition("=")[0] for option in rest.partition("?")[2].split("&")]
    try:
        options: dict[str, str] = driver.conninfo.conninfo_to_dict(f"postgresql://{rest}")
        hosts, ports = (options.get(name, "").split(",") for name in ("host", "port"))
        for host in hosts:
            if ":" in host:
                ipaddress.IPv6Address(host)  # any other ends at its port
        if "@" in options.get("host", "") or not options.get("dbname") or len({*names}) < len(names):
            raise ValueError
        if not all(port.isdigit() for port in ports if port):
            raise ValueError
    except (driver.ProgrammingError, ValueError):
        raise InputError(
            "the address of the ledger cannot be read: write postgresql://user:password@host:port/database, special "
            "characters of the password as in %40 for @, and after ? nothing but options of libpq, each once"
        ) from None
    return options


def _shown(options: Mapping[str, str]) -> str:
    """Return an address without password and options."""
    user = f"{quote(options['user'], safe='')}@" if options.get("user") else ""
    port = f":{options['port']}" if options.get("port") else ""
    host = options.get("host", "")
    return f"postgresql://{user}{'' if host.startswith('/') else host}{port}/{options['dbname']}"


def _columns_of(record: type[Account] | type[Hold]) -> dict[str, str]:
    """Return the columns of a table of these records, each with its kind in SQL."""
    kinds = {int: "bigint", bool: "boolean"}
    columns = {
        name: f"{kinds.get(kind, 'text')}{'' if type(None) in get_args(kind) else ' NOT NULL'}"
        for name, kind in get_type_hints(record).items()
    }
    return {**columns, CHECKSUM: "bigint NOT NULL"}


def _columns(record: type[Account] | type[Hold]) -> str:
    return ", ".join(f'"{name}" {kind}' for name, kind in _columns_of(record).items())


_TABLES = f"""
CREATE TABLE {_ACCOUNT} ({_columns(Account)}, PRIMARY KEY ("name"));
CREATE TABLE {_HOLD} ({_columns(Hold)}, PRIMARY KEY ("ledger", "number"));
CREATE UNIQUE INDEX {_HOLD}_keys ON {_HOLD} ("ledger", "key") WHERE "key" IS NOT NULL;
CREATE INDEX {_HOLD}_unsettled ON {_HOLD} ("state") WHERE "state" < 3;
{_DISPUTED};
CREATE TABLE {_CLIENT} (id text PRIMARY KEY, latest bigint NOT NULL, time timestamptz NOT NULL);
COMMENT ON TABLE {_ACCOUNT} IS '{_COMMENT}{_VERSION}';
"""
