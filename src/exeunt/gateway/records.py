"""What a gateway keeps of requests, in a SQLite file: costs, scores and grades, and HMACs in place of contents."""

from __future__ import annotations

import json
import sqlite3
import threading
from array import array
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple, cast

from exeunt._sqlite import DatabaseKind
from exeunt.errors import FileError, InputError
from exeunt.gateway.folder import RECORDS
from exeunt.gateway.keys import Keys
from exeunt.gateway.saved_policies import forget_policies

KINDS = ("shadow", "live", "audit")


@dataclass(frozen=True)
class Said:
    """What one model did for one request.

    `cost`: in US dollars, of all attempts. `score`: the model's confidence; None without one. `grade`: of its answer,
    in [0, 1]; None if it is not graded. `failed`: why it gave no answer.
    """

    cost: float
    score: float | None = None
    grade: float | None = None
    failed: str = ""


@dataclass(frozen=True)
class Record:
    """What is kept of one request.

    `time`: in seconds since 1970. `kind`: "shadow"; "live"; or "audit", a live request that the reference answered,
    too. `client`: the name of its key. `request`, `conversation`, `user`: HMACs in hexadecimal digits; `user` is ""
    where the client names none. `said`: by model. `features`: kept with 32 bits each. `policy`: the name of the one
    that answered; "" in shadow. `answered`: the model whose answer was given. `text`: JSON of request and answers, only
    where the deployment keeps texts. `cost`: US dollars of what was asked for the answer. `escalated`: why further or
    other models were asked, one of `exeunt.gateway.answering.REASONS`; "" if none was. `identity`, `grader`: of the
    models, and what graded, when it was made (see `GatewayModels`).
    """

    time: float
    kind: str
    client: str
    request: str
    conversation: str
    user: str
    said: Mapping[str, Said]
    features: tuple[float, ...] | None = None
    policy: str = ""
    answered: str = ""
    text: str | None = None
    cost: float = 0.0
    escalated: str = ""
    identity: Mapping[str, str] = field(default_factory=dict)
    grader: str = ""


_NAMES = tuple(one.name for one in fields(Record))
_COLUMNS = ", ".join(f'"{name}"' for name in _NAMES)
_SCHEMA = f"""
CREATE TABLE record ({_COLUMNS});
CREATE INDEX record_time ON record (time);
CREATE INDEX record_client ON record (client);
CREATE INDEX record_kind ON record (kind);
"""
_KIND = DatabaseKind("file of a gateway's records", 0x45584757, 1, _SCHEMA)


class Records:
    """The records in a gateway's folder, made if there are none.

    Any number of threads of a process add to them, while other processes read. Of removed records nothing is left in
    the file.

    Raises FileError if the file cannot be read or written, ArtefactError if another file is in its place.
    """

    def __init__(self, folder: Path) -> None:
        self.file = folder / RECORDS
        self._turn = threading.Lock()
        self._connection = cast("sqlite3.Connection | None", None)
        with self._told():
            if not self.file.exists():
                _KIND.make(self.file)
            self._connection = _KIND.connect(self.file)

    def add(self, record: Record) -> None:
        """Add a record. Raises InputError for another kind than there is."""
        if record.kind not in KINDS:
            raise InputError(f"a record is of kind {', '.join(KINDS)}, got {record.kind!r}")
        with self._writing() as connection:
            connection.execute(
                f"INSERT INTO record VALUES ({', '.join('?' * len(_NAMES))})",  # noqa: S608
                _stored(record),
            )

    def read(self, *, kinds: Sequence[str] = (), since: float = 0.0) -> list[Record]:
        """Return the records of these kinds, by default of all, from a time on, in the order of their times."""
        wanted = kinds or KINDS
        with self._told(), closing(_KIND.connect(self.file)) as connection:  # adding goes on meanwhile
            rows = connection.execute(
                f"SELECT {_COLUMNS} FROM record WHERE time >= ? AND kind IN ({', '.join('?' * len(wanted))}) "  # noqa: S608
                "ORDER BY time, rowid",
                (since, *wanted),
            )
            return [_restored(row) for row in rows]

    def forget(self, client: str) -> int:
        """Remove all records of a client, and return how many there were."""
        return self._remove("client = ?", client)

    def expire(self, before: float) -> int:
        """Remove the records of before a time, and return how many there were."""
        return self._remove("time < ?", before)

    def counts(self) -> Mapping[str, int]:
        """Return the number of records by kind."""
        with self._told(), closing(_KIND.connect(self.file)) as connection:
            found = dict(connection.execute("SELECT kind, COUNT(*) FROM record GROUP BY kind"))
        return {kind: found.get(kind, 0) for kind in KINDS}

    def clients(self) -> set[str]:
        """Return the clients of whom there are records."""
        with self._told(), closing(_KIND.connect(self.file)) as connection:
            return {name for (name,) in connection.execute("SELECT DISTINCT client FROM record")}

    def close(self) -> None:
        """Close the file. Nothing can be added any more."""
        with self._turn:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def _remove(self, where: str, value: Any) -> int:
        with self._writing() as connection:
            connection.execute("PRAGMA secure_delete = ON")
            removed = connection.execute(f"DELETE FROM record WHERE {where}", (value,)).rowcount  # noqa: S608
            # What was written lately is in the write-ahead log, too.
            (busy, _, _) = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if busy:
            raise FileError(
                f"{removed} records were removed, but {self.file}-wal may still hold some of them, because another "
                "process has been reading for long: repeat this when it is done"
            )
        return removed

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._told(), self._turn:
            if self._connection is None:
                raise InputError(f"{self.file} is closed: open it again")
            yield self._connection

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise _KIND.failure(self.file, error) from error


def _stored(record: Record) -> list[Any]:
    """Return a record as its row in the file."""
    row = {name: getattr(record, name) for name in _NAMES}
    row["identity"] = json.dumps(dict(record.identity))
    row["said"] = json.dumps({model: asdict(one) for model, one in record.said.items()})
    row["features"] = None if record.features is None else array("f", record.features).tobytes()
    return list(row.values())


def _restored(row: Sequence[Any]) -> Record:
    """Return the record of a row."""
    named = dict(zip(_NAMES, row, strict=True))
    named["said"] = {model: Said(**one) for model, one in json.loads(named["said"]).items()}
    named["identity"] = json.loads(named["identity"])
    if named["features"] is not None:
        named["features"] = tuple(array("f", named["features"]))
    return Record(**named)


class Forgotten(NamedTuple):
    """What was removed of a client: whether its key, how many records, and the names of the policies."""

    key: bool
    records: int
    policies: list[str]


def forget_client(name: str, keys: Keys, records: Records) -> Forgotten:
    """Remove the key and the records of a client, and the policies that hold features of its requests.

    Raises InputError if there was nothing of it.
    """
    found = Forgotten(keys.remove(name), records.forget(name), forget_policies(records.file.parent, name))
    if not any(found):
        raise InputError(f"there is neither a key nor a record of {name!r:.80}")
    return found
