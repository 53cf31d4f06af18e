"""The keys of a gateway's clients and of who administers it, in a SQLite file. It holds digests of them."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

from exeunt._support.checked_types import of_kinds
from exeunt._support.files import file_digest, read_json
from exeunt._support.sqlite import WAIT_S, DatabaseKind, discard
from exeunt.costs.budget_text import exact_quantity
from exeunt.errors import ArtefactError, FileError, InputError
from exeunt.gateway.config import check_limit
from exeunt.gateway.folder import FORMER_KEYS, KEYS
from exeunt.ledger.calendar import UTC

_NAME, _KEY = re.compile(r"[\w.@-]{1,64}"), re.compile(r"ex-[\w-]{43}")
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
_LOOK_S, _SHORT_S, _PAUSE_S = 0.002, 0.03, 1.0
"""Seconds between looks at a file that is locked; most in which an event loop waits for it, which is longer than most
writing takes; and how long it does not wait after that was in vain.
"""


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


class _Clients:
    """All who have keys."""

    def __init__(self, clients: Iterable[Client] = ()) -> None:
        self.by_digest = {client.digest: client for client in clients}
        self.by_name = {client.name: client for client in self.by_digest.values()}


_NOBODY = _Clients()


class NoSuchClient(InputError):  # noqa: N818 - says what happened
    """Nobody of this name has a key."""


class KeyConflict(InputError):  # noqa: N818 - says what happened
    """A key is there already, or must stay."""


class KeysLocked(FileError):  # noqa: N818 - says what happened
    """Another process writes the keys, so that they cannot be read now."""


class Keys:
    """The keys in a gateway's folder, `keys.db`, which is made if there is none. Digests of random keys need no salt.

    Any number of processes and threads look them up, add and remove them, and each sees at once what others did. `of`
    and `clients` hardly wait: while another process writes for long, what was last read counts, with what was
    added and removed here.

    Raises FileError if the file cannot be read or written, ArtefactError if it is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self._file, self._turn = folder / KEYS, threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._opened: tuple[int, int] | None = None
        self._version, self._last = -1, _NOBODY  # of the file that is open
        self._waits_from = 0.0  # by the clock
        self._read(WAIT_S)

    @property
    def clients(self) -> tuple[Client, ...]:
        """All who have keys, by name. Raises KeysLocked if none have been read yet."""
        try:
            return (*self._read_soon().by_name.values(),)
        except KeysLocked:
            if self._last is _NOBODY:
                raise
            return (*self._last.by_name.values(),)

    def of(self, key: bytes) -> Client | None:
        """Return whose key this is. Digests are looked up, so the time tells nothing of keys.

        Raises KeysLocked if the key is unknown while another process writes, which may just have added it.
        """
        digest = hashlib.sha256(key).hexdigest()
        try:
            return self._read_soon().by_digest.get(digest)
        except KeysLocked:
            if (client := self._last.by_digest.get(digest)) is None:
                raise
            return client

    def named(self, name: str, *, wait_s: float = WAIT_S) -> Client | None:
        """Return who has this name; None if nobody has. Raises KeysLocked if another process writes all the time."""
        return self._read(wait_s).by_name.get(name)

    def client(self, name: str) -> Client:
        """Return who has this name. Raises NoSuchClient if nobody has, and as `named` does."""
        return self.named(name) or _missing(name)

    def add(
        self,
        name: str,
        *,
        admin: bool = False,
        shadow: bool | None = None,
        spend: str | None = None,
        is_new: bool = False,
    ) -> str:
        """Make a key and return it; nobody can tell it again. The same name gets another key in place of its own, and
        keeps what is not given. Raises KeyConflict for a name that has a key, if it `is_new`.
        """
        check_name(name)
        check_spend(spend)
        key, digest = _new_key()
        with self._writing() as connection:
            client = next(iter(_clients(connection, "name = ?", name)), Client(name, "", admin))
            if is_new and client.digest:
                raise KeyConflict(f"{name} has a key: rotate that one, or choose another name")
            if client.admin != admin:
                raise InputError(
                    f"{name} has a key of the other kind: choose another name, or remove that one with `exeunt "
                    "gateway forget`"
                )
            client = replace(
                client,
                digest=digest,
                shadow=client.shadow if shadow is None else shadow,
                spend=client.spend if spend is None else spend,
            )
            _put_in_place(connection, client)
        self._changed(name, client)
        return key

    def rotate(self, name: str) -> str:
        """Make another key in place of a client's, which keeps all else, and return it. Raises NoSuchClient."""
        key, digest = _new_key()
        self._replace(name, digest=digest)
        return key

    def change(self, name: str, **changes: Any) -> Client:
        """Change `spend` or `shadow` of a client, whose key stays, and return it. Raises NoSuchClient, and InputError
        for who administers the gateway.
        """
        check_spend(changes.get("spend"))
        if self.client(name).admin:
            raise InputError(f"{name} administers the gateway and asks no models: nothing limits it")
        return self._replace(name, **changes)

    def _replace(self, name: str, **changes: Any) -> Client:
        with self._writing() as connection:
            known = next(iter(_clients(connection, "name = ?", name)), None) or _missing(name)
            client = replace(known, **changes)
            _put_in_place(connection, client)
        self._changed(name, client)
        return client

    def revoke(self, name: str) -> None:
        """Take the key of a client back. Raises NoSuchClient, and KeyConflict for the last key to administer with."""
        with self._writing() as connection:
            clients = {client.name: client for client in _clients(connection)}
            client = clients.pop(name, None) or _missing(name)
            if client.admin and not any(other.admin for other in clients.values()):
                raise KeyConflict(f"{name} has the last key to administer with: make another one first")
            connection.execute("DELETE FROM client WHERE name = ?", (name,))
        self._changed(name)

    def remove(self, name: str) -> bool:
        """Take the key of a client back; return whether it had one."""
        with self._writing() as connection:
            removed = connection.execute("DELETE FROM client WHERE name = ?", (name,)).rowcount > 0
        self._changed(name)
        return removed

    def check(self) -> None:
        """Raise InputError unless there are keys of both kinds."""
        check_clients(self.clients)

    def close(self) -> None:
        """Close the file."""
        with self._turn:
            self._disconnect()

    def _changed(self, name: str, *now: Client) -> None:
        """Update what was last read, since the file may not be readable at once."""
        with self._turn:
            if self._last is not _NOBODY:
                clients = [client for client in self._last.by_digest.values() if client.name != name]
                clients = sorted([*clients, *now], key=lambda client: client.name)
                self._version, self._last = -1, _Clients(clients)

    def _read_soon(self) -> _Clients:
        """Return who has keys. Raises KeysLocked, after a moment at most, if another process writes."""
        waits = time.monotonic() >= self._waits_from
        try:
            return self._read(_SHORT_S if waits else 0.0)
        except KeysLocked:
            if waits:
                self._waits_from = time.monotonic() + _PAUSE_S
            raise

    def _read(self, wait_s: float) -> _Clients:
        """Return who has keys. Raises KeysLocked if another process writes for longer than `wait_s`."""
        end = time.monotonic() + wait_s
        while True:
            try:
                return self._look()
            except KeysLocked:
                if time.monotonic() >= end:
                    raise
            time.sleep(_LOOK_S)  # others may look meanwhile, and are not kept waiting

    def _look(self) -> _Clients:
        with self._turn, self._failures():
            connection = self._connected()
            version = connection.execute("PRAGMA data_version").fetchone()[0]
            if version != self._version:
                self._last = _Clients(_clients(connection))
                self._version = version
            return self._last

    def _connected(self) -> sqlite3.Connection:
        """Return a connection to the file that is there now: it may have been restored from a copy, or removed."""
        if self._connection is None or self._file_identity() != self._opened:
            self._disconnect()
            self._opened = self._ensure_file()
            self._connection = self._connect(wait_s=0.0)
        return self._connection

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """Give a connection for a transaction, of which all is kept or nothing. Nobody who reads waits for it."""
        with self._failures():
            self._ensure_file()
            connection = self._connect(wait_s=WAIT_S)
            try:
                connection.execute("PRAGMA synchronous = FULL")
                connection.execute("PRAGMA secure_delete = ON")
                connection.execute("BEGIN IMMEDIATE")
                yield connection
                connection.execute("COMMIT")
            finally:
                discard(connection)

    @contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            if isinstance(error, sqlite3.OperationalError) and "is locked" in str(error):
                raise KeysLocked(f"another process writes the keys in {self._file}: try again") from error
            raise _KIND.failure(self._file, error) from error

    def _file_identity(self) -> tuple[int, int] | None:
        try:
            status = self._file.stat()
        except FileNotFoundError:
            return None
        return status.st_dev, status.st_ino

    def _ensure_file(self) -> tuple[int, int] | None:
        """Make the file if there is none. Return which one is there now."""
        if (identity := self._file_identity()) is None:
            write_keys(self._file.parent, *_former(self._file.with_name(FORMER_KEYS)))
            identity = self._file_identity()
        return identity

    def _connect(self, *, wait_s: float) -> sqlite3.Connection:
        connection = _KIND.connect(self._file, wait_s=wait_s)
        try:
            _remove_former(self._file.with_name(FORMER_KEYS), connection)
        except BaseException:
            discard(connection)
            raise
        return connection

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        self._version, self._last = -1, _NOBODY


def check_clients(clients: Iterable[Client]) -> None:
    """Raise InputError unless there is a key of a client, and one to administer with."""
    kinds = {client.admin for client in clients}
    missing = []
    if False not in kinds:
        missing.append("clients have no key yet: make one with `exeunt gateway keys FILE --add NAME`")
    if True not in kinds:
        missing.append(
            "who administers the gateway has no key yet: make one with `exeunt gateway keys FILE --add-admin NAME`"
        )
    if missing:
        raise InputError("; ".join(missing))


def write_keys(folder: Path, clients: Iterable[Client], taken_over: str = "") -> None:
    """Make the file of the keys in a folder, with those of `clients`, unless there is one: then it is left as it is.

    `taken_over`: the digest of the file that they were read from.
    """

    def fill(connection: sqlite3.Connection) -> None:
        _put(connection, clients)
        connection.execute("INSERT INTO taken_over VALUES (?)", (taken_over,))

    _KIND.make(folder / KEYS, fill)


def check_name(name: str) -> str:
    """Return a client's name. Raises InputError if it is none, such as a key, which would be shown."""
    if _KEY.fullmatch(name):
        raise InputError("that is a key, not a name: give the name of the client")
    if not _NAME.fullmatch(name):
        raise InputError(f"a client's name has up to 64 letters, digits and .@_-, got {name!r:.80}")
    return name


def check_spend(spend: str | None) -> None:
    """Raise InputError unless this may limit a client; None for no limit of its own."""
    if spend is None:
        return
    check_limit(spend, "spend", time_zone=UTC)
    if exact_quantity(spend)[0] == 0:
        raise InputError(
            "spend must be above 0: whom nothing is allowed gets no key, or loses it by `exeunt gateway forget`"
        )


def _new_key() -> tuple[str, str]:
    """Return a key, and its digest."""
    key = f"ex-{secrets.token_urlsafe(32)}"
    return key, hashlib.sha256(key.encode()).hexdigest()


def _missing(name: str) -> NoReturn:
    raise NoSuchClient(f"nobody has the name {name!r:.80}: GET /admin/keys names who has a key")


def _put_in_place(connection: sqlite3.Connection, client: Client) -> None:
    """Put a client in place of who has its name."""
    connection.execute("DELETE FROM client WHERE name = ?", (client.name,))
    _put(connection, [client])


def _clients(connection: sqlite3.Connection, where: str = "1", *arguments: str) -> list[Client]:
    rows = connection.execute(
        f"SELECT name, digest, admin, shadow, spend FROM client WHERE {where} ORDER BY name",  # noqa: S608
        arguments,
    ).fetchall()
    return [
        Client(name, digest, bool(admin), bool(shadow), spend) for name, digest, admin, shadow, spend in rows
    ]


def _put(connection: sqlite3.Connection, clients: Iterable[Client]) -> None:
    connection.executemany("REPLACE INTO client VALUES (?, ?, ?, ?, ?)", map(astuple, clients))


# -- the file of earlier versions -------------------------------------------------------------------------------


def _former(file: Path) -> tuple[list[Client], str]:
    """Return the keys in `keys.json`, and its digest; none if there is no such file.

    Raises ArtefactError if the file holds no keys.
    """
    remedy = "restore it, or remove it and make all keys anew with --add and --add-admin"
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
    """Return the client of an entry. Raises TypeError or ValueError if the entry is not a client."""
    client = of_kinds(Client(**entry))
    check_name(client.name)
    if not _DIGEST.fullmatch(client.digest):
        raise ValueError(f"the digest of {client.name!r:.80} has not 64 hexadecimal digits")
    if client.spend is not None:
        check_limit(client.spend, "spend", time_zone=UTC)
    return client


def _remove_former(file: Path, connection: sqlite3.Connection) -> None:
    """Remove `keys.json` once its keys are here. It is never read again, else it could bring removed keys back.

    Raises InputError if the file was written since.
    """
    with suppress(FileNotFoundError):  # another process removes it, too
        if file_digest(file) not in [digest for (digest,) in connection.execute("SELECT * FROM taken_over")]:
            raise InputError(
                f"{file} was written after its keys were read into {KEYS}, which counts since then: move it away, and "
                "give keys that are missing anew"
            )
        file.unlink()
