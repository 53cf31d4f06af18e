"""What every executor keeps: answers are those of replay, whatever the batches, the order, the pooling, the plan."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from made_executors import CASES, M, N, keyed
from trace_executor import TraceExecutor

import exeunt as ex
from exeunt.engine.engine import Engine
from exeunt.engine.plan import Plan
from exeunt.policy.calibration import NEVER, Thresholds
from exeunt.policy.ensemble_answer import EnsembleAnswer, LogTerm, Stage
from exeunt.runs.executors import EXECUTORS
from exeunt.runs.runner import Runner
from exeunt.runs.streaming import Batch
from exeunt.score.kinds import ConstantScore, Patience

ROWS = np.arange(N)
# Segments joined or not; all tests use the same few, since what is compiled for them is shared.
SEGMENTS = None, ((0, 1), (2, M - 1)), ((0, 0), (1, 1), (2, M - 2), (M - 1, M - 1))
SLOW = {"onnx, texts": pytest.mark.slow}  # long to export, and both texts and ONNX are among the others


@pytest.fixture(params=[pytest.param(name, marks=SLOW.get(name, ())) for name in CASES], scope="module")
def case(request):
    return CASES[request.param]()


def made_policy(trace, shares, score="margin"):
    """A policy whose thresholds lie half-way between scores: none of these inputs is borderline."""
    left, limits = np.arange(trace.n), []
    for exit_, share in enumerate(shares):
        scores = np.sort(trace.scores[score][left, exit_])[::-1]
        count = round(share * trace.n)
        if exit_ == trace.n_exits - 1 or count == len(left) > 0:
            limit = -np.inf
        else:
            limit = scores[count - 1 : count + 1].mean() if count else np.inf
        limits.append((limit, NEVER if limit == np.inf else -NEVER))
        left = left[trace.scores[score][left, exit_] < limit]
    base = ex.eero(*trace.split()[:2], budget="70%", score=score)
    return ex.Policy(
        name="made", score=base.score, rates=np.array(shares), limits=Thresholds.of(limits), cost=base.cost,
        budget=base.budget, calibration="made", n_calibration=0,
    )  # fmt: skip


def patient_policy(trace):
    """Its score remembers; at exit 1 many inputs share the threshold's score, and half of them leave by their ties."""
    limits = [(NEVER, NEVER), (1.0, 0.5), (1.5, 0.0), (0.5, 0.0), (-NEVER, -NEVER)]
    return replace(made_policy(trace, SHARES["mixed"]), score=Patience(), limits=Thresholds.of(limits))


def pooled_policy(trace):
    """Its answer is the ensemble of all exits so far, including the one at which no row leaves."""
    weights = [(0.0, 1.0), (0.7, 0.6), (0.0, 1.0), (0.9, 0.3), (0.5, 1.2)]
    answer = EnsembleAnswer(tuple(Stage(keep, LogTerm(own)) for keep, own in weights))
    return replace(made_policy(answer.on(trace), SHARES["one exit without rate"]), answer=answer)


def check(answers, policy, trace, rows, segments=None):
    """Against replay: equal but for inputs that are flagged as borderline. `segments`: by default one per exit."""
    test = trace.take(rows)
    exits = policy.route(test)
    test = policy.answer.on(test)
    sure = ~answers.borderline
    assert sure.sum() >= 0.95 * len(rows) - 1
    assert answers.valid.all()
    np.testing.assert_array_equal(answers.exit[sure], exits[sure])
    at = np.flatnonzero(sure), exits[sure]
    np.testing.assert_array_equal(answers.label[sure], test.prediction[at])
    np.testing.assert_allclose(answers.confidence[sure], test.scores["max_probability"][at], atol=1e-5)
    ends = {exit_: last for first, last in segments or () for exit_ in range(first, last + 1)}
    cost = [policy.cost.cumulative[ends.get(exit_, exit_)] for exit_ in answers.exit]
    np.testing.assert_array_equal(answers.cost, cost)
    assert answers.mean_cost == pytest.approx(answers.cost.mean() if len(rows) else 0.0)


def check_all(found, batches, policy, case, failed=(), segments=None):
    """Those of a stream, in any order: batches that `failed` have an error, and all others are right."""
    assert sorted(answers.batch for answers in found) == list(range(len(batches)))
    assert sorted(answers.batch for answers in found if answers.error is not None) == sorted(failed)
    for answers in found:
        if answers.error is None:
            check(answers, policy, case.trace, batches[answers.batch], segments)


SHARES = {
    "mixed": (0.3, 0.2, 0.2, 0.1, 0.2),
    "all at the first": (1.0, 0, 0, 0, 0),
    "none before the last": (0, 0, 0, 0, 1.0),
    "one exit without rate": (0.3, 0.2, 0.2, 0, 0.3),
    "two exits without rate": (0.4, 0, 0.3, 0, 0.3),
    "all gone before the last": (0.5, 0.5, 0, 0, 0),
}


@pytest.mark.parametrize(("shares", "score"), [*((name, "margin") for name in SHARES), ("mixed", "entropy")])
def test_answers_are_those_of_replay(case, shares, score):
    policy = made_policy(case.trace, SHARES[shares], score)
    found = Engine(case.executor(), policy).answer(case.inputs(ROWS), id=ROWS)
    check(found, policy, case.trace, ROWS)
    np.testing.assert_allclose(np.bincount(found.exit, minlength=M) / N, SHARES[shares], atol=0.02)


def test_pooled_answers_are_those_of_replay_whatever_the_plan(case):
    policy, executor = pooled_policy(case.trace), case.executor()
    assert policy.needs.tolist() == [True, True, True, True, True]
    for plan in (None, Plan.unmeasured(executor.name, executor.segments)):
        found = Engine(case.executor(), policy, plan).answer(case.inputs(ROWS), id=ROWS)
        check(found, policy, case.trace, ROWS)


@pytest.mark.parametrize("made", [lambda trace: made_policy(trace, SHARES["mixed"]), pooled_policy])
def test_probabilities_of_all_classes_are_those_of_the_answer(case, made):
    policy = made(case.trace)
    plain = Engine(case.executor(), policy).answer(case.inputs(ROWS), id=ROWS)
    assert plain.probabilities is None
    expected = np.exp(policy.answer.on(case.trace).log_probability)[ROWS, plain.exit]
    found = Engine(case.executor(), policy, probabilities=True).answer(case.inputs(ROWS), id=ROWS)
    np.testing.assert_allclose(found.probabilities, expected, atol=1e-5)
    batches = np.array_split(ROWS, 4)
    runner = Runner(case.executor(), policy, probabilities=True)
    streamed = runner.stream(keyed(case, batches), pool_rows=90)
    for rows, answers in zip(batches, streamed, strict=True):
        np.testing.assert_allclose(answers.probabilities, expected[rows], atol=1e-5)


@pytest.mark.parametrize("size", [0, 1, 65, 97])
def test_any_size_and_order_of_batch(case, size):
    policy = made_policy(case.trace, SHARES["mixed"])
    rows = np.random.default_rng(size).permutation(N)[:size]
    found = Runner(case.executor(), policy)(case.inputs(rows), id=rows)
    check(found, policy, case.trace, rows)
    assert found.n == size


@pytest.mark.parametrize("seed", range(3))
def test_plans_never_change_an_answer(case, seed):
    """Plans at random: pieces of 1 to 90, rows dropped now and then."""
    rng = np.random.default_rng(seed)
    policy = made_policy(case.trace, SHARES["mixed"])
    executor = case.executor(segments=SEGMENTS[seed % 3])
    segments = executor.segments
    sizes, most_alive = (rng.integers(1, 90, len(segments)), rng.integers(0, 64, (len(segments), 3)).tolist())
    plan = Plan(executor.name, segments, tuple(sizes), (1, 8, 64), most_alive)
    runner = Runner(executor, policy, plan)
    check(runner(case.inputs(ROWS), id=ROWS), policy, case.trace, ROWS, segments)
    batches = np.array_split(rng.permutation(N), 7)
    streamed = list(runner.stream(keyed(case, batches), pool_rows=int(rng.integers(1, 70))))
    check_all(streamed, batches, policy, case, segments=segments)


def test_scores_that_remember_see_every_exit(case):
    policy = patient_policy(case.trace)
    exits = policy.route(case.trace)
    assert len(set(exits)) == 4
    found = Engine(case.executor(), policy).answer(case.inputs(ROWS), id=ROWS)
    check(found, policy, case.trace, ROWS)
    assert not found.borderline.any()
    parts = np.array_split(np.random.default_rng(0).permutation(ROWS), 9)
    streamed = list(Runner(case.executor(), policy).stream(keyed(case, parts), pool_rows=50))
    check_all(streamed, parts, policy, case)


@pytest.mark.parametrize(("pool_rows", "ordered"), [(1, True), (16, False), (16, True), (1000, False)])
def test_a_stream_answers_as_batches_alone(case, pool_rows, ordered):
    policy = made_policy(case.trace, SHARES["mixed"])
    batches = [ROWS[:50], ROWS[50:50], ROWS[50:51], ROWS[51:130], ROWS[130:]]
    pairs = iter(keyed(case, batches))
    found = list(Runner(case.executor(), policy).stream(pairs, pool_rows=pool_rows, ordered=ordered))
    if ordered:
        assert [answers.batch for answers in found] == [0, 1, 2, 3, 4]
    check_all(found, batches, policy, case)


def test_inputs_of_two_sizes_in_one_stream(case):
    policy = made_policy(case.trace, SHARES["mixed"])
    batches = np.array_split(ROWS, 8)
    pairs = [Batch((case.larger if i % 2 else case.inputs)(rows), rows) for i, rows in enumerate(batches)]
    for answers in Runner(case.executor(), policy).stream(pairs):
        trace = case.larger_trace if answers.batch % 2 else case.trace
        check(answers, policy, trace, batches[answers.batch])


def as_arrays(inputs):
    values = inputs.values() if hasattr(inputs, "items") else [inputs]
    return [np.asarray(value).copy() for value in values]


def doubles(executor):
    """The recorded executors that an executor is made of."""
    parts = [model.executor for model in getattr(executor, "models", ())]
    inside = [*parts, getattr(executor, "_executor", None)]
    return [one for one in [executor, *inside] if isinstance(one, TraceExecutor)]


def forget(known):
    for one, due in known:
        one.due.update(due)


@pytest.mark.parametrize("segments", SEGMENTS[:2], ids=["alone", "joined"])
def test_running_changes_neither_the_state_nor_the_inputs(case, segments):
    """A call that fails is made again on what it was given, whole or in part."""
    executor = case.executor(segments=segments)
    inputs = case.inputs(ROWS[:24])
    before = as_arrays(inputs)
    state, _ = executor.start(inputs)
    for segment, (first, last) in enumerate(executor.segments):
        wanted = list(range(first, last + 1))
        half = executor.gather([(state, ROWS[6:20])])
        known = [(one, dict(one.due)) for one in doubles(executor)]  # of what is to be run next
        expected, _ = executor.run(segment, state, wanted)
        forget(known)
        part, _ = executor.run(segment, half, wanted)
        forget(known)
        again, after = executor.run(segment, state, wanted)
        for one, two, some in zip(expected, again, part, strict=True):
            np.testing.assert_array_equal(one, two)
            np.testing.assert_allclose(some, one[6:20], atol=1e-5)
        state = after
    for one, two in zip(as_arrays(inputs), before, strict=True):
        np.testing.assert_array_equal(one, two)


def test_a_tuple_is_one_array_for_each_input_of_the_network(case):
    """Never rows, and never keys, which a second input of whole numbers would look like."""
    inputs, executor = case.inputs(ROWS[:3]), case.executor()
    if hasattr(inputs, "items") or executor.name not in EXECUTORS:
        pytest.skip("texts are given by name, or it runs no network")
    state, valid = executor.start((inputs,))
    assert valid.all()
    one, other = (executor.run(0, each, [0])[0] for each in (state, executor.start(inputs)[0]))
    np.testing.assert_array_equal(one, other)
    for wrong in ((inputs, ROWS[:3]), list(inputs)):
        with pytest.raises(ex.InputError, match=rf"takes 1 array\(s\).* got {len(wrong)}"):
            executor.start(wrong)


def test_inputs_that_are_not_finite_are_flagged_and_the_others_answered(case):
    if case.spoil is None:
        pytest.skip("whole numbers are finite")
    policy = made_policy(case.trace, SHARES["all at the first"])
    rows = ROWS[:20]
    found = Runner(case.executor(), policy, probabilities=True)(case.spoil(case.inputs(rows), 7), id=rows)
    assert list(np.flatnonzero(~found.valid)) == [7]
    assert np.flatnonzero(np.isnan(found.probabilities).all(axis=1)).tolist() == [7]
    assert (found.label[7], found.exit[7], found.cost[7]) == (-1, -1, 0.0)
    assert np.isnan(found.confidence[7])
    others = np.delete(rows, 7)
    clean = Runner(case.executor(), policy)(case.inputs(others), id=others)
    np.testing.assert_array_equal(found.label[others], clean.label)
    np.testing.assert_array_equal(found.exit[others], clean.exit)
    alone = Runner(case.executor(), policy)(case.spoil(case.inputs(rows[:1]), 0))
    assert not alone.valid.any()
    assert alone.mean_cost == 0.0


def saturated_policy(trace):
    """Its score is the same for all inputs: ties alone decide, at two exits."""
    limits = [(0.0, 0.6), (NEVER, NEVER), (0.0, 0.3), (NEVER, NEVER), (-NEVER, -NEVER)]
    return replace(made_policy(trace, SHARES["mixed"]), score=ConstantScore(), limits=Thresholds.of(limits))


@pytest.mark.parametrize("made", [patient_policy, saturated_policy])
def test_without_keys_answers_depend_on_no_batch_or_order(case, made):
    runner = Runner(case.executor(), made(case.trace))
    whole = runner(case.inputs(ROWS))
    assert len(set(whole.exit)) > 2
    sure = ~whole.borderline
    assert sure.mean() > 0.95

    def same(found, rows):
        np.testing.assert_array_equal(found.exit[sure[rows]], whole.exit[rows][sure[rows]])
        np.testing.assert_array_equal(found.label[sure[rows]], whole.label[rows][sure[rows]])

    shuffled = np.random.default_rng(0).permutation(N)
    same(runner(case.inputs(shuffled)), shuffled)
    for row in shuffled[:20]:
        same(runner(case.inputs([row])), [row])
    parts = np.array_split(shuffled, 5)
    for rows, found in zip(parts, runner.stream(map(case.inputs, parts), pool_rows=70), strict=True):
        same(found, rows)
