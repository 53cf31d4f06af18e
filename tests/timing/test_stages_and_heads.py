"""Stages and heads are timed apart, on a clock of known amounts."""

from __future__ import annotations

import numpy as np
import pytest
from clocked import Clocked

import exeunt as ex
from exeunt.rules import baselines
from exeunt.timing.millisecond_costs import measured_cost, self_consistent_cost, stage_and_head_cost

START, ROW, HEAD = [0.5, 0.2, 0.1], [0.013, 0.02, 0.04], [0.004, 0.002, 0.5]
FINEST = ((0, 0), (1, 1), (2, 2))


def made(segments=FINEST, start_s=START, row_s=ROW):
    return Clocked(segments, start_s=start_s, row_s=row_s, head_s=HEAD, gather_s=0.001)


def test_a_heads_time_is_all_that_its_cut_adds():
    executor, whole = made(), made(((0, 2),), start_s=[0.3], row_s=[0.07])
    cost = stage_and_head_cost(
        executor, whole, np.zeros((8, 2)), repeats=3, clock=lambda: executor.now + whole.now
    )
    alone = 0.3 + 8 * 0.07
    bare = np.array(START) + 8 * np.array(ROW)
    stages = bare / bare.sum() * alone
    with_heads = bare + 8 * np.array([HEAD[0], HEAD[1], 0.0])
    assert cost.reference == pytest.approx(1e3 * alone / 8)
    np.testing.assert_allclose(cost.heads[:2], (with_heads - stages)[:2] * 1e3 / 8)
    assert cost.heads[2] == 0.0
    np.testing.assert_allclose(np.diff(cost.cumulative, prepend=0) - cost.heads, stages * 1e3 / 8)
    # The last exit alone costs what the whole network does.
    assert cost.selected([2]).full == pytest.approx(cost.reference)


def test_heads_are_timed_in_the_finest_cut_alone():
    whole = made(((0, 2),), start_s=[0.3], row_s=[0.07])
    with pytest.raises(ex.InputError, match="a segment for each exit"):
        stage_and_head_cost(whole, whole, np.zeros((8, 2)))


def test_a_stage_that_no_input_reaches_keeps_what_it_was_found_to_cost():
    """Else it would seem to cost what the stage before it does, and the next policy would send inputs there."""
    executor = made(row_s=[0.001, 0.002, 1.0])
    rng = np.random.default_rng(0)
    answers, cost = np.zeros((500, 3), dtype=int), ex.CostModel([1, 2, 3])
    trace = ex.ExitTrace.from_scores(
        rng.random((500, 3)), answers, cost=cost, name="margin", label=answers[:, 0]
    )
    fit, calibrate, _ = trace.split()

    def choose(cost):
        """Nobody is sent beyond exit 1."""
        return baselines.msdnet(
            fit.with_cost(cost), calibrate.with_cost(cost), budget=float(cost.cumulative[0] * 1.01)
        )

    cost = self_consistent_cost(
        executor, np.zeros((8, 2)), choose, lambda policy: np.minimum(policy.route(calibrate), 1),
        repeats=3, clock=executor.clock,
    )  # fmt: skip
    assert np.diff(cost.cumulative)[-1] == pytest.approx(1e3 * (0.1 + 8 * 1.0) / 8, rel=1e-3)


def test_the_whole_is_timed_in_turns_with_the_policy():
    executor = made()
    now = [0.0]

    def whole(inputs):
        now[0] += 0.25 * len(inputs)

    cost = measured_cost(
        executor, np.zeros((8, 2)), repeats=9, clock=lambda: executor.now + now[0], original=whole
    )
    assert cost.reference == pytest.approx(250.0)
    alone = measured_cost(executor, np.zeros((8, 2)), repeats=9, clock=executor.clock)
    np.testing.assert_allclose(cost.cumulative, alone.cumulative)
