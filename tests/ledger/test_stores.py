"""Ledgers that are shared, and in child processes; their files: full, damaged, foreign, moved away, closed."""

import os
import random
import sqlite3
import string
import threading
import time
from contextlib import closing, suppress
from functools import partial

import pytest
from made_stores import EVERY_KIND, SECOND, SHARED, buy, place_of, sent, together

import exeunt as ex
from exeunt.errors import ArtefactError, FileError, InputError, OverBudget
from exeunt.ledger import books, core
from exeunt.ledger.group_commit import Job
from exeunt.ledger.sql_books import SQLBooks
from exeunt.ledger.sqlite_store import SQLiteStore


@pytest.fixture
def file(tmp_path):
    return tmp_path / "money.db"


@pytest.fixture
def ledger(file):
    ledger = ex.Ledger(total="1 usd", file=file)
    yield ledger
    ledger.close()


@pytest.fixture(params=SHARED)
def place(request, tmp_path):
    return place_of(request.param, tmp_path)


@pytest.fixture
def shared(place):
    ledger = ex.Ledger(total="1 usd", file=place)
    yield ledger
    ledger.close()


def test_what_was_spent_is_there_when_it_is_opened_again(place, shared):
    buy(shared, 0.5, 0.2, key="a")
    shared.reserve(0.1, key="b")
    shared.close()
    with closing(ex.Ledger(total="1 usd", file=place)) as again:
        assert (again.spent, again.reserved, again.left) == (0.2, 0.1, 0.7)
        assert again.reserve(0.5, key="a").cost == 0.2
        sent(again, 0.1, key="b")
    with closing(ex.Ledger(file=place)) as read:
        assert (read.spent, read.unit) == (0.3, "usd")


def test_it_may_be_closed_twice(shared):
    """Also by threads that come together."""
    store = shared._store

    def ask():
        with suppress(InputError):  # it is closed
            return shared.spent

    with store._writing:
        threads = [threading.Thread(target=call) for call in (ask, shared.close, shared.close)]
        for thread in threads:
            thread.start()
            time.sleep(0.05)
    for thread in (*threads, store._writer):
        thread.join(10)  # an error in it is an error of this test
        assert not thread.is_alive()


def test_two_ledgers_in_one_place_share_what_is_left(place, shared):
    with closing(ex.Ledger(total="1 usd", file=place)) as other:
        buy(shared, 0.6, 0.6)
        with pytest.raises(OverBudget):
            other.reserve(0.5)
        assert other.left == 0.4


@pytest.mark.parametrize("durability", ["normal", "full"])
def test_threads_that_come_together_each_get_their_answer(place, durability):
    ledger = ex.Ledger(total="1 usd", file=place, durability=durability)

    bought = []

    def spend_ten(i):
        for j in range(10):
            with suppress(OverBudget):
                bought.append(buy(ledger, key=f"{i}/{j}").key)

    together(*(partial(spend_ten, i) for i in range(24)))
    assert (len(set(bought)), ledger.spent) == (len(bought), pytest.approx(0.005 * len(bought)))
    assert 0.9 < ledger.spent <= 1
    ledger.close()
    with pytest.raises(InputError, match="is closed"):
        ledger.reserve(0.01)


def test_an_operation_that_is_refused_does_not_touch_those_kept_with_it(shared):
    def job(amount):
        hold = books.Hold(shared.name, 0, None, "", amount * 10**8, False, 60 * SECOND)
        return Job(lambda books, now: core.reserve(books, now, hold), lasting=False)

    jobs = [job(3), job(20), job(4)]
    shared._store._keep(jobs)
    assert [type(one.error) for one in jobs] == [type(None), OverBudget, type(None)]
    assert shared.reserved == 0.7


# -- what goes wrong ---------------------------------------------------------------------------------------------------


def test_a_full_disk_is_an_error_and_nothing_is_sent(file):
    store = SQLiteStore(file)
    ledger = ex.Ledger(total="1000 usd", store=store)
    held = ledger.reserve(1, key="held")
    pages = store._connection.execute("PRAGMA page_count").fetchone()[0]
    store._connection.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(FileError, match=r"full.*nothing was changed"):
        [ledger.reserve(1, key=f"{i} {'x' * 100}") for i in range(1000)]
    assert (ledger.spent, ledger.reserved < 1000) == (0, True)
    assert held.dispatch()  # needs no more room
    held.settle(0.5)
    store._connection.execute("PRAGMA max_page_count = 100000")
    sent(ledger, 1)
    assert ledger.spent == 1.5
    store.close()


def test_a_failed_transaction_is_an_error_and_changes_nothing(shared, monkeypatch):
    held = shared.reserve(0.5)

    def fail(books):
        if isinstance(shared._store, SQLiteStore):
            raise sqlite3.OperationalError("disk I/O error")
        raise shared._store._driver.errors.DiskFull("disk I/O error")

    with monkeypatch.context() as patch:
        patch.setattr(SQLBooks, "flush", fail)
        with pytest.raises(FileError, match=r"disk I/O error\): nothing was changed"):
            held.dispatch()
    assert (shared.spent, shared.reserved, held.dispatch()) == (0, 0.5, True)


@pytest.mark.parametrize("away", ["removed", "replaced"])
def test_a_file_that_is_away_is_an_error(file, ledger, away, tmp_path):
    held = ledger.reserve(0.5)
    file.rename(tmp_path / "elsewhere.db")
    if away == "replaced":
        ex.Ledger(total="1 usd", file=file).close()
    with pytest.raises(FileError, match=r"money\.db"):
        held.dispatch()
    with pytest.raises(FileError):
        ledger.reserve(0.1)


@pytest.mark.parametrize(
    ("made", "why"),
    [
        (lambda file: file.write_text("no database at all " * 100), "no ledger, or is damaged"),
        (lambda file: file.touch(), "is empty"),
        (lambda file: executed(file, "CREATE TABLE account (name)"), "another database"),
        (lambda file: file.mkdir(), "is not a file"),
        (lambda file: os.mkfifo(file), "is not a file"),
    ],
)
def test_what_is_no_ledger_is_named(file, made, why):
    made(file)
    with pytest.raises(ArtefactError, match=why):
        ex.Ledger(total="1 usd", file=file)


def test_a_newer_file_is_refused(file, ledger):
    ledger.close()
    executed(file, "PRAGMA user_version = 4")
    with pytest.raises(ArtefactError, match="newer version"):
        ex.Ledger(file=file)


def executed(file, statement):
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute(statement)


@pytest.mark.parametrize("seed", range(4))
def test_a_damaged_file_is_one_clear_error_or_still_keeps_the_promise(file, ledger, seed):
    spend(ledger, range(50))
    ledger.close()
    data, rng = bytearray(file.read_bytes()), random.Random(seed)
    start = rng.randrange(len(data))
    data[start : start + 700] = rng.randbytes(len(data[start : start + 700]))
    file.write_bytes(data[: rng.choice([len(data), len(data) // 2])])
    with pytest.raises((ArtefactError, FileError, OverBudget)) as error:  # it does not forget what was spent
        spend(ex.Ledger(total="1 usd", file=file), range(100, 200))
    assert error.type is OverBudget or "money.db" in str(error.value)


def spend(ledger, keys):
    for i in keys:
        buy(ledger, 0.01, 0.01, key=str(i))


def test_a_folder_without_permission_or_place_is_named(tmp_path):
    (tmp_path / "a-file").touch()
    with pytest.raises((FileError, InputError), match="a-file"):
        ex.Ledger(total="1 usd", file=tmp_path / "a-file" / "money.db")
    with pytest.raises(InputError, match="normal' or 'full"):
        ex.Ledger(total="1 usd", file=tmp_path / "money.db", durability="fast")


@pytest.mark.parametrize(("durability", "synchronous"), [("normal", 1), ("full", 2)])
def test_what_is_to_survive_a_power_failure_waits_for_the_disk(tmp_path, durability, synchronous):
    """SQLite syncs its log at each commit where `synchronous` is 2, and now and then where it is 1."""
    ledger = ex.Ledger(total="1 usd", file=tmp_path / "money.db", durability=durability)

    def latest():
        return ledger._store._connected().execute("PRAGMA synchronous").fetchone()[0]

    held = ledger.reserve(0.1)
    assert latest() == 1  # nothing is sent yet
    held.dispatch()
    assert latest() == synchronous
    held.settle(0.1)
    assert latest() == 1  # else it counts at its maximum
    held = ledger.reserve(0.1)
    held.dispatch()
    held.settle(0.2)  # a disputed bill
    assert latest() == synchronous


# -- child processes ---------------------------------------------------------------------------------------------------


def in_child(call):
    """Return what the call returned, or its error, in a forked process."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        try:
            said = repr(call())
        except BaseException as error:
            said = repr(error)
        os.write(write, said.encode())
        os._exit(0)
    os.close(write)
    os.waitpid(child, 0)
    with os.fdopen(read) as pipe:
        return pipe.read()


def test_a_forked_process_shares_it(shared):
    assert (in_child(lambda: buy(shared, 0.6, 0.6).cost), shared.spent) == ("0.6", 0.6)
    with pytest.raises(OverBudget):
        shared.reserve(0.5)


def test_a_forked_process_cannot_use_a_ledger_in_memory():
    ledger = ex.Ledger(total="1 usd")
    assert "give it a file" in in_child(lambda: ledger.reserve(0.1))
    assert ledger.left == 1


# -- texts ------------------------------------------------------------------------------------------------------------


@EVERY_KIND
def test_an_empty_key_is_a_key(store):
    """An attempt without a key leaves it alone."""
    ledger = ex.Ledger(total="1 usd", store=store)
    sent(ledger, 0.1, key="")
    assert (ledger.reserve(0.1).release(), ledger.reserve(0.1, key="").state) == (True, "dispatched")


@EVERY_KIND
def test_any_text_is_a_key_and_a_name_or_is_refused_everywhere(store):
    name = "‘ä’ %s ? \"'; DROP TABLE hold; -- \U0001f4b8"
    ledger = ex.Ledger(total="1 usd", name=name, store=store)
    key = "".join(random.Random(0).choices(string.printable, k=1000))  # which no database can compress
    sent(ledger, 0.1, key=key, model=name)
    assert [(one.key, one.model) for one in ledger.unsettled()] == [(key, name)]
    sent(ex.Ledger(total="1 usd", name=key.replace("/", "-"), store=store), 0.1, key=key)
    for call in (
        lambda text: ledger.reserve(0.1, key=text),
        lambda text: ledger.reserve(0.1, model=text),
        lambda text: ledger.reconcile(text, 0.1),
        lambda text: ex.Ledger(total="1 usd", name=text, store=store),
    ):
        for wrong in ("a\0b", "a\ud800", "ä" * 501):
            with pytest.raises(InputError, match="is a text of at most 1,000 bytes without NUL"):
                call(wrong)
    assert ledger.spent == 0.1
