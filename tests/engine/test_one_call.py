"""What the loop asks of the executor: which rows it copies, drops and joins, and under which keys they are decided."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest
from made_executors import N, made_logits
from stepping import advance, groups
from test_contract import ROWS, SHARES, check, made_policy, patient_policy
from trace_executor import TraceExecutor

import exeunt as ex
from exeunt.engine.engine import Engine
from exeunt.engine.executor import BORDER
from exeunt.engine.plan import Plan
from exeunt.policy.calibration import NEVER, Thresholds
from exeunt.policy.ensemble_answer import OwnAnswer


def sizes(executor, segment):
    """Return how many rows each call of a segment had."""
    return [rows for at, rows, _ in executor.calls if at == segment]


def pushed(case, policy, executor, plan, sizes):
    """Return an engine in which tickets of these sizes wait before the first segment."""
    engine = Engine(executor, policy, plan)
    for rows in np.split(ROWS[: sum(sizes)], np.cumsum(sizes)[:-1]):
        engine.submit(case.inputs(rows), id=rows)
    return engine


NEVER_DROPS = {"sizes": (1,), "most_alive": ((0,),) * 5}


@pytest.mark.parametrize(
    ("waiting", "run"),
    [
        ((32, 32), [32, 32]),  # half a piece is enough for a call
        ((31, 31), [62]),
        ((40, 40), [40, 40]),
        ((64, 20), [84]),
        ((95, 40), [95, 40]),
        ((128, 20), [74, 74]),  # a batch of two pieces is split, and the other one shared out
        ((20, 20, 20, 20, 20), [50, 50]),
        ((48, 20, 60), [48, 80]),
    ],
)
def test_batches_are_joined_and_split_into_even_calls_of_the_planned_size(case, policy, waiting, run):
    executor = case.executor()
    engine = pushed(case, policy, executor, None, waiting)
    advance(engine, 0)
    assert sizes(executor, 0) == run


def test_two_states_for_two_calls_are_run_as_they_are(case, policy):
    """Of 90 and 80 rows 69 and 64 are left."""
    executor = case.executor()
    engine = pushed(case, policy, executor, Plan("trace", executor.segments, (90, 64, 64, 64, 64)), (90, 80))
    advance(engine, 0)
    left = [len(group.rows) for group in groups(engine)]
    assert len(set(left)) == len(left) == 2
    advance(engine, 1)
    assert sizes(executor, 1) == left
    assert executor.counts == {"start": 2, "run": 4, "compact": 2}


def test_a_state_is_made_small_before_it_is_split(case):
    """Its parts are then views of it."""
    policy = made_policy(case.trace, (0, 0, 0, 0.3, 0.7))
    executor = case.executor()
    pushed(case, policy, executor, Plan("trace", executor.segments, (N, N, N, N, 64)), (N,)).drain()
    assert sizes(executor, 4) == [56, 56, 56]
    assert executor.counts == {"start": 1, "run": 7, "compact": 1, "gather": 3}


def test_rows_do_not_ride_along_in_a_state_of_two_pieces(case):
    policy = made_policy(case.trace, (0.8, 0.05, 0.05, 0.05, 0.05))
    executor = case.executor()
    plan = Plan("trace", executor.segments, (N, 160, N, N, N), **NEVER_DROPS)
    pushed(case, policy, executor, plan, (N,)).drain()
    assert (sizes(executor, 0), sizes(executor, 1)) == ([N], [48])


def test_inputs_are_checked_before_they_are_let_in(case, policy):
    def check(inputs):
        checked.append(inputs)
        if len(inputs) == 3:
            raise ex.InputError("three are too many")

    checked: list[np.ndarray] = []
    engine = Engine(case.executor(), policy, check=check)
    two, three = case.inputs(ROWS[:2]), case.inputs(ROWS[:3])
    engine.submit(two)
    with pytest.raises(ex.InputError, match="three are too many"):
        engine.submit(three)
    assert [id(inputs) for inputs in checked] == [id(two), id(three)]
    (ticket,) = engine.drain()
    assert (ticket.answers.n, ticket.answers.probabilities) == (2, None)


def test_nothing_is_copied_where_nobody_leaves(case):
    executor = case.executor()
    pushed(case, made_policy(case.trace, SHARES["none before the last"]), executor, None, (60,)).drain()
    assert executor.counts == {"start": 1, "run": 5}


def test_what_does_not_go_together_is_refused(case, policy):
    other = Plan.unmeasured("trace", ((0, 4),))
    for executor, plan, told in (
        (TraceExecutor(made_logits()[:, :4]), None, r"the policy has 5 exits, the network 4"),
        (case.executor(), other, r"for the segments \(\(0, 4\),\), the network .*: make a plan for these"),
        (case.executor(segments=((0, 3),)), None, "segments must hold 5 exits"),
    ):
        with pytest.raises(ex.InputError, match=told):
            Engine(executor, policy, plan)
    assert Engine(case.executor(), policy).plan == Plan.unmeasured("trace", case.executor().segments)


@pytest.mark.parametrize("refuses", [False, True])
def test_nothing_is_copied_because_of_rows_that_wait_elsewhere_or_nowhere(case, refuses):
    executor = case.executor()
    engine = pushed(case, made_policy(case.trace, SHARES["none before the last"]), executor, None, (64,))
    if refuses:
        engine.refuse(3, ValueError("unreadable"))
        assert engine.table.stale == 0
    else:
        engine.cancel(engine.submit(case.larger(ROWS[64:67])))
        assert engine.table.stale == 3
    while engine.rows:
        engine.step(force=True)
    assert executor.counts["compact"] == executor.counts["gather"] == 0


@dataclass(eq=False)
class Cut(TraceExecutor):
    """Keeps a part of its logits to itself."""

    cut: Callable = list

    def run(self, segment, state, wanted):
        logits, state = super().run(segment, state, wanted)
        return self.cut(logits), state


@pytest.mark.parametrize("cut", [lambda logits: logits[:-1], lambda logits: [one[3:] for one in logits]])
def test_logits_that_do_not_come_or_of_some_rows_alone_are_the_failure_of_the_batch(case, policy, cut):
    with pytest.raises(ex.ExeuntError, match=r"shapes \[.*\] for the exits \[0\] of 60 rows"):
        Engine(Cut(made_logits(), cut=cut), policy).answer(case.inputs(ROWS))


@dataclass(frozen=True)
class Slope:
    """Scores at even distances of a quarter of the border."""

    name: str = "slope"
    remembers: ClassVar[bool] = False

    def init(self, n):
        return {}

    def __call__(self, exit_, evidence, memory):
        return np.arange(len(evidence["margin"])) * BORDER / 4, memory


@dataclass(frozen=True)
class Plain:
    """An answer of one's own: the exit's own, as a dictionary."""

    name: str = "plain"

    def needs(self, exit_):
        return False

    def __call__(self, exit_, evidence, memory):
        return dict(evidence), memory


@pytest.mark.parametrize(("answer", "least"), [(OwnAnswer(), np.exp(-40)), (Plain(), 1e-13)])
def test_probabilities_are_those_that_the_answer_holds(case, policy, answer, least):
    """Log-probabilities end at log 1e-13, probabilities do not."""
    logits = np.broadcast_to([40.0, 0.0], (3, 5, 2))
    made = replace(policy, answer=answer, limits=Thresholds.of([(-NEVER, -NEVER)] * 5))
    found = Engine(TraceExecutor(logits), made, probabilities=True).answer(case.inputs(ROWS[:3]))
    np.testing.assert_allclose(found.probabilities, [[1.0, least]] * 3, rtol=1e-9)


def test_the_border_is_borderline(case, policy):
    limits = Thresholds.of([(0.0, 2.0), (NEVER, NEVER), (NEVER, NEVER), (NEVER, NEVER), (0.0, 0.0)])
    engine = Engine(case.executor(), replace(policy, score=Slope(), limits=limits))
    found = engine.answer(case.inputs(ROWS[:9]))
    assert found.borderline.tolist() == [True] * 5 + [False] * 4
    assert found.exit.tolist() == [4] + [0] * 8


def test_ties_are_decided_by_the_keys_that_are_given(case):
    policy = patient_policy(case.trace)
    rows = ROWS[::-1]
    assert (policy.route(case.trace.take(rows)) != policy.route(case.trace)).any()
    check(Engine(case.executor(), policy).answer(case.inputs(rows), id=rows), policy, case.trace, rows)


@pytest.mark.parametrize(("gone", "wait"), [(9, 10), (10, 10)])
def test_a_state_is_copied_where_no_more_than_half_of_it_waits(case, policy, gone, wait):
    executor, exits = case.executor(), policy.route(case.trace)
    rows = np.concatenate([np.flatnonzero(exits == 0)[:gone], np.flatnonzero(exits > 0)[:wait]])
    engine = Engine(executor, policy)
    engine.submit(case.inputs(rows), id=rows)
    advance(engine, 0)
    engine.scheduler.compact(engine.executor)
    copied = gone >= wait
    assert executor.counts["gather"] == copied
    (group,) = groups(engine)
    size = wait if copied else gone + wait
    assert (group.state_rows, group.places is None, len(group.rows)) == (size, copied, wait)


def test_rows_of_two_sizes_stay_apart_after_a_failure(case, policy):
    batches = [ROWS[:10], ROWS[10:20], ROWS[20:30], ROWS[30:40]]
    executor = case.executor(fails={3: 0, 23: 0})
    engine = Engine(executor, policy)
    for number, rows in enumerate(batches):
        engine.submit((case.larger if number > 1 else case.inputs)(rows), id=rows)
    advance(engine, 0)
    assert sorted(queue.signature for queue in engine.scheduler) == [3, 5]
    assert [ticket.number for ticket in engine.drain() if ticket.error is not None] == [0, 2]


def test_a_call_that_held_one_batch_alone_is_not_made_again(case):
    """Two states of the batch's own are joined without the rows that have answered."""
    policy = made_policy(case.trace, (0.8, 0.05, 0.05, 0.05, 0.05))
    row = int(np.flatnonzero(policy.route(case.trace) > 0)[-1])
    executor = case.executor(fails={row: 1})
    plan = Plan("trace", executor.segments, (N // 2, N, N, N, N), **NEVER_DROPS)
    engine = pushed(case, policy, executor, plan, (N,))
    (ticket,) = engine.drain()
    assert isinstance(ticket.error, RuntimeError)
    assert [kind for kind, _ in executor.failed] == ["run"]


def test_what_waits_without_rows_of_a_failed_batch_is_still_its_own(case, policy):
    """Rows of one batch are dropped in place after another batch has failed."""
    executor = case.executor(fails={int(ROWS[45]): 0})
    engine = Engine(executor, policy, Plan("trace", executor.segments, (N,) * 5))
    engine.submit(case.inputs(ROWS[:40]), id=ROWS[:40])
    advance(engine, 0)
    engine.submit(case.inputs(ROWS[40:50]), id=ROWS[40:50])
    advance(engine, 0)
    engine.drain()
    assert executor.counts["compact"] > 0
    assert executor.counts["gather"] == 0
