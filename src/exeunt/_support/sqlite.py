"""SQLite files of one kind: made whole, readable by their owner alone, and recognised by what their header says."""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

from exeunt._support.files import check_writable, make_folder, temporary_name, why_it_failed
from exeunt.errors import ArtefactError, ExeuntError, FileError

WAIT_S = 30.0
"""Seconds to wait for other processes."""


@dataclass(frozen=True)
class DatabaseKind:
    """What files of a kind have in common.

    `name`: what messages call one, such as "ledger". `application`, `version`: numbers in the header. `schema`: the
    statements that make the tables. `journal`: the mode of SQLite; with "WAL" readers do not wait for writers, with
    "DELETE" the file alone holds everything. `upgrade`: brings a file of an older version, which it is
    given, to this one, in a transaction.
    """

    name: str
    application: int
    version: int
    schema: str
    page_size: int = 4096
    journal: str = "WAL"
    upgrade: Callable[[sqlite3.Connection, int], None] | None = None

    def make(self, file: Path, fill: Callable[[sqlite3.Connection], None] = lambda _: None) -> None:
        """Make a file with what `fill` puts into it, unless another process is faster. It is never there half made."""
        check_writable(make_folder(file.parent), f"cannot make the {self.name} {file}")
        new = temporary_name(file, "tmp")
        try:
            new.touch(mode=0o600)
            with closing(sqlite3.connect(new)) as connection:
                connection.executescript(
                    f"PRAGMA page_size = {self.page_size}; PRAGMA journal_mode = {self.journal};"
                    f"PRAGMA application_id = {self.application}; PRAGMA user_version = {self.version}; {self.schema}"
                )
                with connection:
                    fill(connection)
            with suppress(FileExistsError):
                os.link(new, file)
        finally:
            new.unlink(missing_ok=True)

    def connect(self, file: Path, *, wait_s: float | None = None) -> sqlite3.Connection:
        """Connect to a file. What is in its place otherwise is an error. `wait_s`: for other processes, each time."""
        # Not opened to look: closing it would free the locks of other connections of this process.
        status = file.stat()
        if not stat.S_ISREG(status.st_mode) or not status.st_size:
            problem = "is empty" if stat.S_ISREG(status.st_mode) else "is not a file"
            raise ArtefactError(
                f"{file} {problem}, so it is no {self.name}: choose another file, or remove it to begin anew"
            )
        connection = sqlite3.connect(
            file, timeout=WAIT_S if wait_s is None else wait_s, isolation_level=None, check_same_thread=False
        )
        try:
            if connection.execute("PRAGMA application_id").fetchone()[0] != self.application:
                raise ArtefactError(f"{file} is no {self.name} but another database: choose another file")
            if self.upgrade is not None and 0 < _version(connection) < self.version:
                self._upgrade(connection, self.upgrade)
            if (version := _version(connection)) > self.version:
                raise ArtefactError(
                    f"{file} was written by a newer version of Exeunt: use that version, or another file"
                )
            if version < self.version:
                raise sqlite3.DatabaseError(f"there is no version {version}")
            connection.execute("PRAGMA synchronous = normal")
        except BaseException:
            discard(connection)
            raise
        return connection

    def _upgrade(
        self, connection: sqlite3.Connection, upgrade: Callable[[sqlite3.Connection, int], None]
    ) -> None:
        connection.execute("BEGIN IMMEDIATE")
        if 0 < (version := _version(connection)) < self.version:  # else another process was faster
            upgrade(connection, version)
            connection.execute(f"PRAGMA user_version = {self.version}")
        connection.execute("COMMIT")

    def failure(self, file: Path, error: BaseException) -> BaseException:
        """Return the error for what was asked when the file failed."""
        why = " ".join(str(error).split())[:200]
        if isinstance(error, sqlite3.OperationalError) and not why.startswith("Could not decode"):
            return FileError(f"the {self.name} {file} cannot be read or written ({why}): nothing was changed")
        if isinstance(error, (sqlite3.Error, UnicodeDecodeError)):  # of a message that quotes what is damaged
            return ArtefactError(
                f"{file} is no {self.name}, or is damaged ({why}): restore it, or choose another file"
            )
        if isinstance(error, OSError) and not isinstance(error, ExeuntError):
            return FileError(f"the {self.name} {file} cannot be used: {why_it_failed(error)}")
        return error


def discard(connection: sqlite3.Connection) -> None:
    """Close a connection and undo its transaction, which cursors in the traceback of an error may keep open."""
    with suppress(sqlite3.Error):
        connection.rollback()
    connection.close()


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])
