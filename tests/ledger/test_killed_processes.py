"""Processes that spend from one ledger and are killed at random: nothing is over, lost, double, or left reserved."""

import random
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest
from made_stores import place_of
from spending_process import LEASE_S, TOTAL

import exeunt as ex
from postgresql_server import server

SCRIPT = Path(__file__).with_name("spending_process.py")


class Processes:
    """Processes that spend, each with a log of its own."""

    def __init__(self, place, folder, n, threads):
        self.place, self.folder, self.threads, self.started = place, folder, threads, 0
        self.running = [self.start() for _ in range(n)]

    def start(self):
        log, self.started = self.folder / f"{self.started}.log", self.started + 1
        arguments = [SCRIPT, self.place, log, self.started, self.threads]
        with log.with_suffix(".err").open("wb") as errors:
            return subprocess.Popen([sys.executable, *map(str, arguments)], stderr=errors), log

    def kill(self, i):
        """Kill a process that has opened the ledger, and start another."""
        process, log = self.running[i]
        wait_until(lambda: process.poll() is not None or (log.is_file() and log.stat().st_size))
        assert process.poll() is None
        process.kill()
        process.wait()
        self.running[i] = self.start()

    def end(self):
        for process, _ in self.running:
            process.kill()
            process.wait()

    def errors(self):
        """Return what they said that failed."""
        return "".join(file.read_text(encoding="utf-8") for file in self.folder.glob("*.err"))

    def lines(self):
        return [
            line.split()
            for log in self.folder.glob("*.log")
            for line in log.read_text(encoding="utf-8").splitlines()
        ]


def wait_until(happens):
    deadline = time.monotonic() + 60
    while not happens():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def holds_in(place):
    """Return what a ledger keeps of each attempt: its state, maximum and cost, by its key."""
    if isinstance(place, Path):
        with closing(sqlite3.connect(place)) as connection:
            rows = connection.execute("SELECT key, state, maximum, cost FROM hold").fetchall()
    else:
        rows = server().sql("SELECT key, state, maximum, cost FROM exeunt_hold", place)
    return {key: (state, maximum, cost) for key, state, maximum, cost in rows}


def check_kills(kind, folder, n, threads, kills, restarts=0, cuts=0):
    """`restarts`: how often the database is killed, too, and started again. `cuts`: how often, beside each kill, one
    connection is ended, and all at the end.
    """
    rng, total, place = random.Random(0), float(TOTAL.split()[0]), place_of(kind, folder)
    with_file = ex.Ledger(total=TOTAL, file=place)
    processes = Processes(place, folder, n, threads)
    try:
        wait_until(lambda: any("dispatched" in line for line in processes.lines()))
        for i in range(kills):
            for _ in range(cuts):
                time.sleep(rng.uniform(0, 0.1))
                server().end_connections(place, most=1)
            time.sleep(rng.uniform(0, 0.3))
            processes.kill(rng.randrange(n))
            if restarts and i % (kills // restarts) == 1:
                server().restart()
            assert with_file.left >= 0
        if cuts:
            check_going_on(processes, place)
    finally:
        processes.end()
    assert processes.errors() == ""
    time.sleep(LEASE_S)
    assert with_file.reserved == 0

    lines = processes.lines()
    dispatched = Counter(key for what, key, _ in lines if what == "dispatched")
    assert set(dispatched.values()) == {1}  # never twice
    rows = holds_in(place)
    settles = {key: float(cost) for what, key, cost in lines if what == "settles"}
    settled = {key for what, key, _ in lines if what == "settled"}
    assert dispatched.keys() <= rows.keys()  # nothing is lost
    assert all(rows[key] == (3, rows[key][1], round(settles[key] * 1e9)) for key in settled)
    assert all(key in settles for key, (state, *_) in rows.items() if state == 3)
    assert all(state in (1, 2, 3) for state, *_ in rows.values())
    # What the provider bills: a bill that is not known is at most the maximum.
    bill = sum(round(settles[key] * 1e9) if key in settles else rows[key][1] for key in dispatched)
    booked = sum(cost if state == 3 else maximum for state, maximum, cost in rows.values())
    assert bill <= booked <= round(total * 1e9)
    assert with_file.spent == booked / 1e9
    with_file.close()
    return len(rows), booked / 1e9


def check_going_on(processes, place):
    """Check that processes whose connections were all ended go on; those whose money is spent have nothing to do."""
    server().end_connections(place)
    before = len(processes.lines())
    with closing(ex.Ledger(total=TOTAL, file=place)) as ledger:
        wait_until(lambda: len(processes.lines()) > before or ledger.left <= 0.02)


def test_processes_that_are_killed_overspend_and_lose_nothing(tmp_path):
    n, _ = check_kills("file", tmp_path, n=3, threads=8, kills=4)
    assert n > 50


def test_nor_do_they_where_the_database_is_killed_and_connections_are_cut_as_well(tmp_path):
    n, _ = check_kills("postgresql", tmp_path, n=2, threads=4, kills=3, restarts=1, cuts=3)
    assert n > 20


@pytest.mark.slow
def test_connections_are_cut_a_thousand_times(tmp_path):
    n, spent = check_kills("postgresql", tmp_path, n=8, threads=16, kills=100, cuts=10)
    print(n, spent)
    assert n > 2_000


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "restarts"), [("file", 0), ("postgresql", 10)])
def test_eight_processes_of_32_threads_are_killed_a_hundred_times(tmp_path, kind, restarts):
    n, spent = check_kills(kind, tmp_path, n=8, threads=32, kills=100, restarts=restarts)
    assert n > 5_000
    assert spent > 0.95 * float(TOTAL.split()[0])  # the limit was what held them back
