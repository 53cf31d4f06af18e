"""Queues: how long their calls take, when they must run, and which of them runs next."""

from __future__ import annotations

import math

import numpy as np
import pytest
from trace_executor import TraceExecutor

from exeunt.engine.batch_scheduler import BatchScheduler
from exeunt.engine.dropping_finished_rows import PolicyRows, RowGroup
from exeunt.engine.plan import Plan
from exeunt.policy import PolicyState

SECONDS, LEAST = (0.8, 0.5, 0.25), (0.1, 0.2, 0.25)


def waiting(piece=8, seconds=SECONDS, least=LEAST, min_batch=None):
    plan = Plan.unmeasured("made", ((0, 0), (1, 1), (2, 2)), piece=piece)
    return BatchScheduler(plan, min_batch, seconds, least)


def push(to, segment, rows, due=math.inf, first=0):
    to.push(segment, None, RowGroup(None, rows, None, np.arange(first, first + rows), []), due)


def queue_of(found, segment):
    (queue,) = (queue for queue in found if queue.segment == segment)
    return queue


@pytest.mark.parametrize("rows", [1, 2, 5, 8, 11])
@pytest.mark.parametrize("segment", [0, 1, 2])
def test_a_call_takes_between_one_row_and_the_planned_size(segment, rows):
    found = waiting()
    push(found, segment, rows)
    line = np.polynomial.Polynomial.fit([1, 8], [LEAST[segment], SECONDS[segment]], 1)  # beyond 8 it goes on
    assert found.call_seconds(queue_of(found, segment)) == pytest.approx(line(rows))


@pytest.mark.parametrize(("piece", "waves", "seconds"), [(8, (12, 12), 0.8), (2, (2,), 0.8), (1, (1,), 0.1)])
def test_the_next_of_several_calls_takes_as_much_as_each_of_them(piece, waves, seconds):
    """Of 24 rows three calls of 8 are made."""
    found = waiting(piece=piece)
    for number, rows in enumerate(waves):
        push(found, 0, rows, first=12 * number)
    assert found.call_seconds(queue_of(found, 0)) == pytest.approx(seconds)


def test_it_must_be_run_so_long_before_it_is_due():
    found = waiting()
    push(found, 1, 8, due=10.0)
    assert found.latest(queue_of(found, 1)) == pytest.approx(10 - 0.5 - 0.25)
    push(found, 1, 8, due=9.0, first=8)  # the most urgent row counts, and one call more
    assert found.latest(queue_of(found, 1)) == pytest.approx(9 - 0.5 - 0.25 - 0.5)
    assert found.soonest == found.latest(queue_of(found, 1))
    push(found, 0, 1)
    assert found.latest(queue_of(found, 0)) == math.inf


@pytest.mark.parametrize("numbers", ["seconds", "least", "min_batch"])
def test_a_number_for_each_segment(numbers):
    with pytest.raises(ValueError, match=r"must be 3 numbers, one for each segment, got 2"):
        waiting(**{numbers: (1, 1)})


def chosen(found, **options):
    given = {"now": 0.0, "force": False, "older_than": None, "table": None}
    return found.choose(**{**given, **options})


def test_of_sixteen_calls_one_is_for_rows_that_may_take_any_time():
    found = waiting(piece=1)
    for call in range(64):
        push(found, 0, 1, due=0.0, first=2 * call)
        push(found, 0, 1, first=2 * call + 1)
        queue = chosen(found, now=1.0)
        assert queue.has_dues == (call % 16 < 15)
        found.take(queue)


def test_of_sixteen_calls_one_is_for_the_row_that_has_waited_longest():
    found = waiting(piece=1)
    push(found, 0, 1, first=0)
    for call in range(48):
        push(found, 2, 1, first=1 + call)  # came further
        queue = chosen(found)
        assert queue.segment == (2 if call % 16 < 15 else 0)
        found.take(queue)
        if queue.segment == 0:
            push(found, 0, 1, first=0)


class Outputs:
    """Stands for a table: which rows have an output, and from when on the others are overdue."""

    def __init__(self, *rows, since=5.0):
        self.rows, self.since = set(rows), since

    def has_fallback(self, rows):
        return self.rows.issuperset(rows.tolist())

    def overdue(self, rows, time):
        return not self.has_fallback(rows) and time >= self.since


def test_rows_that_are_overdue_go_before_what_came_further_and_before_late_rows_that_have_an_output():
    found = waiting(piece=1)
    push(found, 0, 1, first=1)
    push(found, 2, 1, first=0)
    table = Outputs(0, 9)
    assert chosen(found, now=4.9, table=table) is queue_of(found, 2)
    assert chosen(found, now=5.0, table=table) is queue_of(found, 0)
    push(found, 1, 1, due=4.0, first=9)
    assert chosen(found, now=5.0, table=table) is queue_of(found, 0)
    late_too = Outputs(0)  # and without an output
    assert chosen(found, now=5.0, table=late_too) is queue_of(found, 1)


def test_rows_that_are_overdue_do_not_wait_to_be_batched():
    found = waiting(piece=8)
    push(found, 0, 1, first=0)
    assert chosen(found, now=4.9, table=Outputs()) is None
    assert chosen(found, now=5.0, table=Outputs()) is queue_of(found, 0)


def test_what_is_full_goes_before_what_is_hurried_and_that_before_what_is_forced():
    found = waiting(piece=8)
    push(found, 0, 1, first=60)
    assert chosen(found) is None
    assert chosen(found, older_than=60) is None
    assert chosen(found, force=True) is queue_of(found, 0)
    push(found, 1, 1, first=50)
    assert chosen(found, older_than=51) is queue_of(found, 1)
    assert chosen(found, older_than=51, force=True) is queue_of(found, 1)
    push(found, 2, 8, first=70)  # the others wait to be batched
    assert chosen(found) is queue_of(found, 2)
    assert chosen(found, older_than=100, force=True) is queue_of(found, 2)


def test_by_default_calls_take_no_time():
    found = waiting(seconds=None, least=None)
    assert found.seconds == found.single_row_seconds == (0.0,) * 3
    assert waiting(least=None).single_row_seconds == SECONDS


@pytest.mark.parametrize(("first", "rest", "alone"), [(8, 8, True), (7, 9, False), (9, 7, False)])
def test_a_wave_goes_alone_where_it_and_the_rest_are_half_of_a_call_or_more(first, rest, alone):
    """Else they are joined: a call of few rows takes almost as long as one of many."""
    found = waiting(piece=16)
    push(found, 0, first)
    push(found, 0, rest, first=first)
    taken = found.take(queue_of(found, 0))
    rows = sum(len(group.rows) for group in taken)
    assert (len(taken), rows) == ((1, first) if alone else (2, first + rest))


def test_all_states_that_are_half_empty_are_tidied():
    executor, found = TraceExecutor(np.zeros((40, 3, 2))), waiting()
    for first in (0, 20):
        state, _ = executor.start(np.arange(first, first + 20.0)[:, None])
        rows = np.arange(first, first + 5)
        share = PolicyRows(None, None, PolicyState(rows.astype(np.uint64), {}, {}))
        found.push(0, 1, RowGroup(state, 20, np.arange(5), rows, [share]), math.inf)
    found.compact(executor)
    groups = [entry.group for queue in found for entry in queue.heap]
    assert [(group.state_rows, group.places) for group in groups] == [(5, None)] * 2
    assert executor.counts["gather"] == 2
    found.compact(executor)
    assert executor.counts["gather"] == 2
