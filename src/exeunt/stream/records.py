"""What is kept of live requests, in a SQLite file: costs, scores and grades, and HMACs in place of contents.

One record per answered request, numbered in order of arrival; one row for each unit and each period. Whoever counts
(watch, audits, bill, certificate, page) reads these.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import astuple, dataclass, fields, replace
from pathlib import Path
from typing import Any, cast

from exeunt._support.sqlite import DatabaseKind
from exeunt.errors import ArtefactError, FileError, InputError
from exeunt.stream.drawing import Period
from exeunt.stream.units import DAY_S, Unit


@dataclass(frozen=True)
class Said:
    """What one model did for one request.

    `cost`: in US dollars, of all attempts, as billed: one that failed and told no bill counts nothing. `score`: the
    model's confidence; None without one. `grade`: of its answer, in [0, 1]; None if it is not graded. `failed`: why it
    gave no answer. `cached`: US dollars that it would cost more if nothing had been in the provider's prompt cache.
    """

    cost: float
    score: float | None = None
    grade: float | None = None
    failed: str = ""
    cached: float = 0.0


@dataclass(frozen=True)
class Record:
    """What is kept of one answered request.

    `number`: of its arrival. `time`: of its arrival, in seconds since 1970. `client`: the name of its key. `request`:
    an HMAC of its content, in hexadecimal digits. `setting`: which models, grader and rules there were (see
    `Records.setting`). `unit`: the number of its unit, 0 for none; `row`: its place there; `is_open`: whether the unit
    still took it; `retry`, `guessed`: see `exeunt.stream.units.Place`. `transcript`: an HMAC of its messages and
    answer, or of the conversation's name.

    `policy`: the name of the one that chose, "" where the reference answered alone. `answered`: the model whose answer
    was given; `asked`: the models that were asked for it. `decided`: "" where the policy decided; else why it did not,
    or why further or other models were asked. `cost`: US dollars of what was asked for the answer, as billed.
    `input_cost`: what its input costs at the reference, if known. `said`: by model. `refused`: compared models that do
    not take it; "" among them if it could cost more than the cap. `compared`: "" if it was not drawn; "compared", or
    what stood in the way. `features`: kept with 32 bits each. `text`: JSON of request and answers, only where the
    deployment keeps texts. `answer`: an HMAC of the id of its answer, b"" without one; `feedback`: the grade that its
    client gave it, in [0, 1], which no certificate and no mean counts.
    """

    number: int
    time: float
    client: str
    request: str
    said: Mapping[str, Said]
    setting: int = 0
    unit: int = 0
    row: int = 0
    is_open: bool = False
    retry: bool = False
    guessed: bool = False
    transcript: bytes = b""
    policy: str = ""
    answered: str = ""
    asked: tuple[str, ...] = ()
    decided: str = ""
    cost: float = 0.0
    input_cost: float | None = None
    refused: tuple[str, ...] = ()
    compared: str = ""
    features: tuple[float, ...] | None = None
    text: str | None = None
    answer: bytes = b""
    feedback: float | None = None


def _columns(names: Sequence[str]) -> str:
    """Return columns for SQL, of which "number" is the key."""
    return ", ".join(f'"{name}" INTEGER PRIMARY KEY' if name == "number" else f'"{name}"' for name in names)


COMPARED, NOT_GRADED, NOT_PAID = "compared", "the grader failed", "no money for the judge"
ASKED = (COMPARED, NOT_GRADED, NOT_PAID)
"""What became of requests for which all models were asked."""
_NAMES = tuple(field.name for field in fields(Record))
_COLUMNS = ", ".join(f'"{name}"' for name in _NAMES)
_LISTS = ("asked", "refused")
_UNIT = tuple(field.name for field in fields(Unit))
_COUNTED = ("number", "later", "later_cost")
_OF_A_CLIENT = {"client": "''", "user": "x''", "drawn": "0", "refused": "0"}
"""What is removed of a unit whose client is forgotten. A gateway that runs meanwhile does not write it again."""
_PUT_UNIT = (
    f"INSERT INTO unit VALUES ({', '.join('?' * len(_UNIT))}) ON CONFLICT (number) DO UPDATE SET "  # noqa: S608
    + ", ".join(
        f"{name} = CASE client WHEN '' THEN {_OF_A_CLIENT[name]} ELSE excluded.{name} END"
        if name in _OF_A_CLIENT
        else f'"{name}" = excluded."{name}"'
        for name in _UNIT
        if name not in _COUNTED
    )
)
_PERIOD = tuple(field.name for field in fields(Period))
IMPORTED = 0.0
"""The length of periods of a log that was brought in, which are told from the gateway's own by it."""
IMPORTS = "imports"
"""Under this name is kept which logs were brought in."""
_INDICES = """
CREATE INDEX request_answer ON request (answer) WHERE answer != x'';
CREATE INDEX request_feedback ON request (answered, feedback) WHERE feedback IS NOT NULL;
"""
_SCHEMA = f"""
CREATE TABLE request ({_columns(_NAMES)});
CREATE INDEX request_client ON request (client);
CREATE INDEX request_unit ON request (unit) WHERE compared != '';
{_INDICES}
CREATE TABLE unit ({_columns(_UNIT)});
CREATE INDEX unit_period ON unit (period);
CREATE INDEX unit_fits ON unit (number) WHERE drawn AND NOT held_out AND closed IS NOT NULL;
CREATE INDEX unit_open ON unit (number) WHERE closed IS NULL;
CREATE TABLE period ({", ".join(_PERIOD)}, PRIMARY KEY (number, length));
CREATE TABLE setting (number INTEGER PRIMARY KEY, since REAL, body TEXT);
CREATE TABLE kept (name TEXT PRIMARY KEY, body TEXT);
CREATE TABLE question (
    number INTEGER PRIMARY KEY, asked REAL, tests_from INTEGER, fits_from INTEGER, why TEXT, body TEXT
);
CREATE TABLE proposal (
    number INTEGER PRIMARY KEY, question INTEGER, made REAL, fitted INTEGER, tests_from INTEGER, rows INTEGER,
    kind TEXT, correlation REAL
);
CREATE TABLE plan (
    proposal INTEGER, place INTEGER, needed REAL, share REAL, cost REAL, policy TEXT, passed REAL,
    PRIMARY KEY (proposal, place)
);
CREATE TABLE factor (
    proposal INTEGER, plan INTEGER, promise TEXT, share REAL, period INTEGER, units INTEGER,
    f0 REAL, f1 REAL, f2 REAL, f3 REAL, PRIMARY KEY (proposal, plan, promise, share, period)
) WITHOUT ROWID;
"""
RECORDS = "records.db"
_LATEST = "latest number"
"""Under this name the highest number is kept, of which the record may have been removed."""


def _upgrade(connection: sqlite3.Connection, version: int) -> None:
    """Bring a file of the second version to this one: its answers cannot be graded any more."""
    if version < 2:
        raise sqlite3.DatabaseError(f"version {version} is taken over otherwise")
    connection.execute("ALTER TABLE request ADD COLUMN answer DEFAULT x''")
    connection.execute("ALTER TABLE request ADD COLUMN feedback")
    for statement in filter(str.strip, _INDICES.split(";")):
        connection.execute(statement)


KIND = DatabaseKind("file of a gateway's records", 0x45584757, 3, _SCHEMA, upgrade=_upgrade)


class Records:
    """The stream in a folder, made if there is none.

    Any number of threads of a process add to it, while other processes read. Of removed records nothing is left in
    the file.

    Raises FileError if the file cannot be read or written, ArtefactError if another file is in its place.
    """

    def __init__(self, folder: Path) -> None:
        self.file = folder / RECORDS
        self._turn = threading.Lock()
        self._connection = cast("sqlite3.Connection | None", None)
        with self._as_file_errors():
            if not self.file.exists():
                KIND.make(self.file)
            _take_over_first_version(self.file)
            self._connection = KIND.connect(self.file)
            # Also of what is replaced, such as a unit whenever it takes a request, nothing is to be left.
            self._connection.execute("PRAGMA secure_delete = ON")

    # -- adding ---------------------------------------------------------------------------------------------

    def add(
        self, record: Record, units: Iterable[Unit] = (), periods: Iterable[Period] = (), **documents: Any
    ) -> None:
        """Add a record with what is known of units and periods by now. `documents`: as `keep` takes it, by name."""
        with self.writing() as connection:
            _add(connection, (record,), units, periods)
            if record.unit and not record.is_open:
                connection.execute(
                    "UPDATE unit SET later = later + 1, later_cost = later_cost + ? WHERE number = ?",
                    (record.cost, record.unit),
                )
            _keep(connection, documents)

    def add_all(
        self, records: Iterable[Record], units: Iterable[Unit], periods: Iterable[Period], **documents: Any
    ) -> None:
        """Add records of units that are over, all or none. `documents`: as `keep` takes it, by name."""
        with self.writing() as connection:
            _add(connection, records, units, periods)
            _keep(connection, documents)

    def update(self, units: Iterable[Unit] = (), periods: Iterable[Period] = (), **documents: Any) -> None:
        """Keep what is known of units and periods by now. `documents`: as `keep` takes it, by name."""
        with self.writing() as connection:
            _put_units(connection, units, periods)
            _keep(connection, documents)

    def settle(self, periods: Iterable[Period], now: float) -> None:
        """Take note that all units of periods have closed and been graded."""
        with self.writing() as connection:
            rows = [(now, period.number, period.length) for period in periods]
            connection.executemany("UPDATE period SET settled = ? WHERE number = ? AND length = ?", rows)

    def setting(self, body: Mapping[str, Any], now: float) -> int:
        """Return the number of a setting, JSON-able: the latest one if it is the same, else a new one."""
        text = json.dumps(body, sort_keys=True)
        with self.writing() as connection:
            latest = connection.execute("SELECT number, body FROM setting ORDER BY number DESC").fetchone()
            if latest is not None and latest[1] == text:
                return int(latest[0])
            inserted = connection.execute("INSERT INTO setting (since, body) VALUES (?, ?)", (now, text))
            return int(inserted.lastrowid or 0)

    def keep(self, name: str, body: Any) -> None:
        """Keep something JSON-able under a name."""
        with self.writing() as connection:
            _keep(connection, {name: body})

    def give_feedback(self, answer: bytes, grade: float) -> bool | None:
        """Keep the grade that a client gives to an answer, the latest one of this HMAC. Return whether it had none
        before; None if there is no such answer.
        """
        with self.writing() as connection:
            row = connection.execute(
                "SELECT number, feedback FROM request WHERE answer = ? AND answer != x'' "
                "ORDER BY number DESC LIMIT 1",
                (answer,),
            ).fetchone()
            if row is None:
                return None
            if row[1] is None:
                connection.execute("UPDATE request SET feedback = ? WHERE number = ?", (grade, row[0]))
            return row[1] is None

    # -- reading --------------------------------------------------------------------------------------------

    def read(self, where: str = "1", arguments: Sequence[Any] = ()) -> list[Record]:
        """Return the records for which an SQL condition holds, in order of arrival."""
        query = f"SELECT {_COLUMNS} FROM request WHERE {where} ORDER BY number"  # noqa: S608
        with (
            self.reading() as connection,
            _as_damage(self.file),
            closing(
                connection.execute(query, tuple(arguments))
            ) as rows,  # else an error keeps the file locked
        ):
            return [_restored(row) for row in rows]

    def units(self, where: str = "1", arguments: Sequence[Any] = ()) -> list[Unit]:
        """Return the units for which an SQL condition holds, in order of arrival."""
        with self.reading() as connection:
            rows = connection.execute(
                f"SELECT {', '.join(_UNIT)} FROM unit WHERE {where} ORDER BY number",  # noqa: S608
                tuple(arguments),
            )
            return [_unit(row) for row in rows]

    def of_units(
        self, where: str = "1", arguments: Sequence[Any] = (), *, refused: bool = False
    ) -> list[tuple[Unit, list[Record]]]:
        """Return drawn units, each with its compared requests, in order of arrival. `refused`: and those that were
        chosen when money was missing, of which nothing was compared.
        """
        chosen = "(drawn OR refused)" if refused else "drawn"
        units = {
            unit.number: (unit, list[Record]()) for unit in self.units(f"{chosen} AND ({where})", arguments)
        }
        # The + lets SQLite look units up in the index, whose values have no type.
        inside = f"compared != '' AND unit IN (SELECT +number FROM unit WHERE drawn AND ({where}))"  # noqa: S608
        for record in self.read(inside, arguments):
            if record.unit in units:
                units[record.unit][1].append(record)
        return list(units.values())

    def count_units(self, where: str, arguments: Sequence[Any] = ()) -> int:
        """Return the number of drawn units for which an SQL condition holds."""
        with self.reading() as connection:
            query = f"SELECT COUNT(*) FROM unit WHERE drawn AND ({where})"  # noqa: S608
            return int(connection.execute(query, tuple(arguments)).fetchone()[0])

    def units_by_requests(self, longest: int, where: str, arguments: Sequence[Any] = ()) -> list[int]:
        """Return how many units have made one request in all, two, and so on to `longest`, compared or not."""
        with self.reading() as connection:
            query = f"SELECT rows + later, COUNT(*) FROM unit WHERE {where} GROUP BY 1"  # noqa: S608
            counts = dict(connection.execute(query, tuple(arguments)).fetchall())
        return [counts.get(n, 0) for n in range(1, longest + 1)]

    def periods(self, where: str = "1", arguments: Sequence[Any] = ()) -> list[Period]:
        """Return the periods for which an SQL condition holds, the oldest first."""
        with self.reading() as connection:
            rows = connection.execute(
                f"SELECT {', '.join(_PERIOD)} FROM period WHERE {where} ORDER BY number",  # noqa: S608
                tuple(arguments),
            )
            return [Period(*row) for row in rows]

    def latest_periods(self, n: int, length: float = DAY_S) -> list[Period]:
        """Return the latest periods of a length in seconds, the oldest first."""
        with self.reading() as connection:
            names = ", ".join(_PERIOD)
            rows = connection.execute(
                f"SELECT {names} FROM period WHERE length = ? ORDER BY number DESC LIMIT ?",  # noqa: S608
                (length, n),
            ).fetchall()
        return [Period(*row) for row in reversed(rows)]

    def unit_clients(self, where: str = "1", arguments: Sequence[Any] = ()) -> list[str]:
        """Return the client of each drawn unit for which an SQL condition holds."""
        with self.reading() as connection:
            query = f"SELECT client FROM unit WHERE drawn AND ({where})"  # noqa: S608
            return [client for (client,) in connection.execute(query, tuple(arguments))]

    def settings(self) -> dict[int, tuple[float, Any]]:
        """Return all settings by number: since when, and what."""
        with self.reading() as connection, _as_damage(self.file):
            rows = connection.execute("SELECT number, since, body FROM setting").fetchall()
            return {number: (since, json.loads(body)) for number, since, body in rows}

    def kept(self, name: str) -> Any:
        """Return what was kept under a name; None if nothing was."""
        with self.reading() as connection, _as_damage(self.file):
            row = connection.execute("SELECT body FROM kept WHERE name = ?", (name,)).fetchone()
            return None if row is None else json.loads(row[0])

    def latest_number(self) -> int:
        """Return the highest number that a request or a unit ever had; 0 before any."""
        with self.reading() as connection, _as_damage(self.file):
            return _latest_number(connection)

    def transcripts(self, latest: int) -> list[tuple[int, bytes]]:
        """Return (unit, transcript) of the latest requests that have one, the oldest first."""
        with self.reading() as connection:
            rows = connection.execute(
                "SELECT unit, transcript FROM request WHERE transcript != x'' ORDER BY number DESC LIMIT ?",
                (latest,),
            ).fetchall()
        return rows[::-1]

    def feedback(self) -> dict[str, tuple[int, float]]:
        """Return how many answers of each model clients have graded, and the mean of these grades."""
        with self.reading() as connection:
            rows = connection.execute(
                "SELECT answered, COUNT(*), AVG(feedback) FROM request WHERE feedback IS NOT NULL GROUP BY answered"
            )
            return {model: (n, mean) for model, n, mean in rows}

    def clients(self) -> set[str]:
        """Return the clients of whom there are records."""
        with self.reading() as connection:
            return {name for (name,) in connection.execute("SELECT DISTINCT client FROM request")}

    def count(self, where: str = "1", arguments: Sequence[Any] = ()) -> int:
        """Return the number of records for which an SQL condition holds."""
        with self.reading() as connection:
            query = f"SELECT COUNT(*) FROM request WHERE {where}"  # noqa: S608
            return int(connection.execute(query, tuple(arguments)).fetchone()[0])

    # -- removing -------------------------------------------------------------------------------------------

    def forget(self, client: str) -> int:
        """Remove all records of a client, and return how many there were. Of its units the numbers stay."""
        of_units = ("UPDATE unit SET drawn = 0, refused = 0, client = '', user = x'' WHERE client = ?",)
        return self._remove("client = ?", client, of_units)

    def expire(self, before: float) -> int:
        """Remove the records of before a time, and return how many there were. Units that began before it are not
        used any more; that a user had one is not forgotten.
        """
        of_units = (
            "DELETE FROM unit WHERE closed IS NOT NULL AND user = x'' AND latest < ?",
            "UPDATE unit SET drawn = 0, refused = 0 WHERE (drawn OR refused) AND opened < ?",
        )
        return self._remove("time < ?", before, of_units)

    def close(self) -> None:
        """Close the file. Nothing can be added any more."""
        with self._turn:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def _remove(self, where: str, argument: Any, of_units: Sequence[str]) -> int:
        with self.writing() as connection:
            # Numbers are never used again: questions count from one on.
            _put(connection, "kept", ("name", "body"), (_LATEST, json.dumps(_latest_number(connection))))
            removed = connection.execute(f"DELETE FROM request WHERE {where}", (argument,)).rowcount  # noqa: S608
            for statement in of_units:
                connection.execute(statement, (argument,))
        with self._writing_alone() as connection:
            # What was written lately is in the write-ahead log, too.
            (busy, _, _) = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if busy:
            raise FileError(
                f"{removed} records were removed, but {self.file}-wal may still hold some of them, because another "
                "process has been reading for long: repeat this when it is done"
            )
        return removed

    # -- connections ----------------------------------------------------------------------------------------

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """Give the connection for a transaction, of which all is kept or nothing."""
        with self._writing_alone() as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                connection.execute("ROLLBACK")
                raise

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Give a connection to read by, while others add."""
        with self._as_file_errors(), closing(KIND.connect(self.file)) as connection:
            yield connection

    @contextmanager
    def _writing_alone(self) -> Iterator[sqlite3.Connection]:
        with self._as_file_errors(), self._turn:
            if self._connection is None:
                raise InputError(f"{self.file} is closed: open it again")
            yield self._connection

    @contextmanager
    def _as_file_errors(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise KIND.failure(self.file, error) from error


@contextmanager
def _as_damage(file: Path) -> Iterator[None]:
    """Raise ArtefactError where what is in a file cannot have been written there."""
    try:
        yield
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise ArtefactError(
            f"{file} is damaged ({error!r:.80}): restore it, or choose another file"
        ) from error


def _latest_number(connection: sqlite3.Connection) -> int:
    row = connection.execute("SELECT body FROM kept WHERE name = ?", (_LATEST,)).fetchone()
    numbers = [0 if row is None else int(json.loads(row[0]))]
    for table in ("request", "unit"):
        numbers += connection.execute(f"SELECT COALESCE(MAX(number), 0) FROM {table}").fetchone()  # noqa: S608
    return max(numbers)


def _put(connection: sqlite3.Connection, table: str, names: Sequence[str], values: Sequence[Any]) -> None:
    columns = ", ".join(f'"{name}"' for name in names)
    places = ", ".join("?" * len(values))
    connection.execute(f"REPLACE INTO {table} ({columns}) VALUES ({places})", values)  # noqa: S608


def _add(
    connection: sqlite3.Connection,
    records: Iterable[Record],
    units: Iterable[Unit],
    periods: Iterable[Period],
) -> None:
    for record in records:
        _put(connection, "request", _NAMES, _stored(record))
    _put_units(connection, units, periods)


def _keep(connection: sqlite3.Connection, documents: Mapping[str, Any]) -> None:
    for name, body in documents.items():
        _put(connection, "kept", ("name", "body"), (name, json.dumps(body)))


def _put_units(connection: sqlite3.Connection, units: Iterable[Unit], periods: Iterable[Period]) -> None:
    for unit in units:
        connection.execute(_PUT_UNIT, [getattr(unit, name) for name in _UNIT])
    for period in periods:
        connection.execute(
            "INSERT INTO period VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (number, length) DO UPDATE SET "
            "units = excluded.units, chosen = excluded.chosen, refused = excluded.refused",
            astuple(period),
        )


def _unit(row: Sequence[Any]) -> Unit:
    unit = Unit(*row)
    unit.drawn, unit.held_out, unit.refused = bool(unit.drawn), bool(unit.held_out), bool(unit.refused)
    return unit


def _stored(record: Record) -> list[Any]:
    """Return a record as its row in the file."""
    row = {name: getattr(record, name) for name in _NAMES}
    row["said"] = json.dumps({model: _short(answer) for model, answer in record.said.items()})
    for name in _LISTS:
        row[name] = json.dumps(row[name]) if row[name] else ""
    row["features"] = None if record.features is None else array("f", record.features).tobytes()
    return list(row.values())


def _restored(row: Sequence[Any]) -> Record:
    """Return the record of a row."""
    values = dict(zip(_NAMES, row, strict=True))
    values["said"] = {model: Said(**answer) for model, answer in json.loads(values["said"]).items()}
    for name in _LISTS:
        values[name] = tuple(json.loads(values[name])) if values[name] else ()
    for name in ("is_open", "retry", "guessed"):
        values[name] = bool(values[name])
    if values["features"] is not None:
        values["features"] = tuple(array("f", values["features"]))
    return Record(**values)


def _short(answer: Said) -> dict[str, Any]:
    return {
        name: field for name, field in vars(answer).items() if name == "cost" or field != getattr(Said, name)
    }


def one_each(records: Iterable[Record]) -> dict[int, Record]:
    """Return the record of each row of a unit: of a request and its retries the first that was compared."""
    by_row: dict[int, Record] = {}
    for record in records:
        known = by_row.get(record.row)
        if known is None or (known.compared != COMPARED and record.compared == COMPARED):
            by_row[record.row] = record
    return by_row


# -- files of before there were units ---------------------------------------------------------------------------


_OTHERS_S = 30.0
"""So long another process may take to bring a file to this version."""


def _take_over_first_version(file: Path) -> None:
    """Bring a file of the first version to this one: its records fit policies, and certify nothing.

    Compared requests that share a conversation or a user are a unit that fits, as they were groups.
    """
    if not file.is_file() or not file.stat().st_size:
        return
    with (
        closing(sqlite3.connect(file, timeout=_OTHERS_S, isolation_level=None)) as connection,
        _as_damage(file),
    ):
        if not _is_first_version(connection):
            return
        connection.execute("PRAGMA secure_delete = ON")
        connection.execute("BEGIN IMMEDIATE")
        if not _is_first_version(connection):  # another process was faster
            return
        names = [row[1] for row in connection.execute("PRAGMA table_info(record)")]
        old = [
            dict(zip(names, row, strict=True))
            for row in connection.execute("SELECT * FROM record ORDER BY time, rowid")
        ]
        connection.execute("DROP TABLE record")
        for statement in filter(str.strip, _SCHEMA.split(";")):
            connection.execute(statement)
        _convert(connection, old)
        connection.execute(f"PRAGMA user_version = {KIND.version}")
        connection.execute("COMMIT")


def _is_first_version(connection: sqlite3.Connection) -> bool:
    tables = [
        connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version")
    ]
    return tables == [KIND.application, 1]


def _convert(connection: sqlite3.Connection, old: Sequence[Mapping[str, Any]]) -> None:
    """Insert the records of a file of the first version."""
    settings: dict[str, int] = {}
    units: dict[tuple[str, ...], Unit] = {}
    for number, row in enumerate(old, 1):
        body = json.dumps({"identity": json.loads(row["identity"]), "grader": row["grader"]}, sort_keys=True)
        if body not in settings:
            settings[body] = len(settings) + 1
            connection.execute("INSERT INTO setting VALUES (?, ?, ?)", (settings[body], row["time"], body))
        record = Record(
            number,
            row["time"],
            row["client"],
            row["request"],
            {model: Said(**answer) for model, answer in json.loads(row["said"]).items()},
            setting=settings[body],
            policy=row["policy"],
            answered=row["answered"],
            decided=row["escalated"],
            cost=row["cost"],
            text=row["text"],
        )
        if row["kind"] in ("shadow", "audit"):
            group = ("user", row["user"]) if row["user"] else ("conversation", row["conversation"])
            new = Unit(number, row["client"], row["time"], row["time"], drawn=True, probability=1.0)
            unit = units.setdefault((row["client"], *group), new)
            unit.setting = unit.setting or record.setting
            record = replace(record, unit=unit.number, row=unit.rows, is_open=True, compared=COMPARED)
            unit.rows, unit.latest, unit.closed = unit.rows + 1, record.time, record.time
        values = _stored(record)
        values[_NAMES.index("features")] = row["features"]
        _put(connection, "request", _NAMES, values)
    _put_units(connection, units.values(), ())
