"""A cascade of executors: which inputs are prepared, and when; which rows are joined."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from made_executors import FIRST, M, keyed, made_logits, made_network_policy, trace_case
from trace_executor import TraceExecutor

import exeunt as ex
from exeunt.engine.cascade_executor import CascadeExecutor, CascadeModel
from exeunt.engine.engine import Engine
from exeunt.engine.executor import SelectedExits
from exeunt.engine.plan import Plan
from exeunt.policy.calibration import Thresholds
from exeunt.runs.runner import Runner


def cascaded(*ways, first=FIRST):
    """A cascade of two models, whose inputs are made in these ways; if there is one, in that of the second."""
    models = [TraceExecutor(made_logits()[:, :first]), TraceExecutor(made_logits()[:, first:])]
    ways = ways if len(ways) > 1 else (lambda raw: raw, *ways)
    return CascadeExecutor([CascadeModel(one, way) for one, way in zip(models, ways, strict=True)])


def calls(executor):
    """Return how many calls each model had; none of them may have failed."""
    models = [model.executor for model in executor.models]
    assert not any(one.failed for one in models)
    return [len(one.calls) for one in models]


def test_only_what_reaches_a_model_is_prepared_for_it():
    case, prepared = trace_case(), []

    def prepare(raw):
        prepared.extend(raw[:, 0].astype(int).tolist())
        return raw

    policy = made_network_policy(case.trace)
    rows = np.arange(200)
    answers = Runner(cascaded(prepare), policy)(case.inputs(rows), id=rows)
    assert sorted(prepared) == np.flatnonzero(answers.exit >= FIRST).tolist()
    assert 0 < len(prepared) < 200


def test_rows_of_two_sizes_of_a_models_inputs_are_not_joined():
    """As texts: each call pads to its longest. The double refuses to join rows of two widths."""
    case = trace_case()
    policy = made_network_policy(case.trace)
    executor = cascaded(lambda raw: np.repeat(raw[:, :1], 2 + int(raw[0, 0]) // 8 % 3, axis=1))
    stream = Runner(executor, policy).stream(keyed(case, np.array_split(np.arange(240), 30)), pool_rows=40)
    found = np.concatenate([answers.exit for answers in stream])
    np.testing.assert_array_equal(found, policy.route(case.trace))


@pytest.mark.parametrize("images", [False, True])
def test_raw_inputs_of_two_sizes_are_joined_where_they_are_images(images):
    """The first model makes one size of all. Arrays of numbers are not joined, since the second takes them as they
    are, and each call of rows of two sizes would fail.
    """
    case = trace_case()
    policy = made_network_policy(case.trace)

    def numbers(raw):
        if not images:
            return raw
        return np.array([image[0, 0, 0] for image in raw], dtype=float)[:, None].repeat(2, axis=1)

    executor = cascaded(lambda raw: numbers(raw)[:, :1].repeat(2, axis=1), numbers)

    def given(rows, size):
        if not images:
            return (case.larger if size else case.inputs)(rows)
        return np.broadcast_to(rows.astype(np.uint8)[:, None, None, None], (len(rows), 2 + size, 3, 3))

    engine = Engine(executor, policy, Plan("cascade", executor.segments, (240,) * M))
    batches = np.array_split(np.arange(240), 8)
    tickets = [engine.submit(given(rows, size % 2), id=rows) for size, rows in enumerate(batches)]
    engine.drain()
    found = np.concatenate([ticket.answers.exit for ticket in tickets])
    np.testing.assert_array_equal(found, policy.route(case.trace))
    each = 1 if images else 2
    assert calls(executor) == [each * FIRST, each * (M - FIRST)]


def test_what_a_cascade_takes():
    case = trace_case()
    executor = cascaded(lambda raw: raw)
    with pytest.raises(ex.InputError, match="make it with"):
        executor.start(np.float64(3.0))
    texts = np.array(["one", ("two", "three")], dtype=object)
    state, valid = executor.start(texts)
    assert valid.tolist() == [True, True]
    assert executor.gather([(state, np.array([1]))]).raw.tolist() == [("two", "three")]
    assert executor.device == "cpu"
    executors = [TraceExecutor(made_logits(), device=name) for name in ("cpu", "cuda:0", "cpu")]
    mixed = CascadeExecutor([CascadeModel(one, lambda raw: raw) for one in executors])
    assert mixed.device == "cpu and cuda:0"
    assert executor.segments == tuple((i, i) for i in range(M))
    assert case.trace.n_exits == executor.n_exits


def test_rows_that_skip_the_rest_of_a_model_are_joined_with_rows_that_ran_it():
    case, executor = trace_case(), cascaded(lambda raw: raw)
    ran, skipped = (executor.start(case.inputs(rows))[0] for rows in (np.arange(2), np.arange(2, 5)))
    for segment in range(FIRST):
        _, ran = executor.run(segment, ran, [])
    skipped = executor.skip(executor.run(0, skipped, [])[1])
    assert executor.signature(skipped) == executor.signature(ran)
    joined = executor.gather([(skipped, None), (ran, None)])
    (logits,), _ = executor.run(FIRST, joined, [FIRST])
    np.testing.assert_array_equal(logits, made_logits()[[2, 3, 4, 0, 1], FIRST])


def test_raw_inputs_of_two_sizes_are_of_one_kind_where_models_resize_or_tokenise_them():
    executor = cascaded(lambda raw: raw)

    def kind(*shape, dtype):
        return executor.signature(executor.start(np.zeros(shape, dtype=dtype))[0])

    assert kind(2, 3, 3, 1, dtype=np.uint8) == kind(5, 4, 3, 1, dtype=np.uint8) == kind(2, dtype=object)
    assert kind(2, 3, dtype=np.uint8) != kind(2, 4, dtype=np.uint8)
    assert kind(2, 3, 3, 1, dtype=np.float32) != kind(2, 4, 3, 1, dtype=np.float32)


def test_selected_exits_must_be_where_rows_are_dropped():
    executor = TraceExecutor(made_logits(), segments=((0, 0), (1, 1), (2, 4)))
    assert SelectedExits(executor, (0, 1)).segments == ((0, 0), (1, 1))
    assert SelectedExits(TraceExecutor(made_logits(), segments=((0, 4),)), (1, 3)).segments == ((0, 1),)
    with pytest.raises(ex.InputError, match="finer than the exits"):
        SelectedExits(executor, (1, 3))


def test_rows_that_skip_segments_of_a_model_are_joined_with_those_that_do_not():
    """One policy asks all exits, the other one the first alone of the first model. Raw inputs are images."""
    case, first = trace_case(), 3
    executor = cascaded(*[lambda raw: raw[:, 0, 0, :1].astype(float).repeat(2, axis=1)] * 2, first=first)
    whole = made_network_policy(case.trace)
    exits = [0, *range(first, M)]
    rates, limits = np.array(whole.rates)[exits], whole.limits
    limits = Thresholds(limits.score[exits], limits.tie[exits])
    cost = ex.CostModel(whole.cost.cumulative[exits])
    less = replace(whole, rates=rates / rates.sum(), limits=limits, cost=cost)
    plan = Plan("cascade", executor.segments, (240,) * M)
    engine = Engine(executor, {"whole": whole, "less": less}, plan, exits={"less": exits})
    rows = np.arange(240)
    images = rows.astype(np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3), dtype=np.uint8)
    one = engine.submit(images[:100], policy="whole", id=rows[:100])
    other = engine.submit(images[100:], policy="less", id=rows[100:])
    engine.drain()
    np.testing.assert_array_equal(one.answers.exit, whole.route(case.trace)[:100])
    assert set(other.answers.exit) <= set(exits)
    assert calls(executor) == [first, M - first]
