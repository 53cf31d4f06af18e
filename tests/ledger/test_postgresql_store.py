"""Ledgers in PostgreSQL: lost connections, commits of unknown fate, clients that stop, and what is refused."""

import random
import sys
import threading
import time
from contextlib import closing, contextmanager, suppress
from functools import partial

import pytest
from made_stores import buy, made_role, place_of, sent, together

import exeunt as ex
from exeunt.errors import ArtefactError, FileError, InputError, MissingExtra, OverBudget
from exeunt.ledger import postgresql_store
from exeunt.ledger.postgresql_store import PostgreSQLStore
from postgresql_server import name_of, server

SECRET = "s3cr3t-w0rd"


@pytest.fixture
def impatient(monkeypatch):
    """What cannot be opened is not tried again."""
    monkeypatch.setattr(postgresql_store, "_OPENING_S", 0.0)


@pytest.fixture
def place():
    return place_of("postgresql", None)


def opened(place, *, total="1 usd", **options):
    return ex.Ledger(total=total, store=PostgreSQLStore(place, **options))


@pytest.fixture
def ledger(place):
    with closing(opened(place)) as ledger:
        yield ledger


@pytest.fixture
def two(place):
    """Two clients of one ledger."""
    with closing(opened(place)) as one, closing(opened(place)) as other:
        yield one, other


@contextmanager
def committing(driver, commit):
    """Let this take the place of what a connection does to commit."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(driver.Connection, "commit", commit)
        yield


# -- what is lost ------------------------------------------------------------------------------------------------------


def test_a_connection_that_was_ended_is_opened_again(place, ledger):
    held = ledger.reserve(0.5)
    server().end_connections(place)
    assert held.dispatch()
    server().end_connections(place)
    assert ledger.spent == 0.5


def test_a_server_that_restarts_is_waited_for(place, ledger):
    @contextmanager
    def away():
        server().stop()
        starter = threading.Timer(0.3, server().start)
        starter.start()
        yield
        starter.join()

    held = ledger.reserve(0.5)
    with away():
        assert held.dispatch()
    assert ledger.spent == 0.5
    with away():
        other = opened(place)
    assert other.spent == 0.5
    other.close()


def test_a_server_that_stays_away_is_an_error_after_the_stated_time(place):
    ledger = opened(place, wait_s=1)
    held = ledger.reserve(0.5)
    server().stop()
    try:
        began = time.monotonic()
        with pytest.raises(FileError, match=r"could not be reached for 1 s .*: nothing was changed"):
            held.dispatch()
        assert 1 <= time.monotonic() - began < 10
        began = time.monotonic()
        for _ in range(3):  # others do not wait again
            with pytest.raises(FileError, match="could not be reached"):
                held.dispatch()
        assert time.monotonic() - began < 1
        with pytest.raises(FileError, match=r"cannot be opened .*: start the server, or correct the address"):
            opened(place, wait_s=0.3)
    finally:
        server().start()
    assert held.dispatch()
    ledger.close()


@pytest.mark.parametrize("kept", [False, True])
def test_a_commit_of_unknown_fate_takes_effect_once(ledger, kept):
    """Whether the connection is lost before the server keeps it, or after."""
    driver, calls = ledger._store._driver, []
    commit = driver.Connection.commit

    def lost(connection):
        calls.append(connection)
        if len(calls) == 1 and not kept:
            connection.close()
        commit(connection)
        if len(calls) == 1:
            connection.close()
            raise driver.OperationalError("the connection is lost")

    def each(call):
        calls.clear()
        with committing(driver, lost):
            result = call()
        assert len(calls) > 1
        return result

    held = each(lambda: ledger.reserve(0.3))
    assert ledger.reserved == 0.3
    assert each(held.dispatch)
    assert (ledger.reserved, ledger.spent) == (0, 0.3)
    each(lambda: held.settle(0.1))
    assert ledger.spent == 0.1
    with pytest.raises(OverBudget):
        ledger.reserve(1)
    assert (each(lambda: ledger.reserve(0.9)).release(), ledger.left) == (True, 0.9)


def test_where_its_fate_stays_unknown_the_error_says_so(place):
    ledger = opened(place, wait_s=0.0)
    held, driver = ledger.reserve(0.5), ledger._store._driver
    commit = driver.Connection.commit

    def lost(connection):
        commit(connection)
        raise driver.OperationalError("the connection is lost")

    with committing(driver, lost), pytest.raises(FileError, match="was kept or was not; send nothing"):
        held.dispatch()
    assert not held.dispatch()  # it was, so nothing is sent, and it counts
    assert ledger.spent == 0.5
    ledger.close()


@pytest.mark.parametrize("least", [30, pytest.param(1_000, marks=pytest.mark.slow)])
def test_threads_whose_connection_is_ended_at_random_count_each_attempt_once(place, least):
    ledger, other = opened(place, total="1000 usd"), opened(place, total="1000 usd")
    paid, rng, over = [], random.Random(0), threading.Event()

    def spend(one):
        while not over.is_set():
            paid.append(buy(one))  # without a key, so that a second try would show

    def cut():
        deadline, cuts = time.monotonic() + 120, 0
        try:
            while (cuts < 6 or len(paid) < least) and time.monotonic() < deadline:
                time.sleep(rng.uniform(0.01, 0.1))
                server().end_connections(place)
                cuts += 1
        finally:
            over.set()

    together(cut, *[partial(spend, one) for one in (ledger, other) for _ in range(4)])
    assert (ledger.spent, ledger.reserved) == (pytest.approx(0.005 * len(paid)), 0)
    assert len(paid) >= least
    for one in (ledger, other):
        one.close()


# -- several clients ---------------------------------------------------------------------------------------------------


@pytest.fixture
def brief(monkeypatch):
    """The server ends the transaction of a client that stops after a second."""
    monkeypatch.setattr(postgresql_store, "_IDLE_S", 1)


def test_a_client_that_stops_while_it_holds_the_lock_is_not_waited_for(brief, two):
    one, other = two
    one._store._connected().execute(postgresql_store._BEGIN)
    buy(other)
    buy(one)  # it goes on, with another connection
    assert one.spent == 0.01


def test_a_lock_that_is_held_for_long_is_an_error(place, ledger):
    with closing(opened(place, wait_s=0.2)) as other:
        ledger._store._connected().execute(postgresql_store._BEGIN)
        with pytest.raises(FileError, match=r"held by other clients for 0\.2 s: nothing was changed"):
            other.reserve(0.1)
        ledger._store._connected().rollback()
        buy(other)


def test_an_idle_connection_that_the_server_ends_is_opened_again(place, monkeypatch):
    server().sql(f"ALTER DATABASE {name_of(place)} SET idle_session_timeout = '50ms'")
    monkeypatch.setenv("PGCLIENTENCODING", "LATIN1")
    with closing(opened(place)) as ledger:
        time.sleep(0.15)
        assert ledger.reserve(0.1, key="\U0001f4b8").dispatch()
        assert [one.key for one in ledger.unsettled()] == ["\U0001f4b8"]


@pytest.fixture
def weak(place):
    """A database whose settings are weaker than those that a ledger needs."""
    for setting in ("default_transaction_isolation = 'repeatable read'", "synchronous_commit = off"):
        server().sql(f"ALTER DATABASE {name_of(place)} SET {setting}")


def test_settings_of_the_database_do_not_weaken_it(weak, two):
    one, _ = two
    assert one._store._connected().execute("SHOW synchronous_commit").fetchone() == ("on",)
    one._store._connected().rollback()
    bought = []

    def spend(ledger):
        for _ in range(30):
            with suppress(OverBudget):
                bought.append(buy(ledger, 0.02, 0.02))

    together(*(partial(spend, ledger) for ledger in two))
    assert (len(bought), one.left) == (50, 0)


def test_time_is_the_servers(ledger, monkeypatch):
    monkeypatch.setattr(time, "time", lambda: 0.0)
    first, second = (ledger._store.run(lambda _, now: now) for _ in range(2))
    (real,) = server().sql("SELECT extract(epoch FROM clock_timestamp())")[0]
    assert first < second < 1e9 * float(real) < first + 60e9


def test_many_open_it_for_the_first_time_together(place):
    ledgers = together(*[partial(opened, place)] * 8)
    for ledger in ledgers:
        ledger.close()
    assert ledgers[0]._store.shown == f"postgresql://{server().owner}@/{name_of(place)}"


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "error", "why"),
    [
        (f"mysql://me:{SECRET}@host/db", InputError, "or at an address postgresql://user@host/database, got 'mysql'://"),
        (f"postgresql://me:{SECRET}@host:port/db", InputError, "write postgresql://user:password@host:port/database"),
        (f"postgresql://me:a@{SECRET}@host/db", InputError, "special characters of the password as in %40 for @"),
        (f"postgresql://me:a/{SECRET}#?@127.0.0.1:1/db", InputError, "special characters of the password as in %40"),
        (f"postgresql://me:a%2F{SECRET}%23%3F@127.0.0.1:1/db", FileError, "ledger postgresql://me@127"),
        (f"postgresql://me:{SECRET}@127.0.0.1:1/db", FileError,
         r"ledger postgresql://me@127\.0\.0\.1:1/db cannot be opened \(.*refused.*\): start the server, or correct"),
        (f"postgresql://me@nowhere.invalid/db?password={SECRET}&connect_timeout=2", FileError,
         r"ledger postgresql://me@nowhere\.invalid/db cannot be opened"),
        (f"postgresql://me:{SECRET}@127.0.0.1:1/db?sslmode={SECRET}", FileError, "reason that names the password"),
        (f"postgresql://me@127.0.0.1:1/db?password={SECRET}&password=b&sslmode={SECRET}", InputError, "each once"),
        (f"postgresql://me:{SECRET}@host/db?autocommit=true", InputError, "after [?] nothing but options of libpq"),
        (f"postgresql://me:{SECRET}@[fe80::1:port]/db", InputError, "write postgresql://user:password@host:port/database"),
        (f"postgresql://me:{SECRET}@host/d%00b", InputError, "write postgresql://user:password@host:port/database"),
    ],
)  # fmt: skip
def test_wrong_addresses_are_one_clear_line_without_the_password(impatient, address, error, why):
    pytest.importorskip("psycopg")
    with pytest.raises(error, match=why) as raised:
        ex.Ledger(total="1 usd", file=address)
    said = str(raised.value)
    assert SECRET not in said
    assert "\n" not in said


@pytest.mark.parametrize("wait_s", [-1, 1e6, float("nan")])
def test_a_wait_that_cannot_be_kept_is_refused(wait_s):
    why = r"wait_s is a number of seconds from 0 to 86,400, got (-1|1000000|nan)"
    with pytest.raises(InputError, match=why):
        PostgreSQLStore("postgresql://me@host/db", wait_s=wait_s)


def test_a_machine_that_is_gone_is_noticed_while_a_statement_is_under_way(ledger):
    connection = ledger._store._connected()
    assert connection.info.get_parameters()["tcp_user_timeout"] == "11000"  # in ms


def test_the_extra_is_named_where_it_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(MissingExtra, match=r'pip install "\.\[postgres\]" in the clone, or '):
        ex.Ledger(total="1 usd", file=f"postgresql://me:{SECRET}@host/db")


def test_a_database_or_user_that_is_not_there_is_told(place, impatient):
    with pytest.raises(FileError, match=r'cannot be opened .*database "none" does not exist'):
        opened(server().address("none"))
    with pytest.raises(FileError, match=r'cannot be opened .*role "stranger" does not exist'):
        opened(server().address(name_of(place), user="stranger"))


def test_a_user_without_rights_is_told_which_are_needed(place):
    as_clerk = made_role("clerk", place)
    server().sql("REVOKE CREATE ON SCHEMA public FROM PUBLIC", place)
    with pytest.raises(FileError, match=r"permission denied for schema public.*grant CREATE on the schema"):
        opened(as_clerk)
    ledger = opened(place)
    why = r"permission denied for table .*SELECT, INSERT, UPDATE and DELETE on"
    with pytest.raises(FileError, match=why):
        opened(as_clerk)
    tables = "exeunt_account, exeunt_hold, exeunt_client"
    server().sql(f"GRANT SELECT, INSERT, UPDATE, DELETE ON {tables} TO clerk", place)
    with closing(ledger), closing(opened(as_clerk)) as clerk:
        buy(clerk)
        assert ledger.spent == 0.005
    with pytest.raises(FileError, match=r"may not write to the ledger .*read-only"):
        opened(f"{place}&options=-c%20default_transaction_read_only%3Don")


def test_what_is_no_ledger_of_this_version_is_told(place):
    server().sql("CREATE TABLE exeunt_account (name text)", place)
    with pytest.raises(ArtefactError, match=r"the table exeunt_account of .* is none of Exeunt's"):
        opened(place)
    server().sql("COMMENT ON TABLE exeunt_account IS 'Exeunt ledgers, version 4'", place)
    with pytest.raises(ArtefactError, match="written by a newer version"):
        opened(place)
    latin = server().new_database("ENCODING 'LATIN1' TEMPLATE template0")
    with pytest.raises(InputError, match="has the encoding LATIN1, and ledgers need UTF8"):
        opened(latin)


def test_a_table_that_is_lost_is_an_error(place, ledger):
    server().sql("DROP TABLE exeunt_hold", place)
    with pytest.raises(FileError, match=r"cannot be read or written .*nothing was changed"):
        ledger.reserve(0.1)


def test_a_ledger_that_was_emptied_is_told(place, ledger):
    held = sent(ledger, 0.1)
    server().sql("TRUNCATE exeunt_account, exeunt_hold", place)
    for call in (held.settle, lambda: ledger.reserve(0.1), lambda: ledger.spent):
        with pytest.raises(InputError, match="there is no ledger 'ledger' here"):
            call()


def test_clients_that_are_gone_leave_nothing(place):
    opened(place).close()
    server().sql("UPDATE exeunt_client SET time = time - interval '3 days'", place)
    with closing(opened(place)):
        assert server().sql("SELECT count(*) FROM exeunt_client", place) == [(1,)]
