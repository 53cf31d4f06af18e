"""Damage of a ledger: wherever a bit is flipped, what is said is right, or it is one clear error."""

import random
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from zlib import crc32

import pytest
from made_stores import SECOND, SHARED, Clock, place_of, sent

import exeunt as ex
from exeunt.errors import ArtefactError, FileError, InputError, OverBudget
from exeunt.ledger import core, sqlite_store
from exeunt.ledger.books import Hold
from exeunt.ledger.group_commit import Job
from exeunt.ledger.sqlite_store import SQLiteStore
from postgresql_server import server

LEASE = 10
ATTEMPTS = 12
"""Of each ledger: of all four states and three models together."""


def opened(**where):
    """Return a total and a rate within it, which are opened again as a program that starts does."""
    whole = ex.Ledger(total="3 usd", name="all", inputs=5, lease_s=LEASE, **where)
    return whole, ex.Ledger(rate="36 usd/hour", burst="1 usd", name="one", within=whole, lease_s=LEASE)


def attempts(ledger, name):
    """Leave holds of all states in a ledger."""
    for i in range(ATTEMPTS):
        held = ledger.reserve(0.01, model=f"model-{i % 3}", key=f"{name}/{i}")
        if i % 4 and held.dispatch() and i % 4 > 1:
            held.settle(0.005)
    return sent(ledger, 0.01, model="without a key")


@pytest.fixture(scope="module")
def whole_file(tmp_path_factory):
    """Return the bytes of a file, and the time that it was closed."""
    file, clock = tmp_path_factory.mktemp("whole") / "money.db", Clock()
    with closing(SQLiteStore(file, clock=clock)) as store:
        whole, one = opened(store=store)
        whole.promise(0.01)
        attempts(one, "old")
        clock.move(LEASE)
        assert whole.reserved == 0
        attempts(whole, "all")
        attempts(one, "one").settle(0.02)  # a bill that stops its model
    return file.read_bytes(), clock.now


def said(file, now):
    """Yield what is said by a ledger that is opened again, looked at, and spent from until nothing is left."""
    clock = Clock()
    clock.now = now
    with closing(SQLiteStore(file, clock=clock)) as store:
        whole, one = ledgers = opened(store=store)
        for ledger in ledgers:
            yield ledger.spent, ledger.reserved, ledger.left, ledger.available, ledger.to_come, ledger.stopped
            yield sorted((one.key or "", one.model, one.maximum, one.state) for one in ledger.unsettled())
        for ledger, name in ((one, "old"), (whole, "all"), (one, "one")):
            for i in range(ATTEMPTS):
                held = ledger.reserve(0.01, model=f"model-{i % 3}", key=f"{name}/{i}")
                yield held.state, held.cost, held.dispatch()
        whole.reconcile("all/3", 0.01)
        for held in whole.unsettled():
            held.settle(0.002)
        yield whole.spent, whole.left, one.spent, one.left
        clock.now += 20 * SECOND
        for ledger in (one, whole):
            yield spend_all(ledger)
        yield whole.spent, whole.left, one.spent, one.left


def spend_all(ledger):
    """Return what was spent in all, and why it ended."""
    with pytest.raises(OverBudget) as error:
        [sent(ledger, 0.25) for _ in range(100)]
    return ledger.spent, str(error.value)


def outcome(file, now):
    """Return what was said, and the error that ended it."""
    heard = []
    try:
        heard.extend(said(file, now))
    except (ArtefactError, FileError, InputError) as error:
        return heard, error
    return heard, None


def check_flips(whole_file, file, places):
    """Flip single bits. Return how many flips were found, and in how many nothing was to be found."""
    data, now = whole_file
    file.write_bytes(data)
    right, error = outcome(file, now)
    assert error is None
    assert right[-1][0] <= 3
    found = 0
    for place in places:
        for one in file.parent.glob("money.db*"):
            one.unlink()
        flipped = bytearray(data)
        flipped[place // 8] ^= 1 << place % 8
        file.write_bytes(flipped)
        heard, error = outcome(file, now)
        assert heard == (right if error is None else right[: len(heard)]), place
        assert error is None or "\n" not in str(error), place
        found += error is not None
    return found, len(places) - found


def test_a_flipped_bit_is_found_or_changes_nothing(whole_file, tmp_path):
    places = random.Random(0).sample(range(8 * len(whole_file[0])), 150)
    found, _ = check_flips(whole_file, tmp_path / "money.db", places)
    assert found > 50


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 5))
def test_many_flipped_bits_are_found_or_change_nothing(whole_file, tmp_path, seed):
    places = random.Random(seed).sample(range(8 * len(whole_file[0])), 2000)
    found, _ = check_flips(whole_file, tmp_path / "money.db", places)
    assert found > 700


# -- rows that were changed or are gone --------------------------------------------------------------------------------

CHANGES = {
    "UPDATE {account} SET settled = settled - 1": "the checksum of a row is wrong",
    "UPDATE {hold} SET maximum = 1 WHERE key = 'all/1'": "the checksum of a row is wrong",
    "UPDATE {account} SET checksum = checksum + 1": "the checksum of a row is wrong",
    "DELETE FROM {hold} WHERE key = 'all/1'": "the sums of 'all' are not those of its attempts",
    "DELETE FROM {account} WHERE name = 'all/one'": "the account 'all/one' is gone",
}


def changed(place, statement):
    """Change the tables of a ledger behind its back."""
    if isinstance(place, Path):
        with closing(sqlite3.connect(place)) as connection, connection:
            connection.execute(statement.format(account="account", hold="hold"))
    else:
        server().sql(statement.format(account="exeunt_account", hold="exeunt_hold"), place)


@pytest.mark.parametrize("kind", SHARED)
@pytest.mark.parametrize("statement", CHANGES)
def test_a_row_that_was_changed_or_is_gone_is_told_when_the_ledger_is_opened(kind, tmp_path, statement):
    place = place_of(kind, tmp_path)
    whole, one = opened(file=place)
    attempts(whole, "all")
    attempts(one, "one")
    whole.close()
    opened(file=place)[0].close()
    changed(place, statement)
    told = f"^the ledger .* is damaged .*{CHANGES[statement]}.*: restore it"
    for _ in range(2):
        with pytest.raises(ArtefactError, match=told):
            opened(file=place)


@pytest.mark.parametrize("kind", SHARED)
def test_a_row_that_changes_while_a_ledger_is_open_is_told_and_nothing_is_kept(kind, tmp_path):
    place = place_of(kind, tmp_path)
    whole, one = opened(file=place)
    held = one.reserve(0.1, key="a")
    changed(place, "UPDATE {account} SET settled = -1000000000 WHERE name = 'all'")
    changed(place, "UPDATE {hold} SET maximum = 1")
    wanted = Hold("all/one", 0, None, "", 1, False, 10**10)
    jobs = [
        Job(lambda books, now: core.reserve(books, now, wanted), False),
        Job(lambda books, now: core.dispatch(books, now, held._hold), True),
    ]
    whole._store._keep(jobs)
    assert [type(job.error) for job in jobs] == [ArtefactError, ArtefactError]
    calls = held.dispatch, lambda: one.spent, lambda: one.reserve(0.1), lambda: one.reserve(0.1, key="a")
    for call in calls:
        with pytest.raises(ArtefactError, match="is damaged"):
            call()
    whole.close()


def test_opening_is_quick_where_thousands_of_attempts_are_unsettled(tmp_path):
    file = tmp_path / "money.db"
    whole, one = opened(file=file)

    def fill(books, now):
        for i in range(5000):
            held = core.reserve(books, now, Hold("all/one", 0, str(i), "", 10**5, False, 10**12))
            if i % 2:
                core.dispatch(books, now, held)

    whole._store.run(fill)
    whole.close()
    began = time.process_time()
    whole, one = opened(file=file)
    assert time.process_time() - began < 1
    assert (one.reserved, one.spent) == (0.25, 0.25)
    whole.close()


def test_a_text_in_the_place_of_a_number_is_told(tmp_path):
    file = tmp_path / "money.db"
    whole, _ = opened(file=file)
    attempts(whole, "all")
    whole.close()
    changed(file, "UPDATE {hold} SET maximum = 'much'")
    with pytest.raises(ArtefactError, match="the checksum of a row is wrong"):
        opened(file=file)


def test_tables_of_other_names_are_told(tmp_path):
    """SQLite reads the name of a column that is not there as a text."""
    file = tmp_path / "money.db"
    opened(file=file)[0].close()
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA writable_schema = ON")
        with connection:
            connection.execute("UPDATE sqlite_master SET sql = replace(sql, '\"key\"', '\"kez\"')")
    with pytest.raises(ArtefactError, match="damaged"):
        opened(file=file)


def test_other_tables_need_another_version():
    """Files of this version whose tables are others are refused."""
    assert (sqlite_store._KIND.version, crc32(sqlite_store._SCHEMA.encode())) == (3, 2143665910)
