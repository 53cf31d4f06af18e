"""Replay against a loop, and the oracle against brute force."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binom, binomtest

import exeunt as ex
from exeunt.evaluation.replay import score_exits
from exeunt.guarantees.confidence_intervals import wilson_interval
from exeunt.trace import concatenate


def test_replay_is_a_loop(parts):
    fit, calibrate, test = parts
    policy = ex.eero(fit, calibrate, budget="60%")
    result = ex.evaluate(policy, test)
    right, total, count = 0, 0.0, [0] * 4
    for row in range(test.n):
        for exit_ in range(4):
            if exit_ == 3 or test.scores["score"][row, exit_] >= policy.thresholds[exit_]:
                right += int(test.prediction[row, exit_] == test.label[row])
                total += test.cost.cumulative[exit_]
                count[exit_] += 1
                break
    assert result.accuracy == right / test.n
    assert result.cost == pytest.approx(total / test.n, rel=1e-12)
    assert (result.shares * test.n).round().astype(int).tolist() == count
    assert result.saved == pytest.approx(1 - result.cost / test.cost.full)
    assert result.n == test.n
    assert result.budget == policy.budget


def test_intervals_cover_the_truth_as_often_as_they_say():
    rng, runs, n = np.random.default_rng(0), 500, 100
    cost = ex.CostModel([1.0, 3.0])
    hits = np.zeros(2)
    for _ in range(runs):
        right = (rng.random((n, 2)) < 0.7).astype(int)
        trace = ex.ExitTrace.from_scores(np.zeros((n, 2)), right, cost=cost, label=np.ones(n), id=range(n))
        result = score_exits(trace, rng.integers(0, 2, n))
        intervals = np.array([result.accuracy_interval, result.cost_interval])
        hits += (intervals[:, 0] <= [0.7, 2.0]) & (intervals[:, 1] >= [0.7, 2.0])
    assert (hits >= binom.ppf(1e-6, runs, 0.93)).all()
    assert (hits <= binom.ppf(1 - 1e-6, runs, 0.97)).all()


def test_nothing_saved_is_not_less_than_nothing():
    """The mean of equal costs may be a last digit above them: "-0.0% saved"."""
    n, cost = 3080, ex.CostModel([9750.382650227702])
    trace = ex.ExitTrace.from_scores(np.zeros((n, 1)), np.zeros((n, 1), dtype=int), cost=cost, id=range(n))
    result = replace(score_exits(trace, np.zeros(n, dtype=int)), cost=np.nextafter(cost.full, np.inf))
    assert result.saved < 0
    assert ", 0.0% of the full cost saved" in str(result)


@pytest.mark.parametrize(("right", "n"), [(0, 1), (1, 1), (0, 50), (50, 50), (13, 40), (9_000, 10_000)])
def test_the_accuracy_interval_is_wilsons(right, n):
    label = np.ones(n, dtype=int)
    prediction = (np.arange(n) < right).astype(int)[:, None]
    trace = ex.ExitTrace.from_scores(np.zeros((n, 1)), prediction, cost=ex.CostModel([1.0]), label=label)
    low, high = score_exits(trace, np.zeros(n, dtype=int)).accuracy_interval
    expected = binomtest(right, n).proportion_ci(0.95, method="wilson")
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_an_interval_holds_its_share_to_the_last_digit():
    """Bars of a figure have no negative length."""
    for n in range(1, 200):
        for right in (0, n):
            low, high = wilson_interval(right, n)
            assert 0.0 <= low <= right / n <= high <= 1.0


def test_one_input_and_none(make_trace):
    trace = make_trace(20)
    result = score_exits(trace.take([0]), np.array([1]))
    assert result.cost == trace.cost.cumulative[1]
    assert result.cost_interval == (result.cost, result.cost)
    assert 0 <= result.accuracy_interval[0] < result.accuracy_interval[1] <= 1
    with pytest.raises(ex.InputError, match="empty"):
        score_exits(trace.take([]), np.array([], dtype=int))
    with pytest.raises(ex.InputError, match="empty"):
        ex.oracle(trace.take([]), "50%")


def test_other_costs_missing_labels_and_bad_exits_are_refused(parts, make_trace):
    fit, calibrate, test = parts
    policy = ex.eero(fit, calibrate, budget="60%")
    other = ex.ExitTrace.from_scores(
        test.scores["score"], test.prediction, cost=ex.CostModel(test.cost.cumulative, unit="ms")
    )
    with pytest.raises(ex.InputError, match="'ms'"):
        ex.evaluate(policy, other)
    with pytest.raises(ex.InputError, match="labels"):
        ex.oracle(other, "50%")
    for exits, shown in (([0, 1], r"\(2,\)"), ([0, 4, 1], "4"), ([0, -1, 1], "-1")):
        with pytest.raises(ex.InputError, match=shown):
            score_exits(make_trace(3), np.array(exits))


def test_a_policy_that_is_evaluated_on_rows_it_was_made_from_says_so(make_trace):
    fit, calibrate, test = make_trace(900).split()
    policy = ex.eero(fit, calibrate, budget="60%")
    assert ex.evaluate(policy, test).caveat == ""
    more = ex.evaluate(policy, concatenate([test, calibrate.take(slice(90))]))
    assert 0.2 < float(more.caveat.split("%")[0].split()[-1]) / 100 < 0.8
    told = "of the inputs that the policy was calibrated on are among these, where it looks better"
    assert told in more.caveat
    for shown in (str(more), more._repr_html_()):
        assert more.caveat in shown
    assert "About 100% of the inputs that the policy was fitted on" in ex.evaluate(policy, fit).caveat
