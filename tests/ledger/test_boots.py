"""Boots of the machine, after which the clock of a file begins anew near 0."""

import sqlite3
from contextlib import closing

import pytest
from made_stores import SECOND, buy

import exeunt as ex
from exeunt.errors import ArtefactError, OverBudget
from exeunt.ledger import sqlite_store

LONG = 10**6
"""Seconds that a machine was up."""


class Machine:
    """Its clock, and the name of its boot; `named`: whether the system names them."""

    def __init__(self, folder, named):
        self.file, self.boot, self.named, self.up = folder / "boot_id", 0, named, LONG * SECOND
        self.write()

    def write(self):
        if self.named:
            self.file.write_text(f"boot-{self.boot}\n")

    def starts_again(self, up=1):
        self.boot, self.up = self.boot + 1, up * SECOND
        self.write()

    def monotonic_ns(self):
        return self.up

    def wait(self, seconds):
        self.up += int(seconds * SECOND)


@pytest.fixture(params=[True, False], ids=["named", "unnamed"])
def machine(request, tmp_path, monkeypatch):
    made = Machine(tmp_path, request.param)
    monkeypatch.setattr(sqlite_store.time, "monotonic_ns", made.monotonic_ns)
    monkeypatch.setattr(sqlite_store, "_BOOT", made.file)
    return made


@pytest.fixture
def ask(tmp_path, machine):
    """Open the ledger, call a function with it, and close it, as short-lived processes do."""

    def ask_it(call):
        ledger = ex.Ledger(rate="36 usd/hour", burst="1 usd", file=tmp_path / "money.db", lease_s=10)
        try:
            return call(ledger)
        finally:
            ledger.close()

    return ask_it


def buys(amount):
    return lambda ledger: buy(ledger, amount, amount)


def left(ledger):
    return ledger.left


def test_after_a_boot_time_goes_on_for_processes_that_open_it_again_and_again(ask, machine):
    ask(buys(1))
    for _ in range(3):
        machine.starts_again()
        assert ask(left) == 0
        with pytest.raises(OverBudget):
            ask(buys(0.05))
        for second in range(1, 5):
            machine.wait(1)
            assert ask(left) == pytest.approx(0.01 * second)
        ask(buys(0.04))
        machine.wait(1000)
        assert ask(left) == 1
        ask(buys(1))


def test_a_boot_allows_no_more_than_the_time_that_has_passed(ask, machine):
    ask(buys(1))
    machine.starts_again(up=LONG + 5)  # it was up for longer than before
    assert ask(left) <= 1
    ask(lambda ledger: buy(ledger, ledger.left, ledger.left))
    for second in range(20):  # and boots are short
        machine.starts_again(up=1)
        assert ask(left) == pytest.approx(0.01 * second)
        machine.wait(1)
        assert ask(left) == pytest.approx(0.01 * (second + 1))


def test_what_is_reserved_comes_back_after_a_boot(ask, machine):
    assert ask(lambda ledger: ledger.reserve(0.5).state) == "reserved"
    machine.starts_again()
    assert ask(lambda ledger: ledger.reserved) == 0.5
    machine.wait(10)
    assert ask(lambda ledger: ledger.reserved) == 0


def test_all_who_have_it_open_in_a_boot_have_one_time(tmp_path, machine, ask):
    ask(buys(1))
    machine.starts_again()
    one, other = (ex.Ledger(file=tmp_path / "money.db") for _ in range(2))
    machine.wait(3)
    assert one.left == other.left == ask(left) == 0.03
    one.close()
    other.close()


def test_the_base_of_the_clock_is_checked(tmp_path, ask, machine):
    ask(buys(1))
    machine.starts_again()
    assert ask(left) == 0
    with closing(sqlite3.connect(tmp_path / "money.db")) as connection, connection:
        connection.execute("UPDATE clock SET base = base + 3600000000000")
    with pytest.raises(ArtefactError, match="the checksum of its clock is wrong"):
        ask(left)
