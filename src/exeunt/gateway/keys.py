"""The keys of a gateway's clients and of who administers it, in a SQLite file. It holds digests of them."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import sqlite3
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Any

from exeunt._files import file_digest, read_json
from exeunt._kinds import of_kinds
from exeunt._sqlite import DatabaseKind
from exeunt.errors import ArtefactError, InputError
from exeunt.gateway.config import check_limit
from exeunt.gateway.folder import FORMER_KEYS, KEYS

_NAME = re.compile(r"[\w.@-]{1,64}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_SCHEMA = """
CREATE TABLE client (
    name TEXT NOT NULL, digest TEXT PRIMARY KEY NOT NULL, admin INTEGER NOT NULL CHECK (admin IN (0, 1)),
    shadow INTEGER NOT NULL CHECK (shadow IN (0, 1)), spend TEXT
) WITHOUT ROWID;
CREATE INDEX client_name ON client (name);
CREATE TABLE taken_over (sha256 TEXT);
"""
# One file, which can be copied and restored, and in which nothing is left of a removed client.
_KIND = DatabaseKind("file of a gateway's keys", 0x4558474B, 1, _SCHEMA, journal="DELETE")


@dataclass(frozen=True)
class Client:
    """Who has a key. `admin`: administers the gateway, and asks no models. `shadow`: whether requests may be sent to
    other models for comparison. `spend`: what the requests may cost, in place of the file's limit for each key.
    """

    name: str
    digest: str
    admin: bool = False
    shadow: bool = True
    spend: str | None = None


class Keys:
    """The keys in a gateway's folder, `keys.db`, which is made if there is none. Digests of random keys need no salt.

    Any number of processes and threads look them up, add and remove them, and each sees at once what others did.

    Raises FileError if the file cannot be read or written, ArtefactError if it is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self._file, self._turn = folder / KEYS, threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._opened: tuple[int, int] | None = None
        _ = self.clients

    @property
    def clients(self) -> tuple[Client, ...]:
        """All who have keys, by name."""
        return self._found("1")

    def of(self, key: bytes) -> Client | None:
        """Return whose key this is. Digests are looked up, so the time tells nothing of keys."""
        return next(iter(self._found("digest = ?", hashlib.sha256(key).hexdigest())), None)

    def named(self, name: str) -> Client | None:
        """Return who has this name; None if nobody has."""
        return next(iter(self._found("name = ?", name)), None)

    def add(
        self, name: str, *, admin: bool = False, shadow: bool | None = None, spend: str | None = None
    ) -> str:
        """Make a key and return it; nobody can tell it again. The same name gets another key in place of its own, and
        keeps what is not given.
        """
        _check_name(name)
        if spend is not None:
            check_limit(spend, "spend")
        key = f"ex-{secrets.token_urlsafe(32)}"
        given: dict[str, Any] = {
            "digest": hashlib.sha256(key.encode()).hexdigest(),
            "shadow": shadow,
            "spend": spend,
        }
        with self._writing() as connection:
            known = next(iter(_clients(connection, "name = ?", name)), Client(name, "", admin))
            if known.admin != admin:
                raise InputError(
                    f"{name} has a key of the other kind: choose another name, or remove that one with --forget"
                )
            connection.execute("DELETE FROM client WHERE name = ?", (name,))
            chosen = {option: value for option, value in given.items() if value is not None}
            _put(connection, [replace(known, **chosen)])
        return key

    def remove(self, name: str) -> bool:
        """Take the key of a client back; return whether it had one."""
        with self._writing() as connection:
            return connection.execute("DELETE FROM client WHERE name = ?", (name,)).rowcount > 0

    def check(self) -> None:
        """Raise InputError unless there is a key of a client, and one to administer with."""
        kinds = {"clients have": "--add-client NAME", "who administers the gateway has": "--add-admin NAME"}
        there = [client.admin for client in self.clients]
        if missing := [
            f"{whom} no key yet: make one with `exeunt gateway FILE {option}`"
            for admin, (whom, option) in enumerate(kinds.items())
            if admin not in there
        ]:
            raise InputError("; ".join(missing))

    def close(self) -> None:
        """Close the file."""
        with self._turn:
            self._disconnect()

    def _found(self, where: str, *given: str) -> tuple[Client, ...]:
        with self._connected() as connection:
            return _clients(connection, where, *given)

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """Give the connection for a transaction, of which all is kept or nothing."""
        with self._connected() as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise

    @contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        """Give a connection to the file that is there now: it may have been restored from a copy, or removed."""
        with self._turn:
            try:
                known = self._connection if self._there() == self._opened else None
                yield known or self._connect()
            except (sqlite3.Error, OSError) as error:
                raise _KIND.failure(self._file, error) from error

    def _there(self) -> tuple[int, int] | None:
        try:
            found = self._file.stat()
        except FileNotFoundError:
            return None
        return found.st_dev, found.st_ino

    def _connect(self) -> sqlite3.Connection:
        self._disconnect()
        former = self._file.with_name(FORMER_KEYS)
        if (there := self._there()) is None:
            write_keys(self._file.parent, *_former(former))
            there = self._there()
        self._connection = connection = _KIND.connect(self._file)
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA secure_delete = ON")
        _remove_former(former, connection)
        self._opened = there
        return connection

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def write_keys(folder: Path, clients: Iterable[Client], taken_over: str = "") -> None:
    """Make the file of the keys in a folder, with those of `clients`, unless there is one: then it is left as it is.

    `taken_over`: the digest of the file that they were read from.
    """

    def fill(connection: sqlite3.Connection) -> None:
        _put(connection, clients)
        connection.execute("INSERT INTO taken_over VALUES (?)", (taken_over,))

    _KIND.make(folder / KEYS, fill)


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise InputError(f"a client's name has up to 64 letters, digits and .@_-, got {name!r:.80}")


def _clients(connection: sqlite3.Connection, where: str, *given: str) -> tuple[Client, ...]:
    rows = connection.execute(
        f"SELECT name, digest, admin, shadow, spend FROM client WHERE {where} ORDER BY name",  # noqa: S608
        given,
    ).fetchall()
    return tuple(
        Client(name, digest, bool(admin), bool(shadow), spend) for name, digest, admin, shadow, spend in rows
    )


def _put(connection: sqlite3.Connection, clients: Iterable[Client]) -> None:
    connection.executemany("REPLACE INTO client VALUES (?, ?, ?, ?, ?)", map(astuple, clients))


# -- the file of earlier versions -------------------------------------------------------------------------------


def _former(file: Path) -> tuple[list[Client], str]:
    """Return the keys in `keys.json`, and its digest; none if there is no such file.

    Raises ArtefactError for what holds no keys.
    """
    remedy = "restore it, or remove it and make all keys anew with --add-client and --add-admin"
    try:
        digest, entries = file_digest(file), read_json(file, remedy=remedy)
    except (FileNotFoundError, InputError):
        if os.path.lexists(file):
            raise
        return [], ""  # or another process has taken it over meanwhile
    try:
        return [_client(**entry) for entry in entries], digest
    except (TypeError, ValueError) as error:
        raise ArtefactError(f"{file} holds no keys of a gateway ({error}): {remedy}") from None


def _client(**entry: Any) -> Client:
    """Return a client of an entry. Raises TypeError or ValueError for what is none."""
    client = of_kinds(Client(**entry))
    _check_name(client.name)
    if not _DIGEST.fullmatch(client.digest):
        raise ValueError(f"the digest of {client.name!r:.80} has not 64 hexadecimal digits")
    if client.spend is not None:
        check_limit(client.spend, "spend")
    return client


def _remove_former(file: Path, connection: sqlite3.Connection) -> None:
    """Remove `keys.json` once its keys are here. It is never read again, else it could bring removed keys back.

    Raises InputError for one that was written since.
    """
    with suppress(FileNotFoundError):  # another process removes it, too
        if file_digest(file) not in [digest for (digest,) in connection.execute("SELECT * FROM taken_over")]:
            raise InputError(
                f"{file} was written after its keys were read into {KEYS}, which counts since then: move it away, and "
                "give keys that are missing anew"
            )
        file.unlink()
