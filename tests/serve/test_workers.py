"""Workers of one server: who answers stays, whatever becomes of the others, and all are counted together."""

from __future__ import annotations

import json
import logging
import signal
from collections import Counter
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
from uvicorn.supervisors import multiprocess

from exeunt.serve import recent as recent_module
from exeunt.serve import server
from exeunt.serve.metrics import SHARED_FOLDER, Counts, Metrics
from exeunt.serve.prediction import Answer
from exeunt.serve.recent import Recent
from exeunt.web.server import JsonLines

STARTUP_FAILURE = 3


class Worker:
    """Stands in for a process of uvicorn. `ends`: its exit code, if it ends before it has started."""

    made: ClassVar[list[Worker]] = []
    ends: int | None = None

    def __init__(self, *_):
        self.exitcode, self.pid, self.answered = None, 1000 + len(self.made), []
        self.process = SimpleNamespace(is_alive=lambda: self.exitcode is None)
        answers = {"send": lambda _: None, "poll": lambda _: True, "recv": lambda: self.started}
        self.parent_conn = SimpleNamespace(closed=False, **answers)
        self.started = False
        self.made.append(self)

    def start(self):
        self.exitcode, self.started = self.ends, self.ends is None

    def kill(self):
        self.parent_conn.closed = True
        self.exitcode = -9 if self.exitcode is None else self.exitcode

    def join(self):
        pass


@pytest.fixture
def supervised(monkeypatch, tmp_path):
    """A supervisor of two workers, and a function that lets seconds pass and returns how many were started in them."""
    monkeypatch.setenv(SHARED_FOLDER, str(tmp_path))
    monkeypatch.setattr(server.Multiprocess, "__init__", lambda self, config, sockets: None)
    monkeypatch.setattr(server, "Process", Worker)
    monkeypatch.setattr(Worker, "made", [])
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(server, "time", SimpleNamespace(monotonic=lambda: clock.now))
    made = server._Workers(None, [])
    made.config, made.sockets = SimpleNamespace(timeout_worker_healthcheck=60), None
    made.should_exit = server.threading.Event()
    made.processes = [Worker(), Worker()]
    for worker in made.processes:
        worker.start()

    def passing(seconds):
        before = len(Worker.made)
        for _ in range(int(2 * seconds)):
            clock.now += 0.5
            made.keep_subprocess_alive()
        return len(Worker.made) - before

    return made, passing


@pytest.fixture
def pauses(caplog):
    """The pauses before workers are started again, as they are logged."""
    with caplog.at_level(logging.ERROR, "exeunt.serve"):
        yield lambda: [record.fields["next_start_s"] for record in caplog.records]


def test_a_worker_that_dies_is_replaced_at_once(supervised, caplog):
    made, passing = supervised
    assert passing(3) == 0
    made.processes[1].exitcode = -9
    with caplog.at_level(logging.ERROR, "exeunt.serve"):
        assert passing(5) == 1
    (record,) = caplog.records
    assert record.fields == {"pid": 1001, "exitcode": -9, "next_start_s": 0.0}
    assert [worker.pid for worker in made.processes] == [1000, 1002]
    assert not made.failed


@pytest.mark.parametrize("exitcode", [STARTUP_FAILURE, -9])
def test_while_none_can_start_the_others_go_on_and_it_is_tried_after_pauses_that_grow(
    supervised, monkeypatch, pauses, exitcode
):
    """The run on disk is damaged, or memory is short."""
    made, passing = supervised
    passing(2)
    (healthy, dying) = made.processes
    monkeypatch.setattr(Worker, "ends", exitcode)
    dying.exitcode = -11
    starts = [passing(10) for _ in range(30)]
    assert not made.should_exit.is_set()
    assert made.processes[0] is healthy
    assert pauses()[:8] == [0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0]
    assert set(pauses()[8:]) == {60.0}
    assert starts[0] == 4
    assert sum(starts) + 1 == len(pauses()) <= 12
    monkeypatch.setattr(Worker, "ends", None)  # the run is mended
    assert passing(61) == 1
    assert passing(100) == 0
    made.processes[1].exitcode = 1
    assert passing(2) == 1  # the pause does not stay
    assert not made.failed


@pytest.mark.parametrize("starts", [True, False])
def test_on_sighup_workers_are_replaced_one_after_the_other(supervised, monkeypatch, starts):
    made, passing = supervised
    passing(2)
    made.signal_queue, serving = [signal.SIGHUP], []

    def wait_until_ready(self, *_):
        serving.append([worker.pid for worker in Worker.made if worker.started and worker.exitcode is None])
        return self.started

    monkeypatch.setattr(multiprocess, "Process", Worker)
    monkeypatch.setattr(Worker, "terminate", Worker.kill, raising=False)
    monkeypatch.setattr(Worker, "wait_until_ready", wait_until_ready, raising=False)
    monkeypatch.setattr(Worker, "ends", None if starts else STARTUP_FAILURE)
    made.handle_signals()
    assert serving == ([[1000, 1001, 1002], [1001, 1002, 1003]] if starts else [[1000, 1001]])
    assert [worker.pid for worker in made.processes] == ([1002, 1003] if starts else [1000, 1001])
    assert passing(100) == 0
    assert not made.should_exit.is_set()


def test_workers_that_fail_together_wait_once(supervised, monkeypatch, pauses):
    made, passing = supervised
    made.processes += [Worker(), Worker()]
    for worker in made.processes[2:]:
        worker.start()
    passing(2)
    monkeypatch.setattr(Worker, "ends", STARTUP_FAILURE)
    for worker in made.processes[1:]:
        worker.exitcode = -9
    passing(1.5)
    assert pauses() == [0.0] * 3 + [1.0] * 3


def test_when_no_worker_is_left_and_none_starts_the_server_ends_as_an_error(supervised, monkeypatch):
    made, passing = supervised
    passing(2)
    monkeypatch.setattr(Worker, "ends", STARTUP_FAILURE)
    for worker in made.processes:
        worker.exitcode = -9
    assert passing(0.5) == 2  # they may start
    assert not made.failed
    assert passing(0.5) == 0
    assert made.failed
    assert made.should_exit.is_set()
    assert passing(100) == 0


def test_of_a_worker_that_ended_only_what_it_counted_since_the_start_stays(supervised, tmp_path):
    made, passing = supervised
    passing(1)
    for name in ("1001.recent", "1000.recent", "gauge_livesum_1001.db", "counter_1001.db"):
        (tmp_path / name).touch()
    made.processes[1].exitcode = -9
    passing(1)
    assert {path.name for path in tmp_path.iterdir()} == {"1000.recent", "counter_1001.db"}


def recent(seed, policy="45%", budget=1.5):
    rng = np.random.default_rng(seed)
    counts = Counts(
        requests=int(rng.integers(9)), cost=float(rng.random()), arrived=3,
        own=Counter({"60%": 2}), exits=Counter({("45%", 0): 5, ("45%", 2): seed}), ended_early=Counter({("45%", 0): 1}),
        own_answered=Counter({"60%": 2}), problems=Counter(refused=seed), latencies=Counter({-300: 4, -100: seed}),
    )  # fmt: skip
    return Recent(counts, 10.0 - seed, seed, policy, budget)


def test_workers_are_counted_together(monkeypatch, tmp_path):
    assert recent(1).of_all_workers() == recent(1)  # alone
    monkeypatch.setenv(SHARED_FOLDER, str(tmp_path))

    def told(pid, one):
        monkeypatch.setattr(recent_module.os, "getpid", lambda: pid)
        return one.of_all_workers()

    assert told(1, recent(1)) == recent(1)
    told(2, recent(2, "60%", 2.1))
    found = told(3, recent(3, "35%", 1.2))
    counts = Counts()
    for seed in (1, 2, 3):
        counts.add(recent(seed).counts)
    assert found.counts == counts
    assert (found.elapsed, found.waiting, found.workers) == (9.0, 6, 3)
    assert (found.policy, found.budget_active) == ("35%", 1.2)
    assert told(1, recent(1)) == found  # whoever is asked says the same
    monkeypatch.setattr(recent_module, "mark_process_dead", lambda _: None)
    recent_module.forget_worker(3)
    assert told(2, recent(2, "60%", 2.1)).workers == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1.recent", "2.recent"]


def test_quantiles_of_latencies_are_right_to_a_percent():
    seconds = np.random.default_rng(0).lognormal(-5, 1.5, 999)
    measured = Metrics()
    for one in seconds:
        measured.answered([Answer(label=0, exit=0, cost=1.0, policy="45%")], one)
    counts, _ = measured.last_seconds(1.0)
    exact = 1e3 * np.quantile(seconds, [0.5, 0.95, 0.99], method="inverted_cdf")
    np.testing.assert_allclose([*counts.latency_ms().values()], exact, rtol=0.0051)
    assert counts.latencies.total() == 999
    assert Counts().latency_ms() == {"p50": None, "p95": None, "p99": None}


def test_folders_of_servers_that_were_killed_are_removed(monkeypatch, tmp_path):
    monkeypatch.setattr(server, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    killed = tmp_path / "exeunt-serve-killed"
    for name in ("exeunt-serve-killed", "exeunt-serve-begins", "exeunt-other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "counter_1.db").touch()
    (killed / "lock").touch()
    (tmp_path / "exeunt-other" / "lock").touch()
    kept = {"exeunt-serve-begins", "exeunt-other"}  # one has no lock yet, the other is no server's

    def found():
        return {path.name for path in tmp_path.iterdir()}

    with server._shared_folder() as first:
        assert found() == {*kept, first.rpartition("/")[2]}
        with server._shared_folder() as second:
            assert first != second
            assert found() == {*kept, first.rpartition("/")[2], second.rpartition("/")[2]}
    assert found() == kept


def test_a_start_that_fails_is_a_line_of_the_log_with_its_cause():
    text = "Traceback (most recent call last):\n  File ...\nexeunt.errors.InputError: the run has no policy yet\n"
    record = logging.makeLogRecord({"msg": text, "levelname": "ERROR"})
    line = json.loads(JsonLines().format(record))
    assert line["what"] == "exeunt.errors.InputError: the run has no policy yet"
    assert line["traceback"] == text
