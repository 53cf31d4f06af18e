"""The engine under policies that look once: rows go from the gate straight to their exits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from made_executors import M, N, made_logits, recorded
from trace_executor import TraceExecutor

import exeunt as ex
from exeunt.engine.engine import Engine
from exeunt.engine.executor import OneLookExecutor, SelectedExits
from exeunt.engine.plan import Plan
from exeunt.errors import InputError
from exeunt.score.confidence import BEFORE_EXITS


@pytest.fixture(scope="module")
def trace():
    """The recorded rows, whose gate tells how sure the network will be, with noise."""
    made = recorded(made_logits())
    noise = np.random.default_rng(0).normal(0, 0.2, (N, 2))
    told = (made.scores["margin"].mean(axis=1)[:, None] * [2, -1] + noise).astype(np.float32)
    return replace(made, features={BEFORE_EXITS: told})


@pytest.fixture(scope="module")
def policy(trace):
    fit, calibrate = trace.take(np.arange(120)), trace.take(np.arange(120, N))
    made = ex.one_look(fit, calibrate, budget=3.0)
    assert (made.counts > 0).sum() >= 3
    return made


@pytest.fixture
def recording(trace):
    """The executor of the recorded outputs; its exit 0 is the gate."""
    told = np.pad(trace.features[BEFORE_EXITS], ((0, 0), (0, made_logits().shape[2] - 2)))
    return TraceExecutor(np.concatenate([told[:, None], made_logits()], axis=1))


class TwoColumns(OneLookExecutor):
    """The gate of the recorded outputs has two numbers, where exits have one for each class."""

    def run(self, segment, state, wanted):
        outputs, after = super().run(segment, state, wanted)
        return ([output[:, :2] for output in outputs] if segment == 0 else outputs), after


def inputs(rows):
    return np.column_stack([np.asarray(rows, dtype=float)] * 3)


def test_rows_run_the_stages_to_their_exit_and_its_head_alone(recording, trace, policy):
    engine = Engine(TwoColumns(recording), policy, Plan.unmeasured("trace", recording.segments, piece=N))
    answers = engine.answer(inputs(np.arange(N)), id=trace.id)
    exits = policy.route(trace)
    np.testing.assert_array_equal(answers.exit, exits)
    np.testing.assert_array_equal(answers.label, policy.answers(trace))
    np.testing.assert_allclose(answers.cost, policy.cost.cumulative[exits])
    counts = np.bincount(exits, minlength=M)
    expected = [(0, N, (0,))]
    for exit_ in np.flatnonzero(counts).tolist():
        along = [(segment, int(counts[exit_]), ()) for segment in range(1, exit_ + 1)]
        expected += [*along, (exit_ + 1, int(counts[exit_]), (exit_ + 1,))]
    assert recording.calls == expected
    assert engine.work == ([1, *(counts > 0).astype(int)], [N, *counts])


@pytest.mark.parametrize("piece", [1, 7, 64])
def test_answers_do_not_depend_on_how_inputs_were_batched(recording, trace, policy, piece):
    plan = Plan.unmeasured("trace", recording.segments, piece=piece)
    engine, rng = Engine(TwoColumns(recording), policy, plan), np.random.default_rng(piece)
    parts = np.split(np.arange(N), np.sort(rng.choice(N, 9, replace=False)))
    tickets = {}
    for rows in parts:
        if len(rows):
            tickets[engine.submit(inputs(rows), id=trace.id[rows]).number] = rows
            while engine.ready() and rng.random() < 0.7:
                engine.step()
    engine.drain()
    whole = policy.route(trace)
    engine = Engine(TwoColumns(recording), policy, plan)
    for rows in tickets.values():
        np.testing.assert_array_equal(engine.answer(inputs(rows), id=trace.id[rows]).exit, whole[rows])


def test_a_row_that_fails_on_the_way_takes_its_own_ticket_alone(recording, trace, policy):
    deep = int(np.flatnonzero(policy.route(trace) == M - 1)[0])
    recording.fails = {deep: 1}
    engine = Engine(TwoColumns(recording), policy)
    tickets = [engine.submit(inputs([row]), id=trace.id[[row]]) for row in range(N)]
    engine.drain()
    assert [place for place, ticket in enumerate(tickets) if ticket.error is not None] == [deep]


def test_rows_whose_gate_is_not_finite_have_no_answer(recording, trace, policy):
    recording.logits[3, 0, 0] = np.nan
    answers = Engine(TwoColumns(recording), policy).answer(inputs(np.arange(N)), id=trace.id)
    assert np.flatnonzero(~answers.valid).tolist() == [3]
    np.testing.assert_array_equal(np.delete(answers.exit, 3), np.delete(policy.route(trace), 3))


def test_a_deadline_that_passes_before_the_exit_leaves_no_answer(recording, trace, policy):
    """No exit on the way has an answer to fall back on."""
    exits = policy.route(trace)
    row = int(np.flatnonzero(exits == M - 1)[0])
    engine = Engine(TwoColumns(recording), policy)
    ticket = engine.submit(inputs([row]), 0.0, id=trace.id[[row]], deadline=1.0)
    engine.step(0.0)  # up to the gate
    engine.step(2.0)
    engine.drain()
    assert ticket.answers.expired.tolist() == [True]
    assert ticket.answers.valid.tolist() == [False]
    soft = engine.submit(inputs([row]), 0.0, id=trace.id[[row]], deadline=1.0, soft=True)
    engine.step(0.0)
    engine.step(2.0)
    engine.drain()
    assert soft.answers.exit.tolist() == [M - 1]


def test_scores_that_come_near_a_threshold_are_told(recording, trace, policy):
    score = policy.score(
        1, {}, policy.look(trace.features[BEFORE_EXITS], policy.init(N, id=trace.id))[1].memory
    )[0]
    place = int(np.flatnonzero(np.isfinite(policy.thresholds[:-1]))[0])
    at = np.argmin(
        abs(policy.score(place, {}, policy.score(0, trace.evidence(0), {})[1])[0] - policy.thresholds[place])
    )
    answers = Engine(TwoColumns(recording), policy).answer(inputs(np.arange(N)), id=trace.id)
    assert answers.borderline[at]
    assert answers.borderline.sum() < N / 4
    assert score.shape == (N,)


def test_policies_of_both_kinds_cannot_share_a_network(recording, trace, policy):
    other = ex.eero(trace.take(np.arange(120)), trace.take(np.arange(120, N)), budget="60%")
    with pytest.raises(InputError, match="run a network in two ways"):
        Engine(TwoColumns(recording), {"a": policy, "b": other})
    with pytest.raises(InputError, match="run a network in two ways"):
        Engine(TraceExecutor(made_logits()), policy)


def test_policies_that_look_at_every_exit_run_the_network_after_its_gate(recording, trace):
    other = ex.eero(trace.take(np.arange(120)), trace.take(np.arange(120, N)), budget="60%")
    recording.segments = ((0, 1), *((k, k) for k in range(2, M + 1)))
    after = SelectedExits(recording, range(1, M + 1), has_gate=True)
    answers = Engine(after, other).answer(inputs(np.arange(N)), id=trace.id)
    np.testing.assert_array_equal(answers.exit, other.route(trace))
    (told, _), _ = after.run(0, after.start(inputs([5, 6]))[0], [BEFORE_EXITS, 0])
    np.testing.assert_array_equal(told[:, :2], trace.features[BEFORE_EXITS][5:7])
