"""Deadlines: what runs in time, and what a row returns at its deadline."""

from __future__ import annotations

import heapq
from dataclasses import replace

import numpy as np
import pytest
from made_executors import N, made_logits
from stepping import groups
from test_contract import ROWS, made_policy
from test_engine import checked, inputs, policies
from trace_executor import TraceExecutor

import exeunt as ex
from exeunt.engine import deadlines
from exeunt.engine.engine import Engine
from exeunt.engine.plan import Plan
from exeunt.engine.row_table import RowTable

SECONDS = (1.0,) * 5


@pytest.fixture
def late(trace):
    return policies(trace)["late"]


@pytest.fixture
def made(late):
    """Return what makes an engine under the policy `late`, on the record `times` times over."""
    return lambda times=1, **options: Engine(
        TraceExecutor(np.concatenate([made_logits()] * times)), late, **{"seconds": SECONDS, **options}
    )


def test_a_row_returns_the_prediction_of_its_latest_exit_at_its_deadline(trace, late, made):
    engine = made()
    ticket = engine.submit(inputs(ROWS[:60]), 0.0, deadline=4.0, id=ROWS[:60])
    assert engine.step(0.0, force=True) == []  # exit 0
    assert engine.step(1.0, force=True) == []  # exit 1
    assert engine.seconds_left(1.0) == 0.0  # all its work takes longer than it has
    assert engine.step(3.1) == [ticket]  # one more call would be too late
    answers, exits = ticket.answers, late.route(trace.take(ROWS[:60]))
    cut, left_at = exits > 1, np.minimum(exits, 1)
    assert 0 < cut.sum() < 60
    np.testing.assert_array_equal(answers.expired, cut)
    assert answers.valid.all()
    np.testing.assert_array_equal(answers.exit, left_at)
    shown = late.answer.on(trace.take(ROWS[:60]))  # by exit 1, where the row was cut off
    np.testing.assert_array_equal(answers.label[cut], shown.prediction[cut, 1])
    np.testing.assert_allclose(answers.confidence[cut], shown.scores["max_probability"][cut, 1], atol=1e-5)
    np.testing.assert_array_equal(answers.cost, late.cost.cumulative[left_at])
    assert (engine.rows, groups(engine)) == (0, [])


def test_answered_rows_do_not_wait_for_ever_where_others_are_always_more_urgent(made):
    engine = made()
    for now in range(50):
        engine.submit(inputs(ROWS[:60]), now, deadline=now + 2.0, soft=True, id=ROWS[:60])
        while engine.step(now, force=True):  # gives out what is done, then runs a call
            pass
    assert sum(len(group.rows) for group in groups(engine)) < 2 * engine.rows <= 2 * 180
    assert engine.work[0] == [50, 0, 0, 0, 0]  # answered by exit 0 before there is time for more
    ticket = engine.submit(inputs(ROWS[:1]), 50.0, id=ROWS[:1])  # may take any time
    while not ticket.done:
        engine.step(60.0, force=True)
    assert (engine.rows, groups(engine)) == (0, [])


@pytest.mark.parametrize(("shares", "exit_"), [((0.3, 0, 0, 0.3, 0.4), 0), ((0, 0, 0, 0.5, 0.5), -1)])
def test_the_cost_of_a_row_that_ends_early_is_that_of_what_was_run_for_it(shares, exit_, trace):
    """The policy does not use exits 1 and 2."""
    engine = Engine(TraceExecutor(made_logits()), made_policy(trace, shares))
    ticket = engine.submit(inputs(ROWS[:60]), 0.0, deadline=5.0)
    for now in range(3):
        engine.step(now, force=True)
    assert engine.step(5.0) == [ticket]
    cut = ticket.answers.expired
    assert set(ticket.answers.exit[cut]) == {exit_}
    assert set(ticket.answers.cost[cut]) == {3.0}
    assert set(ticket.answers.cost[~cut]) <= {1.0}
    assert ticket.policies == [""] * 60


def test_a_row_without_output_waits_until_its_deadline(made):
    engine = made()
    ticket = engine.submit(inputs(ROWS[:9]), 0.0, deadline=4.0)
    assert engine.submit(inputs(ROWS[9:12]), 0.0).deadline == np.inf
    engine._deadlines.expire(3.9, 1.0)
    assert engine.rows == 12
    engine._deadlines.expire(4.0, 1.0)
    (found,) = engine.table.take_done()
    assert found is ticket
    assert (ticket.answers.expired & ~ticket.answers.valid & (ticket.answers.label == -1)).all()
    assert ticket.policies == [None] * 9
    (other,) = engine.drain()
    assert (other.answers.valid & ~other.answers.expired).all()


def test_a_row_with_a_first_output_at_the_last_moment_is_answered_in_time(made):
    """The row had no output when there was last time for a call of the longest segment."""
    engine = made(seconds=(0.1, 3.0, 0.1, 0.1, 0.1))
    ticket = engine.submit(inputs(ROWS[:30]), 0.0, deadline=2.0)
    assert engine.step(0.0, force=True) == []
    assert engine.step(0.1, force=True) == [ticket]
    assert (set(ticket.answers.exit), engine.rows) == ({0}, 0)
    assert ticket.answers.expired.any()


def test_few_rows_do_not_end_early_because_a_full_call_takes_long(trace, late, made):
    """It would take until long after their deadline, and nobody is there to fill it."""
    engine = made(2, min_batch=(1,) * 5, seconds=(3.0,) * 5, single_row_seconds=(0.1,) * 5)
    ticket = engine.submit(inputs(ROWS[:5]), 0.0, deadline=2.0, id=ROWS[:5])
    for now in range(5):
        engine.step(0.3 * now)
    checked(ticket, late, trace, ROWS[:5])
    ticket = engine.submit(inputs(ROWS[:5]), 10.0, deadline=12.0, policy="")
    engine.submit(inputs(N + np.arange(64)), 10.0, deadline=11.9)
    engine.step(10.0)
    engine.step(10.1)
    assert ticket.answers.expired.any()
    assert set(ticket.answers.exit) == {0}


def test_rows_that_wait_for_an_output_are_answered_with_their_first_one(made):
    """As profiled, their first call ends after their deadline."""
    engine = made(seconds=(3.0, 0, 0, 0, 0))
    ticket = engine.submit(inputs(ROWS[:30]), 0.0, deadline=2.0)
    engine.step(0.0)
    assert engine.step(1.9, force=True) == [ticket]
    assert ticket.answers.expired.any()
    assert set(ticket.answers.exit) == {0}


def test_late_rows_do_not_wait_to_be_batched_and_others_do(made):
    engine = made()
    engine.submit(inputs(ROWS[:5]), 0.0, deadline=20.0)
    # Five calls, and one that may have begun.
    assert (engine.ready(13.9), engine.ready(14.0)) == (False, True)
    assert engine.seconds_left(13.9) == pytest.approx(0.1)


def test_the_most_urgent_goes_first_whatever_came_before(case, made):
    engine = made(plan=Plan("trace", case.executor().segments, (4,) * 5))
    slow = engine.submit(inputs(ROWS[:4]), 0.0, deadline=99.0)
    fast = engine.submit(inputs(ROWS[4:8]), 0.0, deadline=9.0)
    engine.step(0.0)
    assert engine.table.has_output(np.arange(fast.base, fast.base + 4)).all()
    assert not engine.table.has_output(np.arange(slow.base, slow.base + 4)).any()


def test_late_rows_with_an_output_come_after_those_without(made):
    engine = made()
    with_output = engine.submit(inputs(ROWS[:30]), 0.0, deadline=3.0)
    engine.step(0.0, force=True)
    without_output = engine.submit(inputs(ROWS[30:40]), 0.5, deadline=6.0)
    engine.step(1.5)
    assert engine.executor.calls[-1][0] == 0
    assert (with_output.done, without_output.done) == (False, False)


def test_an_expired_row_does_not_wait_for_a_call_of_others(made):
    engine = made()
    ticket = engine.submit(inputs(ROWS[:30]), 0.0, deadline=2.0)
    engine.step(0.0, force=True)
    other = engine.submit(inputs(ROWS[30:40]), 1.9)
    assert engine.step(2.0, force=True) == [ticket]
    assert (len(engine.executor.calls), other.done) == (1, False)


@pytest.mark.parametrize("deadline", [0.5, 2.0])
def test_a_row_without_output_at_a_soft_deadline_waits_for_one(deadline, made):
    """It passes before the first call, or during it."""
    engine = made(seconds=(3.0, 1, 1, 1, 1))
    ticket = engine.submit(inputs(ROWS[:30]), 0.0, deadline=deadline, soft=True)
    hard = engine.submit(inputs(ROWS[30:35]), 0.0, deadline=deadline)
    assert engine.step(1.0 if deadline < 1 else 0.0, force=True) == [hard] * (deadline < 1)
    if deadline < 1:
        assert not hard.answers.valid.any()
        assert engine.step(1.0, force=True) == []
    assert ticket in [one for _ in range(3) for one in engine.step(4.0, force=True)]
    assert ticket.answers.valid.all()
    assert ticket.answers.expired.any()
    assert (set(ticket.answers.exit), engine.rows) == ({0}, 0)


def test_a_soft_deadline_changes_no_order_until_it_has_passed(late, made):
    """The furthest segment runs first, and then rows without output at their deadline."""
    engine = made(min_batch=(1,) * 5)
    engine.submit(inputs(ROWS[:30]), 0.0, deadline=50.0, soft=True)
    engine.step(0.0)
    late = engine.submit(inputs(ROWS[30:40]), 0.5, deadline=2.5, soft=True)
    for now in (1.0, 2.0, 3.0):
        engine.step(now)
    assert [call[0] for call in engine.executor.calls] == [0, 1, 2, 0]
    assert late in engine.step(4.0)


@pytest.mark.parametrize("beside", [False, True])
def test_an_overdue_row_is_run_without_being_forced(beside, made):
    """Also where others, which may take any time, wait before it."""
    engine = made()
    patient = engine.submit(inputs(ROWS[:1]), 0.0) if beside else None
    ticket = engine.submit(inputs(ROWS[30:31]), 0.0, deadline=1.0, soft=True)
    assert (engine.seconds_left(0.0), engine.ready(0.0)) == (1.0, False)
    now, done = 1.0, []
    while not done and now < 10:
        assert engine.seconds_left(now) == 0.0 or now == 1.0
        done = engine.step(now)
        now += 1.0
    assert done == [ticket]
    assert ticket.answers.valid.all()
    if patient is not None:
        assert (patient.done, engine.seconds_left(now), engine.ready(now)) == (False, None, False)


def test_soft_deadlines_that_have_passed_are_forgotten_with_their_tickets(made):
    """They never stop waiting for an output."""
    engine = made()
    for now in range(50):
        engine.submit(inputs(ROWS[3 * now : 3 * now + 3]), now, deadline=now, soft=True)
        engine.step(now, force=True)
    assert len(engine._deadlines._no_output) <= 2


def test_a_deadline_that_is_no_time_is_refused(made):
    """It would keep those behind it from ever coming."""
    engine = made()
    with pytest.raises(ex.InputError, match="deadline must be a time on the clock of now, got nan"):
        engine.submit(inputs(ROWS[:3]), deadline=float("nan"))
    assert engine.rows == 0


@pytest.mark.parametrize("deadline", [1e9, np.inf])
def test_tickets_that_are_done_are_forgotten_long_before_their_deadlines(deadline, made):
    engine = made()
    waits = [engine.submit(inputs(ROWS[:1], width=5), deadline=deadline - 1) for _ in range(3)]
    for _ in range(300):
        engine.cancel(engine.submit(inputs(ROWS[:1]), deadline=deadline))
    held = {ticket for _, _, ticket in engine._deadlines._next}
    assert held >= set(waits)
    assert len(held) < 100
    assert engine._deadlines.soonest == deadline - 1


def test_urgent_rows_do_not_end_early_because_of_rows_without_a_deadline(trace, late, made):
    """There is always a full call of these to be made, and the others wait to be batched until the last moment."""
    engine = made(5)
    urgent = engine.submit(inputs(ROWS[:20]), 0.0, deadline=9.5, id=ROWS[:20])
    for now in range(15):
        engine.submit(inputs(N + 64 * now + np.arange(64)), now)
        engine.step(now)
    checked(urgent, late, trace, ROWS[:20])


def test_rows_without_a_deadline_are_not_starved_by_urgent_ones(trace, late, made):
    """There are always more of these than can be run, and every call is worth making, as in the server."""
    engine = made(80, min_batch=(1,) * 5)
    executor = engine.executor
    patient = engine.submit(inputs(ROWS[:20]), 0.0, id=ROWS[:20])
    for now in range(100):
        engine.submit(inputs(N + 128 * now + np.arange(128)), now, deadline=now + 6.0)
        ran = len(executor.calls)
        while engine.step(now) and len(executor.calls) == ran:
            pass  # expired rows are given out before the call
        if patient.done:
            break
    checked(patient, late, trace, ROWS[:20])
    assert 15 < now <= 5 * 16


def test_rows_of_one_size_are_not_starved_by_those_of_another(trace, late, made):
    """More come than can be run, and they cannot be joined, as texts of two lengths."""
    engine = made(12, min_batch=(1,) * 5, seconds=None)
    engine.submit(inputs(N + np.arange(128)))
    other = engine.submit(inputs(ROWS[:20], width=5), id=ROWS[:20])
    for i in range(1, 20):
        engine.submit(inputs(N + 128 * i + np.arange(128)))
        engine.step(force=True)
    checked(other, late, trace, ROWS[:20])


def test_what_waits_no_longer_than_it_may_is_not_starved_by_what_comes_after(made):
    """It has no deadline at which its latest output would be its answer."""
    engine = made(9, max_wait_s=1.0)
    tickets = []
    for now in range(30):
        tickets.append(engine.submit(inputs(64 * now + np.arange(64)), now))
        engine.step(now)
    assert [ticket.done for ticket in tickets[:3]] == [True] * 3


@pytest.mark.parametrize("seconds", [SECONDS, (0.1, 0.1, 3.0, 0.1, 0.1)])
def test_rows_that_wait_to_be_batched_until_the_last_moment_still_run_in_full(seconds, trace, late, made):
    engine = made(seconds=seconds)
    executor = engine.executor
    ticket, now = engine.submit(inputs(ROWS[:30]), 0.0, deadline=20.0, id=ROWS[:30]), 0.0
    while not ticket.done:
        ran = len(executor.calls)
        engine.step(now)
        now += 0.01 if len(executor.calls) == ran else seconds[executor.calls[-1][0]]
    assert 15 < now < 20
    checked(ticket, late, trace, ROWS[:30])


def test_deadlines_are_looked_through_each_time_that_they_have_doubled(monkeypatch):
    """And 64 more have come. Not at each ticket, and not so seldom that many that are done are kept."""
    seen = []
    monkeypatch.setattr(deadlines, "heapify", lambda heap: (seen.append(len(heap)), heapq.heapify(heap)))
    table = RowTable()
    made = deadlines.Deadlines(table)
    for deadline in range(1000):
        made.watch(table.admit(1, float(deadline)))
    assert seen == [65, 195, 455, 975]


def test_rows_that_wait_to_be_batched_do_not_end_before_their_deadline(made):
    """With nothing to run there is no call that would end after it."""
    engine = made()
    ticket = engine.submit(inputs(ROWS[:30]), 0.0, deadline=2.0, soft=True)
    assert engine.step(0.0, force=True) == []
    assert engine.step(1.5) == []
    assert engine.step(2.0) == [ticket]


def test_a_row_waits_to_be_batched_as_long_as_it_may(made):
    engine = made(max_wait_s=5.0)
    engine.submit(inputs(ROWS[:1]), 10.0)
    assert engine.seconds_left(10.0) == 5.0
    assert (engine.ready(14.9), engine.ready(15.0)) == (False, True)


def test_the_cost_before_the_first_output_is_in_the_policys_own_terms(trace):
    """Neither asks the first exits, and each has costs of its own."""
    executor = TraceExecutor(made_logits(), segments=((0, 1), (2, 3), (4, 4)))
    one, costs = made_policy(trace, (0, 0, 0, 0.5, 0.5)), np.arange(1.0, 6.0)
    both = {name: replace(one, cost=ex.CostModel(costs * times)) for name, times in (("a", 1.0), ("b", 3.0))}
    engine = Engine(executor, both, seconds=(1.0,) * 3)
    names, parts = "abab", np.split(ROWS[:40], 4)
    given = zip(names, parts, strict=True)
    tickets = [engine.submit(inputs(rows), 0.0, policy=name, deadline=1.5) for name, rows in given]
    engine.step(0.0, force=True)
    engine.step(1.5, force=True)
    for ticket, name in zip(tickets, names, strict=True):
        assert ticket.answers.cost.tolist() == [2.0 if name == "a" else 6.0] * 10
        assert ticket.policies == [name] * 10
        assert not ticket.answers.valid.any()
