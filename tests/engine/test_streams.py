"""Streams: waiting for company within bounds, failures that cost no other batch its answers, heads left out."""

from __future__ import annotations

import gc
import itertools
import threading
import time
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest
from made_executors import N, made_logits, trace_case
from test_contract import ROWS, SHARES, check, made_policy, patient_policy
from trace_executor import TraceExecutor

import exeunt as ex
from exeunt.calibration import NEVER, Thresholds
from exeunt.engine.flow import Flow, answer
from exeunt.engine.plan import Plan
from exeunt.engine.stream import Bounds, answered
from exeunt.errors import BatchFailed
from exeunt.run.runner import Runner


@pytest.fixture(scope="module")
def case():
    return trace_case()


@pytest.fixture
def policy(case):
    return made_policy(case.trace, SHARES["mixed"])


def pairs(case, batches):
    return [(case.inputs(rows), rows) for rows in batches]


# -- what is run -------------------------------------------------------------------------------------------


def test_heads_of_exits_without_rate_are_not_run(case):
    executor = case.executor(segments=((0, 1), (2, 2), (3, 4)))
    policy = made_policy(case.trace, SHARES["two exits without rate"])
    answer(executor, policy, case.inputs(ROWS), id=ROWS)
    assert {wanted for segment, _, wanted in executor.calls if segment == 0} == {(0,)}
    assert {wanted for segment, _, wanted in executor.calls if segment == 2} == {(4,)}


def test_nothing_runs_once_all_have_answered(case):
    executor = case.executor()
    answer(executor, made_policy(case.trace, SHARES["all at the first"]), case.inputs(ROWS))
    assert {segment for segment, _, _ in executor.calls} == {0}
    answer(executor, made_policy(case.trace, SHARES["mixed"]), case.inputs([]))
    assert {segment for segment, _, _ in executor.calls} == {0}


def test_pieces_are_of_the_planned_size_and_survivors_are_joined(case, policy):
    executor = case.executor()
    plan = Plan("trace", executor.segments, (40,) * 5)
    answer(executor, policy, case.inputs(ROWS), plan=plan)
    assert [rows for segment, rows, _ in executor.calls if segment == 0] == [40] * 6
    assert all(27 <= rows <= 60 for segment, rows, _ in executor.calls)
    assert sum(rows for segment, rows, _ in executor.calls if segment == 4) == round(0.2 * N)


def test_rows_that_answered_ride_along_where_dropping_does_not_pay(case, policy):
    executor = case.executor()
    plan = Plan("trace", executor.segments, (N,) * 5, sizes=(1,), most_alive=((0,),) * 5)
    answer(executor, policy, case.inputs(ROWS), plan=plan)
    assert [rows for _, rows, _ in executor.calls] == [N] * 5


def test_no_row_is_run_twice_where_a_state_is_shared_out(case, policy):
    """Of 90, 6 and 6 rows in two calls the first gets 51 of the 90, though dropping never pays."""
    executor = case.executor()
    flow = Flow(executor, policy, Plan("trace", executor.segments, (64,) * 5, (1,), ((0,),) * 5))
    for rows in (ROWS[:90], ROWS[90:96], ROWS[96:102]):
        flow.push(case.inputs(rows), id=rows)
    flow.drain()
    assert [rows for segment, rows, _ in executor.calls if segment == 0] == [51, 51]


def test_late_stages_are_full_in_a_stream_and_not_without(case, policy):
    batches = pairs(case, np.array_split(ROWS, 24))
    pooled, alone = case.executor(), case.executor()
    list(Runner(pooled, policy).stream(batches, pool_rows=48, max_rows_in_flight=N))
    list(Runner(alone, policy).stream(batches, pool_rows=1))
    for executor, fewest in ((pooled, 40), (alone, 2)):
        late = [rows for segment, rows, _ in executor.calls if segment == 4]
        assert np.mean(late) == pytest.approx(fewest, abs=8)


# -- bounds ------------------------------------------------------------------------------------------------


def test_rows_in_flight_are_bounded(case, policy):
    """A stream without end: at no time are more rows taken in and not given out than the bound and one batch."""
    taken = given = most = 0

    def source():
        nonlocal taken
        for rows in itertools.cycle(np.array_split(ROWS, 24)):
            taken += len(rows)
            yield case.inputs(rows), rows

    stream = Runner(case.executor(), policy).stream(source(), pool_rows=1000, max_rows_in_flight=60)
    for answers in itertools.islice(stream, 200):
        most = max(most, taken - given)
        given += answers.n
    assert most <= 60 + 10
    stream.close()


def test_states_that_wait_hold_few_answered_rows(case, policy):
    flow = Flow(case.executor(), policy)
    for rows in np.array_split(ROWS, 10):
        flow.push(case.inputs(rows), id=rows)
        for segment in range(4):
            flow.advance(segment, 3)
            flow.shrink()
    for _, _, waves in flow.waiting():
        assert all(wave.height < 2 * len(wave.slot) for wave in waves)


def test_waiting_ends_in_time_though_no_batch_comes(case, policy):
    go_on = threading.Event()

    def source():
        yield case.inputs(ROWS[:5]), ROWS[:5]
        assert go_on.wait(30)
        yield case.inputs(ROWS[5:9]), ROWS[5:9]

    stream = Runner(case.executor(), policy).stream(source(), pool_rows=1000, max_wait_s=0.05)
    began = time.monotonic()
    first = next(stream)
    assert 0.04 < time.monotonic() - began < 20
    check(first, policy, case.trace, ROWS[:5])
    go_on.set()
    check(next(stream), policy, case.trace, ROWS[5:9])
    assert list(stream) == []


def test_only_the_batch_that_waited_too_long_goes_on(case, policy):
    """On a clock of the test's own: at each look a second has passed."""
    seconds = itertools.count()
    executor = case.executor()
    flow = Flow(executor, policy)
    batches = pairs(case, [ROWS[:4], ROWS[4:8], ROWS[8:12]])
    bounds = Bounds(pool_rows=(1000,) * 5, max_rows=1000, max_wait_s=3.5)
    found = list(answered(flow, batches, bounds, clock=lambda: next(seconds)))
    assert [answers.batch for answers in found] == [0, 1, 2]
    assert executor.calls[0][1] in (4, 8)  # not alone at the first look, nor with all at the end


# -- failures ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pool_rows", [1, 64])
def test_a_batch_that_fails_costs_no_other_its_answers(case, policy, pool_rows):
    batches = np.array_split(ROWS, 8)
    executor = case.executor(fails={int(batches[3][2]): 0})
    found = []
    with pytest.raises(BatchFailed, match=r"batch 3 .*breaks the executor") as caught:
        found.extend(
            iter_into(found, Runner(executor, policy).stream(pairs(case, batches), pool_rows=pool_rows))
        )
    assert caught.value.batch == 3
    assert isinstance(caught.value.__cause__, RuntimeError)
    assert [answers.batch for answers in found][:3] == [0, 1, 2]
    for answers in found:
        check(answers, policy, case.trace, batches[answers.batch])


def iter_into(found, stream):
    """Append as answers come, so that those before an exception are seen."""
    for answers in stream:
        found.append(answers)
    return ()


def test_failures_can_be_skipped(case, policy):
    batches = np.array_split(ROWS, 8)
    executor = case.executor(fails={int(batches[3][2]): 0, int(batches[6][0]): 0})
    stream = pairs(case, batches)
    stream[1] = (np.zeros((2, 3, 4)), [0, 1])  # of a shape that the network does not take
    found = list(Runner(executor, policy).stream(stream, errors="skip"))
    assert [answers.batch for answers in found] == list(range(8))
    assert [answers.batch for answers in found if answers.error is not None] == [1, 3, 6]
    assert (found[1].n, found[3].n) == (2, 30)
    assert not found[3].valid.any()
    assert (found[3].exit == -1).all()
    for answers in found:
        if answers.error is None:
            check(answers, policy, case.trace, batches[answers.batch])


@dataclass
class Cramped(TraceExecutor):
    """Has no memory left to drop rows in where one of `cramped` is kept."""

    cramped: frozenset[int] = frozenset()

    def compact(self, state, rows):
        if self.cramped & set(state.numbers[rows].tolist()):
            raise MemoryError("no room to drop rows")
        return super().compact(state, rows)


def test_rows_that_cannot_be_dropped_before_a_split_cost_no_other_batch_its_answers(case, policy):
    batches = np.array_split(ROWS, 8)
    executor = Cramped(made_logits(), cramped=frozenset({int(batches[3][-1])}))
    plan = Plan("trace", executor.segments, (4,) * 5)
    found = list(Runner(executor, policy, plan).stream(pairs(case, batches), errors="skip"))
    assert [answers.batch for answers in found] == list(range(8))
    for answers in found:
        if answers.batch != 3:
            check(answers, policy, case.trace, batches[answers.batch])


@dataclass(frozen=True)
class Choosy:
    """A score of somebody's own that raises once it is asked for a row whose first class has no chance at exit 2."""

    name: str = "choosy"
    remembers: ClassVar[bool] = False

    def init(self, n):
        return {}

    def __call__(self, exit_, evidence, memory):
        if exit_ == 2 and (evidence.probabilities[:, 0] < 1e-9).any():
            raise ValueError("not this one")
        return evidence["margin"], memory


def test_a_score_that_raises_costs_no_other_batch_its_answers(case, policy):
    row = int(np.flatnonzero(policy.route(case.trace) == 4)[3])
    logits = made_logits().copy()
    logits[row, 2] = [-50, 0.1, 0.0, 0.0]
    batches = np.array_split(ROWS, 8)
    failing = next(i for i, rows in enumerate(batches) if row in rows)
    runner = Runner(TraceExecutor(logits), replace(policy, score=Choosy()))
    found = list(runner.stream(pairs(case, batches), pool_rows=1, errors="skip"))
    assert [answers.batch for answers in found if answers.error is not None] == [failing]
    for answers in found:
        if answers.error is None:
            check(answers, policy, case.trace, batches[answers.batch])
    with pytest.raises(ValueError, match="not this one"):
        runner(case.inputs(ROWS), id=ROWS)


@pytest.mark.parametrize("max_wait_s", [None, 10.0])
def test_an_error_of_the_source_comes_after_the_answers(case, policy, max_wait_s):
    def source():
        yield case.inputs(ROWS[:5]), ROWS[:5]
        raise OSError("the disk is gone")

    found = []
    with pytest.raises(OSError, match="the disk is gone"):
        iter_into(found, Runner(case.executor(), policy).stream(source(), max_wait_s=max_wait_s))
    check(found[0], policy, case.trace, ROWS[:5])


def test_a_batch_alone_raises_what_the_executor_raised(case, policy):
    runner = Runner(case.executor(fails={4: 0}), policy)
    with pytest.raises(RuntimeError, match="breaks the executor"):
        runner(case.inputs(ROWS))
    with pytest.raises(ex.InputError, match="2 axes"):
        runner(np.zeros(3))
    check(runner(case.inputs(ROWS[5:]), id=ROWS[5:]), policy, case.trace, ROWS[5:])


def test_logits_that_are_not_finite_are_flagged_with_what_was_spent(case, policy):
    logits = made_logits().copy()
    exits = policy.route(case.trace)
    late = np.flatnonzero(exits == 4)[:2]
    logits[late[0], 2], logits[late[1], 4, 1] = np.nan, -np.inf
    found = answer(TraceExecutor(logits), policy, case.inputs(ROWS), id=ROWS)
    np.testing.assert_array_equal(np.flatnonzero(~found.valid), late)
    np.testing.assert_array_equal(found.cost[late], policy.cost.cumulative[[2, 4]])
    np.testing.assert_array_equal(np.delete(found.exit, late), np.delete(exits, late))


def test_inputs_near_a_threshold_are_flagged_and_others_are_not(case, policy):
    """Arithmetic that differs from batch to batch by some 1e-7 moves inputs near thresholds alone."""
    close = policy.thresholds[1]
    logits = np.zeros((200, 5, 2), dtype=np.float64)
    logits[:, 1:, 0] = np.log((1 + close) / (1 - close)) + np.linspace(-1e-4, 1e-4, 200)[:, None]
    trace = ex.ExitTrace.from_logits(
        logits, cost=policy.cost, label=np.zeros(200, dtype=int), id=np.arange(200)
    )
    away = abs(trace.scores["margin"][:, 1] - close)
    found = answer(
        TraceExecutor(logits, noise=1e-7),
        made_limits(policy, close), np.column_stack([np.arange(200.0)] * 2), id=np.arange(200),
    )  # fmt: skip
    assert found.borderline[away < 0.9e-5].all()
    assert not found.borderline[away > 1.1e-5].any()
    assert found.n_borderline == found.borderline.sum()


def made_limits(policy, close):
    limits = [(NEVER, NEVER), (close, 0.0), (NEVER, NEVER), (NEVER, NEVER), (-NEVER, -NEVER)]
    return replace(policy, limits=Thresholds.of(limits))


# -- all of it at once ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(60))
def test_streams_at_random(case, seed):
    """Batches of any number and size, inputs of two sizes, some NaN, some that fail, under any plan and bounds."""
    rng = np.random.default_rng(seed)
    policies = [made_policy(case.trace, shares) for shares in SHARES.values()]
    policy = [*policies, patient_policy(case.trace)][seed % 6]
    fails = {int(row): 0 for row in rng.choice(np.arange(1, N), size=rng.integers(0, 4), replace=False)}
    cuts = np.flatnonzero(rng.random(4) < 0.7).tolist()
    segments = tuple(zip([0, *(cut + 1 for cut in cuts)], [*cuts, 4], strict=True))
    s = len(segments)
    plan = Plan(
        "trace", segments, tuple(rng.integers(1, 90, s)), (1, 8, 64), rng.integers(0, 64, (s, 3)).tolist()
    )
    batches = np.split(rng.permutation(N), np.sort(rng.integers(0, N + 1, rng.integers(1, 30))))
    spoilt = [len(rows) > 0 and rng.random() < 0.3 for rows in batches]
    stream = [
        (case.spoil(inputs, 0) if spoils else inputs, rows)
        for rows, spoils in zip(batches, spoilt, strict=True)
        for inputs in [(case.larger if rng.random() < 0.5 else case.inputs)(rows)]
    ]
    runner = Runner(case.executor(segments=segments, fails=fails), policy, plan)
    bounds = {
        "pool_rows": [None, 1, 7, 64, 1000][rng.integers(5)],
        "max_rows_in_flight": [None, 1, 50][rng.integers(3)],
        "max_wait_s": [None, 0.001, 5.0][rng.integers(3)],
    }
    found = list(runner.stream(stream, ordered=seed % 4 < 2, errors="skip", **bounds))
    numbers = [answers.batch for answers in found]
    assert (numbers if seed % 4 < 2 else sorted(numbers)) == list(range(len(batches)))
    for answers in found:
        rows, spoils = batches[answers.batch], spoilt[answers.batch]
        if answers.error is not None:
            assert set(fails) & set(rows.tolist())
            continue
        answered_ = np.arange(len(rows)) >= spoils  # the first is the spoilt one
        np.testing.assert_array_equal(answers.valid, answered_)
        sure = answered_ & ~answers.borderline
        np.testing.assert_array_equal(answers.exit[sure], policy.route(case.trace)[rows][sure])


# -- ends --------------------------------------------------------------------------------------------------


def test_a_stream_closed_early_ends_its_thread(case, policy):
    def alive():
        return [t for t in threading.enumerate() if t.name == "exeunt-read-ahead"]

    endless = (case.inputs(ROWS[:5]) for _ in itertools.count())
    stream = Runner(case.executor(), policy).stream(endless, pool_rows=1, max_wait_s=5.0)
    next(stream)
    threads = alive()
    assert len(threads) == 1
    stream.close()
    threads[0].join(timeout=20)
    assert not alive()
    gc.collect()


def test_streams_of_nothing(case, policy):
    assert list(Runner(case.executor(), policy).stream([])) == []
    (empty,) = Runner(case.executor(), policy).stream([case.inputs([])])
    assert (empty.n, empty.spend, empty.error) == (0, 0.0, None)


def test_options_that_make_no_sense_are_refused_at_once(case, policy):
    runner = Runner(case.executor(), policy)
    for options in (
        {"pool_rows": 0}, {"pool_rows": 1.5}, {"max_rows_in_flight": 0}, {"max_wait_s": 0}, {"errors": "ignore"},
    ):  # fmt: skip
        with pytest.raises(ex.InputError):
            runner.stream([], **options)
    with pytest.raises(ex.InputError, match="plan is for the segments"):
        Runner(case.executor(), policy, Plan.unmeasured("trace", ((0, 4),)))
