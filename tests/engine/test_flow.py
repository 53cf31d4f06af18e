"""What the loop asks of the executor: which rows it copies, drops and joins, and under which keys they are decided."""

from __future__ import annotations

import numpy as np
import pytest
from made_executors import N, trace_case
from test_contract import ROWS, SHARES, check, made_policy, patient_policy

from exeunt.engine.flow import Flow, answer
from exeunt.engine.plan import Plan


@pytest.fixture(scope="module")
def case():
    return trace_case()


@pytest.fixture
def policy(case):
    return made_policy(case.trace, SHARES["mixed"])


def test_ties_are_decided_by_the_keys_that_are_given(case):
    policy = patient_policy(case.trace)
    rows = ROWS[::-1]
    assert (policy.route(case.trace.take(rows)) != policy.route(case.trace)).any()
    check(answer(case.executor(), policy, case.inputs(rows), id=rows), policy, case.trace, rows)


def test_a_state_of_which_more_than_half_waits_is_not_copied(case, policy):
    """Of 90 rows 69 wait before segment 1."""
    executor = case.executor()
    flow = Flow(executor, policy)
    flow.push(case.inputs(ROWS[:90]), id=ROWS[:90])
    flow.advance(0, 3)
    flow.shrink()
    assert executor.counts["gather"] == 0


def test_a_state_of_which_half_waits_is_copied(case):
    executor = case.executor()
    exits = made_policy(case.trace, SHARES["mixed"]).route(case.trace)
    rows = np.concatenate([np.flatnonzero(exits == 0)[:10], np.flatnonzero(exits > 0)[:10]])
    flow = Flow(executor, made_policy(case.trace, SHARES["mixed"]))
    flow.push(case.inputs(rows), id=rows)
    flow.advance(0, 3)
    flow.shrink()
    assert executor.counts["gather"] == 1
    ((_, _, (wave,)),) = flow.waiting()
    assert (wave.height, wave.rows, len(wave.slot)) == (10, None, 10)


def test_rows_of_two_sizes_stay_apart_after_a_failure(case, policy):
    batches = [ROWS[:10], ROWS[10:20], ROWS[20:30], ROWS[30:40]]
    executor = case.executor(fails={3: 0, 23: 0})
    flow = Flow(executor, policy)
    for number, rows in enumerate(batches):
        flow.push((case.larger if number > 1 else case.inputs)(rows), id=rows)
    for signature in (3, 5):
        flow.advance(0, signature)
    assert sorted(signature for _, signature, _ in flow.waiting()) == [3, 5]
    flow.drain()
    assert [batch.number for batch in flow.ledger.done if batch.error is not None] == [0, 2]


def test_what_waits_without_rows_of_a_failed_batch_is_still_its_own(case, policy):
    """Rows of one batch are dropped in place after another batch has failed."""
    executor = case.executor(fails={int(ROWS[45]): 0})
    flow = Flow(executor, policy, Plan("trace", executor.segments, (N,) * 5))
    flow.push(case.inputs(ROWS[:40]), id=ROWS[:40])
    flow.advance(0, 3)
    flow.push(case.inputs(ROWS[40:50]), id=ROWS[40:50])
    flow.advance(0, 3)
    flow.drain()
    assert executor.counts["compact"] > 0
    assert executor.counts["gather"] == 0
