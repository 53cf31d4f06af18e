"""Streams: waiting to be batched within limits, heads left out, ends."""

from __future__ import annotations

import itertools
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
from made_executors import M, N, keyed, made_logits
from stepping import advance, groups
from test_contract import ROWS, SHARES, check, check_all, made_policy, patient_policy
from trace_executor import TraceExecutor

import exeunt as ex
from exeunt.engine.engine import Engine
from exeunt.engine.plan import Plan
from exeunt.policy.calibration import NEVER, Thresholds
from exeunt.policy.ensemble_answer import EnsembleAnswer, LogTerm, Stage
from exeunt.runs.runner import Runner
from exeunt.runs.streaming import Batch, answer_stream
from exeunt.score.confidence import NamedScore
from exeunt.score.kinds import Patience

# -- what is run -------------------------------------------------------------------------------------------


def test_heads_of_exits_without_rate_are_not_run(case):
    executor = case.executor(segments=((0, 1), (2, 2), (3, 4)))
    policy = made_policy(case.trace, SHARES["two exits without rate"])
    Engine(executor, policy).answer(case.inputs(ROWS), id=ROWS)
    assert {wanted for segment, _, wanted in executor.calls if segment == 0} == {(0,)}
    assert {wanted for segment, _, wanted in executor.calls if segment == 2} == {(4,)}


def test_answers_of_ensembles_run_what_own_answers_run_and_cost_the_same(case):
    answer = EnsembleAnswer(tuple(Stage(0.8, LogTerm(0.5)) for _ in range(M)))
    own = made_policy(case.trace, SHARES["mixed"])
    ensemble = replace(made_policy(answer.on(case.trace), SHARES["mixed"]), answer=answer)
    ran, said = [], []
    for policy in (own, ensemble):
        executor = case.executor()
        said.append(Engine(executor, policy).answer(case.inputs(ROWS), id=ROWS))
        ran.append((executor.calls, said[-1].mean_cost))
    assert (said[0].label != said[1].label).any()
    assert ran[0] == ran[1]


def test_nothing_runs_once_all_have_answered(case):
    executor = case.executor()
    Engine(executor, made_policy(case.trace, SHARES["all at the first"])).answer(case.inputs(ROWS))
    assert {segment for segment, _, _ in executor.calls} == {0}
    Engine(executor, made_policy(case.trace, SHARES["mixed"])).answer(case.inputs([]))
    assert {segment for segment, _, _ in executor.calls} == {0}


def test_pieces_are_of_the_planned_size_and_survivors_are_joined(case, policy):
    executor = case.executor()
    plan = Plan("trace", executor.segments, (40,) * 5)
    Engine(executor, policy, plan).answer(case.inputs(ROWS))
    assert [rows for segment, rows, _ in executor.calls if segment == 0] == [40] * 6
    assert all(27 <= rows <= 60 for segment, rows, _ in executor.calls)
    assert sum(rows for segment, rows, _ in executor.calls if segment == 4) == round(0.2 * N)


def test_rows_that_answered_ride_along_where_dropping_does_not_pay(case, policy):
    executor = case.executor()
    plan = Plan("trace", executor.segments, (N,) * 5, sizes=(1,), most_alive=((0,),) * 5)
    Engine(executor, policy, plan).answer(case.inputs(ROWS))
    assert [rows for _, rows, _ in executor.calls] == [N] * 5


def test_no_row_is_run_twice_where_a_state_is_shared_out(case, policy):
    """Of 90, 6 and 6 rows in two calls the first gets 51 of the 90, though dropping never pays."""
    executor = case.executor()
    engine = Engine(executor, policy, Plan("trace", executor.segments, (64,) * 5, (1,), ((0,),) * 5))
    for rows in (ROWS[:90], ROWS[90:96], ROWS[96:102]):
        engine.submit(case.inputs(rows), id=rows)
    engine.drain()
    assert [rows for segment, rows, _ in executor.calls if segment == 0] == [51, 51]


def test_no_row_is_run_twice_where_rows_ride_along(case, policy):
    """Before segment 1 there are 69, 18 and 15 rows in three states; its first call gets 51 of the 69."""
    executor = case.executor()
    plan = Plan("trace", executor.segments, (90, 64, 64, 64, 64), (1,), ((0,),) * 5)
    engine = Engine(executor, policy, plan)
    for rows in (ROWS[:90], ROWS[90:112], ROWS[112:137]):
        engine.submit(case.inputs(rows), id=rows)
        advance(engine, 0)
    engine.drain()
    assert [rows for segment, rows, _ in executor.calls if segment == 1] == [51, 51]


def test_late_stages_are_full_in_a_stream_and_not_without(case, policy):
    batches = keyed(case, np.array_split(ROWS, 24))
    pooled, alone = case.executor(), case.executor()
    list(Runner(pooled, policy).stream(batches, pool_rows=48, max_rows_in_flight=N))
    list(Runner(alone, policy).stream(batches, pool_rows=1))
    for executor, fewest in ((pooled, 40), (alone, 2)):
        late = [rows for segment, rows, _ in executor.calls if segment == 4]
        assert np.mean(late) == pytest.approx(fewest, abs=8)


class TwoInputs(TraceExecutor):
    """Takes two arrays; a row is the number of both together."""

    def start(self, inputs):
        first, second = inputs
        return super().start(first + second[:, None])


@pytest.mark.parametrize("given", [tuple, list])
def test_a_second_input_is_never_taken_for_keys(case, policy, given):
    """Of whole numbers it looks like them. Keys are given with a Batch alone."""
    second = ROWS % 7
    whole = given((case.inputs(ROWS) - second[:, None], second))
    for made, batch in ((policy, whole), (patient_policy(case.trace), Batch(whole, ROWS))):
        (found,) = Runner(TwoInputs(made_logits()), made).stream([batch])
        check(found, made, case.trace, ROWS)


# -- bounds ------------------------------------------------------------------------------------------------


def test_rows_in_flight_are_bounded(case, policy):
    """A stream without end: at no time are more rows taken in and not given out than the bound and one batch."""
    taken = given = most = 0

    def source():
        nonlocal taken
        for rows in itertools.cycle(np.array_split(ROWS, 24)):
            taken += len(rows)
            yield Batch(case.inputs(rows), rows)

    stream = Runner(case.executor(), policy).stream(source(), pool_rows=1000, max_rows_in_flight=60)
    for answers in itertools.islice(stream, 200):
        most = max(most, taken - given)
        given += answers.n
    assert most <= 60 + 10
    stream.close()


def test_states_that_wait_hold_few_answered_rows(case, policy):
    engine = Engine(case.executor(), policy)
    for rows in np.array_split(ROWS, 10):
        engine.submit(case.inputs(rows), id=rows)
        for segment in range(4):
            advance(engine, segment)
            engine.scheduler.compact(engine.executor)
    assert groups(engine)
    assert all(group.state_rows < 2 * len(group.rows) for group in groups(engine))


def test_a_pool_runs_as_soon_as_it_is_full(case):
    """Batches of 5 wait until there are 10 rows, and not for an eleventh."""
    taken = []

    def source():
        for rows in np.split(ROWS[:40], 8):
            taken.append(rows)
            yield Batch(case.inputs(rows), rows)

    executor = case.executor()
    policy = made_policy(case.trace, SHARES["all at the first"])
    stream = Runner(executor, policy).stream(source(), pool_rows=10, max_rows_in_flight=N)
    assert next(stream).batch == 0
    assert len(taken) == 2
    assert len(list(stream)) == 7
    assert [rows for _, rows, _ in executor.calls] == [10] * 4


def test_of_two_full_pools_the_later_segment_is_run_first(case, policy):
    """Batch 0 must be run to make room, by which batch 1 fills the second pool; then batch 2 fills the first one."""
    executor = case.executor()
    exits = policy.route(case.trace)
    stay = np.flatnonzero(exits > 0)
    batches = keyed(case, [np.flatnonzero(exits == 0)[:20], stay[:20], stay[20:100]])
    engine = Engine(executor, policy, min_batch=(70, 15, 1000, 1000, 1000))
    assert len(list(answer_stream(engine, batches, 39))) == 3
    assert [call[:2] for call in executor.calls[:4]] == [(0, 40), (1, 20), (0, 80), (1, 80)]


def test_waiting_ends_in_time_though_no_batch_comes(case, policy):
    go_on = threading.Event()

    def source():
        yield Batch(case.inputs(ROWS[:5]), ROWS[:5])
        assert go_on.wait(30)
        yield Batch(case.inputs(ROWS[5:9]), ROWS[5:9])

    stream = Runner(case.executor(), policy).stream(source(), pool_rows=1000, max_wait_s=0.05)
    began = time.monotonic()
    first = next(stream)
    assert time.monotonic() - began > 0.04
    check(first, policy, case.trace, ROWS[:5])
    go_on.set()
    check(next(stream), policy, case.trace, ROWS[5:9])
    assert list(stream) == []


def test_only_the_batch_that_waited_too_long_goes_on(case, policy):
    """On a clock of the test's own: at each look a second has passed."""
    executor, seconds = case.executor(), itertools.count()
    engine = Engine(executor, policy, min_batch=(1000,) * 5, max_wait_s=3.5)
    batches = [ROWS[:4], ROWS[4:8], ROWS[8:12]]
    found = list(answer_stream(engine, keyed(case, batches), 1000, clock=lambda: next(seconds)))
    check_all(found, batches, policy, case)
    assert executor.calls[0][1] in (4, 8)  # not alone at the first look, nor with all at the end


def test_inputs_near_a_threshold_are_flagged_and_others_are_not(case, policy):
    """Arithmetic that differs from batch to batch by some 1e-7 moves inputs near thresholds alone."""
    close = policy.thresholds[1]
    logits = np.zeros((200, 5, 2), dtype=np.float64)
    logits[:, 1:, 0] = np.log((1 + close) / (1 - close)) + np.linspace(-1e-4, 1e-4, 200)[:, None]
    away = abs(ex.ExitTrace.from_logits(logits, cost=policy.cost).scores["margin"][:, 1] - close)
    limits = [(NEVER, NEVER), (close, 0.0), (NEVER, NEVER), (NEVER, NEVER), (-NEVER, -NEVER)]
    engine = Engine(TraceExecutor(logits, noise=1e-7), replace(policy, limits=Thresholds.of(limits)))
    found = engine.answer(np.column_stack([np.arange(200.0)] * 2), id=np.arange(200))
    assert found.batch == 0
    assert found.borderline[away < 0.9e-5].all()
    assert not found.borderline[away > 1.1e-5].any()
    assert found.n_borderline == found.borderline.sum()


class Silent:
    """A score that does not say whether it remembers, as one may."""

    name = "silent"

    def init(self, n):
        return {}

    def __call__(self, exit_, evidence, memory):
        return evidence["max_probability"], memory


@pytest.mark.parametrize("score", [NamedScore("max_probability"), Patience(), Silent()])
def test_inputs_whose_class_may_change_are_flagged(policy, score):
    """At exit 1 two classes are close to each other. A streak depends on the class there, other answers do not."""
    logits = np.zeros((200, 5, 3), dtype=np.float64)
    logits[:, :, 2] = -1
    logits[:, [0, 2, 3, 4], 1] = 2
    logits[:, 1, 1] = np.linspace(-1e-4, 1e-4, 200)
    gap = abs(ex.ExitTrace.from_logits(logits, cost=policy.cost).scores["margin"][:, 1])
    rows = np.column_stack([np.arange(200.0)] * 2)
    never, always, easy, hard = (NEVER, NEVER), (-NEVER, -NEVER), (-1.0, 0.0), (99.0, 0.0)
    for leaves, limits in (
        (True, [never, always]), (True, [never, easy]), (False, [never, hard]), (False, [never] * 4),
    ):  # fmt: skip
        made = replace(policy, score=score, limits=Thresholds.of(limits + [always] * (5 - len(limits))))
        found = Engine(TraceExecutor(logits), made).answer(rows)
        other = Engine(TraceExecutor(logits, noise=1e-6), made).answer(rows)
        counts = leaves or not isinstance(score, NamedScore)
        assert found.borderline[gap < 0.9e-5].all() == counts
        assert not found.borderline[(gap > 1.1e-5) | (not counts)].any()
        sure = ~found.borderline
        assert (found.label == other.label)[sure].all()
        assert (found.exit == other.exit)[sure].all()
        if leaves:
            assert (found.label != other.label).any()


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


def test_streams_of_nothing(case, policy):
    assert list(Runner(case.executor(), policy).stream([])) == []
    (empty,) = Runner(case.executor(), policy).stream([case.inputs([])])
    assert (empty.n, empty.mean_cost, empty.error) == (0, 0.0, None)


def test_options_that_make_no_sense_are_refused_at_once(case, policy):
    runner = Runner(case.executor(), policy)
    for options in (
        {"pool_rows": 0}, {"pool_rows": 1.5}, {"max_rows_in_flight": 0}, {"max_wait_s": 0}, {"errors": "ignore"},
    ):  # fmt: skip
        with pytest.raises(ex.InputError):
            runner.stream([], **options)
