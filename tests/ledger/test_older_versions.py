"""Ledgers of older versions go on, and clients of those versions are refused.

Rows of the first version had no checksums, those of the second no limits by the calendar.
"""

import json
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from zlib import crc32

import pytest
from made_stores import SHARED, buy, made_role, place_of, sent

import exeunt as ex
from exeunt.errors import ArtefactError, FileError, OverBudget
from exeunt.ledger.store import MemoryStore
from postgresql_server import server

SCHEMA = """
CREATE TABLE account ("name", "parent", "unit", "limit", "rate", "period", "burst", "inputs", "cheapest", "asked",
    "grown", "rest", "reserved", "dispatched", "settled", "made", "stopped", PRIMARY KEY (name)) WITHOUT ROWID;
CREATE TABLE hold ("ledger", "number", "key", "model", "maximum", "promised", "lease", "time", "state", "cost",
    PRIMARY KEY (ledger, number)) WITHOUT ROWID;
CREATE UNIQUE INDEX keys ON hold (ledger, key) WHERE key IS NOT NULL;
CREATE INDEX unsettled ON hold (state) WHERE state < 3;
PRAGMA journal_mode = WAL; PRAGMA application_id = 1163414596; PRAGMA user_version = 1;
"""
ON_A_SERVER = """
CREATE TABLE exeunt_account (name TEXT NOT NULL, parent TEXT, unit TEXT NOT NULL, "limit" BIGINT NOT NULL,
    rate BIGINT NOT NULL, period BIGINT NOT NULL, burst BIGINT NOT NULL, inputs BIGINT NOT NULL,
    cheapest BIGINT NOT NULL, asked BIGINT NOT NULL, grown BIGINT NOT NULL, rest BIGINT NOT NULL,
    reserved BIGINT NOT NULL, dispatched BIGINT NOT NULL, settled BIGINT NOT NULL, made BIGINT NOT NULL,
    stopped TEXT NOT NULL, PRIMARY KEY (name));
CREATE TABLE exeunt_hold (ledger TEXT NOT NULL, number BIGINT NOT NULL, key TEXT, model TEXT NOT NULL,
    maximum BIGINT NOT NULL, promised BOOLEAN NOT NULL, lease BIGINT NOT NULL, time BIGINT NOT NULL,
    state BIGINT NOT NULL, cost BIGINT NOT NULL, PRIMARY KEY (ledger, number));
CREATE TABLE exeunt_client (id TEXT NOT NULL, latest BIGINT NOT NULL, time TIMESTAMP WITH TIME ZONE NOT NULL,
    PRIMARY KEY (id));
CREATE UNIQUE INDEX exeunt_hold_keys ON exeunt_hold (ledger, key) WHERE key IS NOT NULL;
CREATE INDEX exeunt_hold_unsettled ON exeunt_hold (state) WHERE state < 3;
COMMENT ON TABLE exeunt_account IS 'Exeunt ledgers, version 1';
"""
SECOND_SCHEMA = (
    SCHEMA.replace('"stopped", ', '"stopped", "checksum", ').replace('"cost",', '"cost", "checksum",')
    + """
CREATE INDEX disputed ON hold (ledger) WHERE "state" = 2 AND "cost" > "maximum";
CREATE TABLE clock ("boot", "base", "checksum");
PRAGMA user_version = 2;
"""
)
SECOND_ON_A_SERVER = (
    ON_A_SERVER.replace("stopped TEXT NOT NULL,", "stopped TEXT NOT NULL, checksum BIGINT NOT NULL,")
    .replace("cost BIGINT NOT NULL,", "cost BIGINT NOT NULL, checksum BIGINT NOT NULL,")
    .replace("version 1", "version 2")
    + 'CREATE INDEX exeunt_hold_disputed ON exeunt_hold (ledger) WHERE "state" = 2 AND "cost" > "maximum";'
)
VERSIONS = pytest.mark.parametrize("version", [1, 2])
BY_SHARED = pytest.mark.parametrize("kind", SHARED)


def execute(place, statement, *values):
    """Execute statements of the first version, or one with values in the place of each ?."""
    if isinstance(place, Path):
        with closing(sqlite3.connect(place)) as connection, connection:
            if not values:
                return connection.executescript(statement)
            return connection.execute(statement, values).fetchall()
    import psycopg

    for old, new in (("account", "exeunt_account"), ("hold", "exeunt_hold"), ("?", "%s")):
        statement = statement.replace(old, new)
    with psycopg.connect(place) as connection:
        found = connection.execute(statement, values)
        return found.fetchall() if found.description else None


def spent(store):
    """Spend from two ledgers, in all ways."""
    whole = ex.Ledger(total="2 usd", name="all ‘ä’", inputs=3, store=store)
    whole.promise(0.1)
    one = ex.Ledger(rate="1 usd/day", burst="3 usd", name="one", within=whole)
    buy(one, 0.5, 0.25, model="large", key="a")
    sent(whole, 0.1, model="small", promised=True, key="p")
    buy(one, 0.5, 0.75, model="large", key="b").book()  # bills above the maximum counted in full
    sent(one, 0.01, key="c")
    one.reserve(0.01, key="d")


def summed(row):
    """Return a row with its checksum, as the second version made it."""
    texts = (str(int(field) if isinstance(field, bool) else field) for field in row)
    return *row, crc32("\0".join(texts).encode())


def older(kind, folder, version):
    """Return a place in which an older version has kept what was spent."""
    store, place = MemoryStore(time.monotonic_ns if kind == "file" else time.time_ns), place_of(kind, folder)
    spent(store)
    if kind == "file":
        with closing(sqlite3.connect(place)) as connection:
            connection.executescript(SCHEMA if version == 1 else SECOND_SCHEMA)
    else:
        server().sql(ON_A_SERVER if version == 1 else SECOND_ON_A_SERVER, place)
    for account in store.books.by_name.values():
        stopped = json.dumps(account.stopped) if account.stopped else ""
        row = (*account[:16], stopped)
        row = row if version == 1 else summed(row)
        execute(place, f"INSERT INTO account VALUES ({', '.join('?' * len(row))})", *row)
    for held in store.books.holds.values():
        row = held[:10] if version == 1 else summed(held[:10])
        execute(place, f"INSERT INTO hold VALUES ({', '.join('?' * len(row))})", *row)
    return place


def check_it_goes_on(place):
    """What was spent is spent, keys are known, models are stopped, and limits hold."""
    whole = ex.Ledger(total="2 usd", name="all ‘ä’", inputs=3, file=place)
    one = ex.Ledger(rate="1 usd/day", burst="3 usd", name="one", within=whole)
    assert (whole.spent, whole.reserved, whole.to_come) == (1.11, 0.01, 2)
    assert (one.spent, one.reserved, one.stopped) == (1.01, 0.01, ("large",))
    assert sorted(held.key for held in whole.unsettled()) == ["c", "p"]
    assert one.reserve(0.5, model="large", key="a").cost == 0.25
    assert not one.reserve(0.01, key="c").dispatch()
    assert one.reserve(0.01, key="d").release()
    with pytest.raises(OverBudget):
        whole.reserve(0.8)
    sent(whole, 0.6, key="new")
    whole.reconcile("new", 0.1)
    whole.close()


@VERSIONS
@BY_SHARED
def test_it_goes_on(kind, version, tmp_path):
    place = older(kind, tmp_path, version)
    check_it_goes_on(place)
    check_spent(place, 1.21)
    assert len(execute(place, "SELECT checksum FROM hold WHERE checksum > ?", 0)) == 5
    if kind == "file":  # as if it were made by this version
        new = tmp_path / "new.db"
        ex.Ledger(total="1 usd", file=new).close()
        tables = "SELECT name, sql FROM sqlite_master WHERE 1 = ?"
        assert sorted(execute(place, tables, 1)) == sorted(execute(new, tables, 1))


@BY_SHARED
@VERSIONS
def test_what_it_holds_neither_takes_from_a_limit_by_the_calendar_nor_gives_back(kind, version, tmp_path):
    """Nobody knows in which period it was reserved."""
    place = older(kind, tmp_path, version)
    whole = ex.Ledger(total="2 usd", day="0.3 usd", name="all ‘ä’", file=place)
    assert whole.limits["day"].left == 0.3
    for held in whole.unsettled():
        held.settle(0)
    assert whole.limits["day"].left == 0.3
    buy(whole, 0.1, 0.05)
    assert whole.limits["day"].left == 0.25
    whole.close()


def check_spent(place, amount):
    with closing(ex.Ledger(name="all ‘ä’", file=place)) as again:
        assert again.spent == amount


OPEN = """
import sys, exeunt as ex
sys.stdin.readline()
held = ex.Ledger(name="all ‘ä’", file=sys.argv[1]).reserve(0.001, key=sys.argv[2])
assert held.dispatch()
held.settle(0.001)
"""


@VERSIONS
@BY_SHARED
def test_several_processes_that_open_it_together_bring_it_over_once(kind, version, tmp_path):
    place = older(kind, tmp_path, version)
    processes = [
        subprocess.Popen([sys.executable, "-c", OPEN, str(place), str(i)], stdin=subprocess.PIPE, text=True)
        for i in range(3)
    ]
    for process in processes:
        process.stdin.write("\n")
        process.stdin.close()
    assert [process.wait(60) for process in processes] == [0] * 3
    check_spent(place, 1.113)


@VERSIONS
@BY_SHARED
def test_a_client_of_an_older_version_that_has_it_open_can_change_nothing(kind, version, tmp_path):
    """It reads all columns of a row as those of an account, before it writes; and a row without the new ones is
    refused.
    """
    place = older(kind, tmp_path, version)
    account, value = ("account", "?") if kind == "file" else ("exeunt_account", "%s")
    connection = old_client(place)
    accounts = connection.execute(f"SELECT * FROM {account}").fetchall()
    width = 16 + version
    assert {len(row) for row in accounts} == {width}
    connection.rollback()
    check_it_goes_on(place)
    put = f"INSERT INTO {account} VALUES ({', '.join([value] * width)}) "
    put += 'ON CONFLICT ("name") DO UPDATE SET "settled" = excluded."settled"'
    with pytest.raises(Exception, match=r"columns|null value in column \"c(hecksum|alendar)\""):
        connection.execute(put, accounts[0])
    connection.rollback()
    connection.close()
    check_spent(place, 1.21)


def old_client(place):
    if isinstance(place, Path):
        return sqlite3.connect(place)
    import psycopg

    return psycopg.connect(place)


@VERSIONS
@pytest.mark.parametrize(
    "harm",
    [
        "UPDATE account SET asked = NULL",  # as NaN was kept
        "UPDATE account SET stopped = '['",
        "UPDATE account SET reserved = 0",
        "DELETE FROM hold WHERE key = 'c'",
    ],
)
def test_a_damaged_file_of_an_older_version_is_told(tmp_path, harm, version):
    place = older("file", tmp_path, version)
    execute(place, harm)
    for _ in range(2):
        with pytest.raises(ArtefactError, match=r"^[^\n]*money\.db [^\n]*damaged[^\n]*: restore it"):
            ex.Ledger(file=place)


def test_a_damaged_database_of_the_second_version_is_told():
    place = older("postgresql", None, 2)
    execute(place, "UPDATE account SET settled = ?", 7)
    for _ in range(2):
        with pytest.raises(ArtefactError, match=r"damaged \(the checksum of a row is wrong\): restore it"):
            ex.Ledger(name="all ‘ä’", file=place)


@VERSIONS
def test_a_user_who_may_not_change_the_tables_is_told_who_may(version):
    place = older("postgresql", None, version)
    as_reader = made_role(f"reader{version}", place)
    tables = "exeunt_account, exeunt_hold, exeunt_client"
    server().sql(f"GRANT SELECT, INSERT, UPDATE, DELETE ON {tables} TO reader{version}", place)
    with pytest.raises(FileError, match=r"older version .*let the owner of the tables open one of them once"):
        ex.Ledger(name="all ‘ä’", file=as_reader)
    check_it_goes_on(place)
    with closing(ex.Ledger(name="all ‘ä’", file=as_reader)) as reader:
        sent(reader, 0.001)
