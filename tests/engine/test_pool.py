"""The pool of a stream: how long it waits, in which order it gives out, and when it stops."""

from __future__ import annotations

import itertools
import time
from types import SimpleNamespace

import numpy as np
import pytest
from made_executors import keyed
from test_contract import ROWS, check

from exeunt.engine.engine import Engine
from exeunt.errors import BatchFailed
from exeunt.runs import streaming
from exeunt.runs.runner import Runner
from exeunt.runs.streaming import END, NOTHING, Batch, StreamPool, answer_stream


def rows_by_exit(case, policy):
    """Return the rows that leave at the first exit, and those that go to the last."""
    exits = policy.route(case.trace)
    return np.flatnonzero(exits == 0), np.flatnonzero(exits == 4)


class Scripted:
    """A scripted source that notes how long it may wait."""

    def __init__(self, given):
        self.given, self.waits = iter(given), []

    def next(self, wait_s):
        self.waits.append(wait_s)
        return next(self.given, END)

    def close(self):
        self.closed = True


def test_two_batches_are_read_ahead():
    """One lies in the queue and one waits for its place; a third is not read before one of them is taken."""
    read = []
    reader = streaming.ReadAheadReader(read.append(number) or number for number in range(9))
    assert reader._thread.daemon  # a source that blocks for good does not keep the process from ending
    for taken in range(3):
        deadline = time.monotonic() + 20
        while len(read) < taken + 2:
            assert time.monotonic() < deadline
            time.sleep(0.001)
        time.sleep(0.02)
        assert len(read) == taken + 2
        assert reader.next(20) == taken
    reader.close()


class ScriptedEngine:
    """Batches are numbers of rows; one of several rows is done at the next step, one of a single row when flushed."""

    def __init__(self):
        self.tickets, self.flushed, self.max_wait_s = [], False, None
        self.scheduler = SimpleNamespace(min_batch=(1,))

    def submit(self, rows, now, id=None):  # noqa: A002
        base = sum(ticket.n for ticket in self.tickets)
        self.tickets.append(SimpleNamespace(base=base, n=rows, done=rows > 1, error=None))
        return self.tickets[-1]

    def ready(self, now):
        return False

    def step(self, now, flush=None):
        if flush is not None:
            self.flushed = flush.done = True
            return [flush]
        return [ticket for ticket in self.tickets if ticket.done]


@pytest.mark.parametrize(("rows", "flushed"), [(7, False), (8, True)])
def test_a_batch_falls_behind_others_by_eight_times_the_rows_that_are_held(rows, flushed):
    engine = ScriptedEngine()
    pool = StreamPool(engine, 1, ordered=False)
    for batch in (1, rows):
        pool.take_in(batch, 0.0)
    pool.work(0.0)
    assert engine.flushed == flushed


@pytest.fixture
def answered(case, policy, monkeypatch):
    """Return what answers a scripted source, in place of the thread that reads ahead, on a clock of its own.

    At each look at the clock a second has passed. Returns the source, the executor, and the batches in order.
    """

    def run(given, max_wait_s):
        source, executor, seconds = Scripted(given), case.executor(), itertools.count()
        monkeypatch.setattr(streaming, "ReadAheadReader", lambda batches: source)
        engine = Engine(executor, policy, min_batch=(1000,) * 5, max_wait_s=max_wait_s)
        found = answer_stream(engine, [], 1000, clock=lambda: next(seconds))
        return source, executor, [answers.batch for answers in found]

    return run


def test_the_next_batch_is_awaited_as_long_as_the_oldest_may_wait(case, answered):
    """The clock is looked at three times for a batch and twice for none."""
    first, last = keyed(case, [ROWS[:4], ROWS[4:8]])
    source, _, found = answered([first, NOTHING, last, NOTHING, NOTHING], 10.5)
    assert found == [0, 1]
    # The first batch comes at second 1, so it may wait until 11.5; the source is asked at 0, 3, 5, 8, 10 and 12.
    assert source.waits == [None, 8.5, 6.5, 3.5, 1.5, 0.0]
    assert source.closed


@pytest.mark.parametrize(("wait", "begun"), [(3.0, 4), (3.5, 8)])
def test_a_batch_is_run_in_the_second_in_which_it_has_waited_long_enough(case, answered, wait, begun):
    """Batches come at seconds 1, 6 and 9. The first is looked at at 4 and, with the second one, at 7."""
    first, *others = keyed(case, [ROWS[:4], ROWS[4:8], ROWS[8:12]])
    _, executor, _ = answered([first, NOTHING, *others], wait)
    assert executor.calls[0][1] == begun


def test_the_oldest_batch_is_run_where_waiting_ends(case, answered):
    """Batches of two sizes, which wait apart, come at seconds 1 and 4; that of 4 rows has waited enough at 5."""
    given = [Batch(case.inputs(ROWS[:4]), ROWS[:4]), Batch(case.larger(ROWS[4:7]), ROWS[4:7])]
    _, executor, _ = answered(given, 4.0)
    assert [rows for segment, rows, _ in executor.calls if segment == 0] == [4, 3]


def test_the_oldest_batch_is_run_where_room_is_wanted(case, policy):
    executor, run = case.executor(), []

    def source():
        yield Batch(case.inputs(ROWS[:20]), ROWS[:20])
        yield Batch(case.larger(ROWS[20:38]), ROWS[20:38])
        run.extend(rows for segment, rows, _ in executor.calls if segment == 0)

    list(answer_stream(Engine(executor, policy, min_batch=(1000,) * 5), source(), 30))
    assert run == [20]


def test_answers_come_in_the_order_of_the_batches_or_as_they_are_finished(case, policy):
    """Batch 1 leaves at the first exit, batch 0 at the last."""
    gone, stays = rows_by_exit(case, policy)
    batches = keyed(case, [stays[:5], gone[:5]])
    waits, runner = {"min_batch": (1000,) * 5}, Runner(case.executor(), policy)
    for stream, order in (
        (runner.stream(batches, pool_rows=1000, ordered=True), [0, 1]),
        (runner.stream(batches, pool_rows=1000, ordered=False), [1, 0]),
        (answer_stream(Engine(case.executor(), policy, **waits), batches, 1000), [0, 1]),
    ):
        assert [answers.batch for answers in stream] == order
    # By default a failure is raised, too.
    failing = Engine(case.executor(fails={int(stays[0]): 0}), policy, **waits)
    with pytest.raises(BatchFailed, match="batch 0 of the stream failed: this row breaks the executor"):
        list(answer_stream(failing, batches, 1000))


def test_nothing_more_is_taken_after_a_failure(case, policy):
    taken = []

    def source():
        for rows in itertools.cycle(np.array_split(ROWS, 24)):
            taken.append(len(rows))
            yield Batch(case.inputs(rows), rows)

    stream = Runner(case.executor(fails={35: 0}), policy).stream(source(), pool_rows=1)
    for number in range(3):
        check(next(stream), policy, case.trace, ROWS[10 * number :][:10])
    with pytest.raises(BatchFailed, match="batch 3 "):
        next(stream)
    assert len(taken) == 4


def test_inputs_that_cannot_be_taken_have_as_many_answers_as_rows(case, policy):
    stream = [{"x": np.zeros((4, 2)), "y": 7}, {}, 7, np.zeros((3, 2, 2)), Batch(np.zeros((2, 2)), [1])]
    found = list(Runner(case.executor(), policy).stream(stream, errors="skip"))
    assert [answers.n for answers in found] == [4, 0, 0, 3, 2]
    assert all(answers.error is not None for answers in found)


def test_a_batch_that_cannot_be_joined_is_not_left_behind_for_ever(case, policy):
    """Its size is its own; others are given out as they are done, and the table holds all rows since."""
    engine = Engine(case.executor(), policy, min_batch=(8,) * 5)
    shown = []

    def source():
        yield Batch(case.larger(ROWS[:1]), ROWS[:1])
        for number in range(300):
            shown.append(len(engine.table._entries))
            rows = 1 + (8 * number + np.arange(8)) % (len(ROWS) - 1)
            yield Batch(case.inputs(rows), rows)

    found = [answers.batch for answers in answer_stream(engine, source(), 128, ordered=False)]
    assert sorted(found) == list(range(301))
    assert 100 < found.index(0) < 150
    assert max(shown) == shown[-1] <= 2048
