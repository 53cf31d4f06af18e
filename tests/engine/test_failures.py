"""Failures: of calls, scores and sources. They cost no other batch its answers, and each is named rightly."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np
import pytest
from made_executors import N, keyed, made_logits
from stepping import advance
from test_contract import ROWS, SHARES, check, check_all, made_policy
from trace_executor import TraceExecutor

import exeunt as ex
from exeunt.engine.engine import Engine
from exeunt.engine.plan import Plan
from exeunt.errors import BatchFailed
from exeunt.runs.runner import Runner
from exeunt.runs.streaming import Batch


@pytest.mark.parametrize("pool_rows", [1, 64])
def test_a_batch_that_fails_costs_no_other_its_answers(case, policy, pool_rows):
    batches = np.array_split(ROWS, 8)
    executor = case.executor(fails={int(batches[3][2]): 0})
    found = []
    with pytest.raises(BatchFailed, match=r"batch 3 .*breaks the executor") as caught:
        iter_into(found, Runner(executor, policy).stream(keyed(case, batches), pool_rows=pool_rows))
    assert caught.value.batch == 3
    assert isinstance(caught.value.__cause__, RuntimeError)
    assert [answers.batch for answers in found][:3] == [0, 1, 2]
    for answers in found:
        check(answers, policy, case.trace, batches[answers.batch])


def iter_into(found, stream):
    """Append as answers come, so that those before an exception are seen."""
    for answers in stream:
        found.append(answers)


def test_failures_can_be_skipped(case, policy):
    batches = np.array_split(ROWS, 8)
    executor = case.executor(fails={int(batches[3][2]): 0, int(batches[6][0]): 0})
    stream = keyed(case, batches)
    stream[1] = Batch(np.zeros((2, 3, 4)), [0, 1])  # of a shape that the network does not take
    found = list(Runner(executor, policy).stream(stream, errors="skip"))
    assert [answers.batch for answers in found] == list(range(8))
    check_all(found, batches, policy, case, failed=[1, 3, 6])
    assert (found[1].n, found[3].n) == (2, 30)
    assert not found[3].valid.any()
    assert (found[3].exit == -1).all()


@dataclass(frozen=True)
class Score:
    """The margin; a user's own scores differ in what they do besides."""

    name: str = "made"
    remembers: ClassVar[bool] = False

    def init(self, n):
        return {}


@dataclass(frozen=True)
class Choosy(Score):
    """It raises for a row whose first class has no chance at exit 2."""

    def __call__(self, exit_, evidence, memory):
        if exit_ == 2 and (evidence.probabilities[:, 0] < 1e-9).any():
            raise ValueError("not this one")
        return evidence["margin"], memory


@pytest.mark.parametrize(
    ("refused", "n"),
    [
        (np.zeros((4, 3, 2)), 4),
        ([np.zeros((4, 3)), np.zeros((4, 2))], 4),
        ({"a": np.zeros((4, 3)), "b": 1}, 4),
        *((nothing, 0) for nothing in ((), {}, (7,), 7)),
    ],
)
def test_a_batch_that_was_not_taken_in_has_its_rows(case, policy, refused, n):
    stream = [Batch(refused), *keyed(case, [ROWS[:5]])]
    found = list(Runner(case.executor(), policy).stream(stream, errors="skip"))
    assert found[0].n == n
    check_all(found, [ROWS[:n], ROWS[:5]], policy, case, failed=[0])


@pytest.mark.parametrize("max_wait_s", [None, 10.0])
def test_an_error_of_the_source_comes_after_the_answers(case, policy, max_wait_s):
    def source():
        yield Batch(case.inputs(ROWS[:5]), ROWS[:5])
        raise OSError("the disk is gone")

    found = []
    with pytest.raises(OSError, match="the disk is gone"):
        iter_into(found, Runner(case.executor(), policy).stream(source(), max_wait_s=max_wait_s))
    check(found[0], policy, case.trace, ROWS[:5])


def test_a_batch_alone_raises_what_the_executor_raised(case, policy):
    runner = Runner(case.executor(fails={4: 0}), policy)
    breaks, axes = (RuntimeError, "breaks the executor"), (ex.InputError, "2 axes")
    for wrong, (error, told) in ((case.inputs(ROWS), breaks), (np.zeros(3), axes)):
        with pytest.raises(error, match=told):
            runner(wrong)
    check(runner(case.inputs(ROWS[5:]), id=ROWS[5:]), policy, case.trace, ROWS[5:])


def test_logits_that_are_not_finite_are_flagged_with_their_cost(case, policy):
    """Also those that are infinite on both sides, which warn of nothing."""
    logits = made_logits().copy()
    exits = policy.route(case.trace)
    late = np.flatnonzero(exits == 4)[:2]
    logits[late[0], 2], logits[late[1], 4, 1] = np.nan, -np.inf
    first = np.flatnonzero(exits < 4)[0]
    logits[first, 0] = [np.inf, -np.inf, 0, 0]
    bad = np.array([first, *late])
    found = Engine(TraceExecutor(logits), policy).answer(case.inputs(ROWS), id=ROWS)
    np.testing.assert_array_equal(np.flatnonzero(~found.valid), np.sort(bad))
    np.testing.assert_array_equal(found.cost[bad], policy.cost.cumulative[[0, 2, 4]])
    np.testing.assert_array_equal(np.delete(found.exit, bad), np.delete(exits, bad))


@pytest.mark.parametrize("poisoned", [[0], [63], [40], [7, 8, 50]])
def test_what_fails_is_found_in_halves(case, policy, poisoned):
    """64 requests of one row each, one call for all."""
    executor = case.executor(fails=dict.fromkeys(poisoned, 0))
    runner = Runner(executor, policy, Plan("trace", executor.segments, (64,) * 5))
    found = list(runner.stream(keyed(case, ROWS[:64, None]), pool_rows=64, errors="skip"))
    check_all(found, ROWS[:64, None], policy, case, failed=poisoned)
    ran = len(executor.failed) + sum(segment == 0 for segment, _, _ in executor.calls)
    assert ran <= 1 + 2 * 6 * len(poisoned)


# -- what one batch may cost another -----------------------------------------------------------------------

SLOW_TO_DROP = {"sizes": (1,), "most_alive": ((0,),) * 5}
"""Of a plan by which rows that have answered are never dropped."""


def streamed(case, policy, batches, fails, **drops):
    """Answer batches that wait for each other before every segment, under a plan of one call for all."""
    executor = case.executor(fails=fails)
    runner = Runner(executor, policy, Plan("trace", executor.segments, (N,) * 5, **drops))
    return list(runner.stream(keyed(case, batches), pool_rows=N, max_rows_in_flight=N, errors="skip"))


def left_after(case, policy, exit_):
    """Return the rows that no exit up to this one answers."""
    return np.flatnonzero(policy.route(case.trace) > exit_)


@pytest.mark.parametrize("drops", [{}, SLOW_TO_DROP])
@pytest.mark.parametrize("segment", range(5))
def test_a_late_failure_is_of_the_batch_that_holds_the_row(case, policy, drops, segment):
    """Rows of all batches lie in one state by then, and those of one are dropped from it in place."""
    row = int(left_after(case, policy, segment - 1)[3])
    batches = np.array_split(ROWS, 8)
    found = streamed(case, policy, batches, {row: segment}, **drops)
    check_all(found, batches, policy, case, failed=[row // 30])


def test_a_failed_batch_keeps_the_cost_of_rows_that_had_answered(case, policy):
    row = int(left_after(case, policy, 1)[3])
    (found,) = streamed(case, policy, [ROWS], {row: 2})
    exits = policy.route(case.trace)
    assert not found.valid.any()
    np.testing.assert_array_equal(found.cost, np.where(exits < 2, policy.cost.cumulative[exits], 0.0))


def test_a_row_that_has_answered_fails_nobody(case, policy):
    """It rides along in the state of another batch."""
    gone = int(np.flatnonzero(policy.route(case.trace) == 0)[0])
    batches = [ROWS[gone : gone + 1], ROWS[gone + 1 :]]
    check_all(streamed(case, policy, batches, {gone: 2}, **SLOW_TO_DROP), batches, policy, case)


def test_a_state_that_cannot_be_made_smaller_while_it_waits_is_kept(case, policy):
    policy = made_policy(case.trace, (0.6, 0.1, 0.1, 0.1, 0.1))
    executor = case.executor(faults={"gather": frozenset(range(99))})
    engine = Engine(executor, policy)
    ticket = engine.submit(case.inputs(ROWS[:60]), id=ROWS[:60])
    advance(engine, 0)
    engine.scheduler.compact(engine.executor)
    assert [kind for kind, _ in executor.failed] == ["gather"]
    engine.drain()
    check(ticket.answers, policy, case.trace, ROWS[:60])


@pytest.mark.parametrize("pool_rows", [1, 64])
def test_a_score_that_raises_costs_no_other_batch_its_answers(case, policy, pool_rows):
    row = int(left_after(case, policy, 3)[3])
    logits = made_logits().copy()
    logits[row, 2] = [-50, 0.1, 0.0, 0.0]
    batches = np.array_split(ROWS, 8)
    failing = next(i for i, rows in enumerate(batches) if row in rows)
    runner = Runner(TraceExecutor(logits), replace(policy, score=Choosy()))
    found = list(runner.stream(keyed(case, batches), pool_rows=pool_rows, errors="skip"))
    check_all(found, batches, policy, case, failed=[failing])
    with pytest.raises(ValueError, match="not this one"):
        runner(case.inputs(ROWS), id=ROWS)


@dataclass(frozen=True)
class Relative(Score):
    """The margin as a share of the largest among the rows, if there are any. `calls`: numbers of rows, call by call."""

    calls: list[int] = field(default_factory=list)

    def __call__(self, exit_, evidence, memory):
        self.calls.append(len(evidence["margin"]))
        return evidence["margin"] / evidence["margin"].max(), memory


@dataclass(frozen=True)
class Forgetful(Score):
    """A score whose memory is not of one value per row after the first exit."""

    remembers: ClassVar[bool] = True

    def __call__(self, exit_, evidence, memory):
        return evidence["margin"], {"rows": 7.0}


def test_no_score_is_asked_about_no_rows(case, policy):
    """The logits of all rows of a batch are not finite. Another batch waits."""
    logits = made_logits().copy()
    logits[20:25, 0] = np.nan
    score = Relative()
    engine = Engine(TraceExecutor(logits), replace(policy, score=score))
    waits, runs = engine.submit(case.larger(ROWS[:20])), engine.submit(case.inputs(ROWS[20:25]))
    advance(engine, 0, 3)
    assert (runs.error, waits.error, waits.left, score.calls) == (None, None, 20, [])
    assert not runs.answers.valid.any()


def test_a_score_that_fails_late_gives_up_the_batches_of_the_call_alone(case, policy):
    """All rows of batch 1 would have answered, and some of batch 2. Another batch waits."""
    logits = made_logits().copy()
    logits[20:25, 0] = [9, 0, 0, 0]
    engine = Engine(TraceExecutor(logits), replace(policy, score=Forgetful()))
    waits = engine.submit(case.larger(ROWS[:20]))
    runs = [engine.submit(case.inputs(rows)) for rows in (ROWS[20:25], ROWS[25:60])]
    advance(engine, 0, 3)
    assert (waits.error, waits.left) == (None, 20)
    assert isinstance(runs[1].error, ex.InputError)
    assert engine.rows == 20
    assert engine.table.take_done() == runs


@dataclass(frozen=True)
class Unfit(Forgetful):
    def init(self, n):
        return {"rows": 7.0}


def test_a_memory_that_goes_wrong_while_nobody_leaves_is_noticed_at_once(case, policy):
    """Later it would break the loop itself, and all batches with it."""
    policy = made_policy(case.trace, SHARES["none before the last"])
    runner = Runner(case.executor(), replace(policy, score=Forgetful()))
    found = list(runner.stream(keyed(case, [ROWS[:9], ROWS[9:20]]), errors="skip"))
    assert [type(answers.error) for answers in found] == [ex.InputError] * 2
    assert "must remember one value per input, 9 here, got 'rows' of shape ()" in str(found[0].error)


def test_a_batch_that_cannot_be_taken_in_is_entered_once(case, policy):
    """Its memory cannot be cut to the rows that are finite."""
    runner = Runner(case.executor(), replace(policy, score=Unfit()))
    (found,) = runner.stream([case.spoil(case.inputs(ROWS[:5]), 2)], errors="skip")
    assert (found.n, found.batch) == (5, 0)
    assert isinstance(found.error, ex.InputError)


# -- calls that are broken off: what is no failure of a call comes out of it --------------------------------


@dataclass
class Interrupted(TraceExecutor):
    """Somebody presses Ctrl-C in the call before segment `at` of the rows."""

    at: int = 2

    def run(self, segment, state, wanted):
        if segment == self.at:
            self.at = -1
            raise KeyboardInterrupt
        return super().run(segment, state, wanted)


@pytest.mark.parametrize("steps", [True, False])
def test_an_interrupted_call_gives_its_tickets_up_and_no_other(case, policy, steps):
    engine = Engine(Interrupted(made_logits()), policy)
    gone = [engine.submit(case.inputs(rows), id=rows) for rows in (ROWS[:20], ROWS[20:50])]
    waits = engine.submit(case.larger(ROWS[60:80]), id=ROWS[60:80])
    if steps:
        advance(engine, 0, 3)
        advance(engine, 1)
    with pytest.raises(KeyboardInterrupt):
        engine.step(flush=gone[1]) if steps else engine.drain()
    done = engine.drain()
    assert set(done) == {*gone, waits}
    assert engine.rows == engine.table.stale == 0
    for ticket in gone:
        assert isinstance(ticket.error, ex.ExeuntError)
        assert str(ticket.error) == "a call was broken off: KeyboardInterrupt()"
    check(waits.answers, policy, case.trace, ROWS[60:80])
