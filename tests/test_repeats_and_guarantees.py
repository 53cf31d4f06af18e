"""Inputs that repeat, guarantees at their edge, and allocations that do not keep their word."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

import exeunt as ex
from exeunt.policy import allocation
from exeunt.policy.calibration import planned_counts

COST = ex.CostModel([1.0, 2.0, 3.0, 4.0])


def _repeated(n_distinct: int, copies: int, *, seed: int = 0) -> ex.ExitTrace:
    rng = np.random.default_rng(seed)
    score = np.repeat(rng.random((n_distinct, 4)), copies, axis=0)
    label = np.zeros(len(score), dtype=int)
    id_ = np.repeat(np.arange(n_distinct) + 1000 * seed, copies)
    return ex.ExitTrace.from_scores(score, np.zeros_like(score, dtype=int), cost=COST, label=label, id=id_)


@pytest.mark.parametrize("copies", [2, 3, 10, 200])
@pytest.mark.parametrize("budget", np.linspace(1.05, 3.9, 5))
def test_repeated_inputs_calibrate_and_fill_a_quota(copies, budget):
    fit, calibrate = _repeated(30, 1, seed=1), _repeated(200 // copies, copies, seed=2)
    for delta in (None, 0.1):
        policy = ex.eero(fit, calibrate, budget=budget, delta=delta)
        assert policy.counts.sum() == calibrate.n
    rates = allocation.geometric(COST, budget)
    exits = ex.route_batch(calibrate, rates)
    np.testing.assert_array_equal(np.bincount(exits, minlength=4), planned_counts(rates, calibrate.n))


def test_one_key_for_everybody():
    exits = ex.route_batch(_repeated(1, 50), [0.25, 0.25, 0.25, 0.25])
    np.testing.assert_array_equal(np.bincount(exits), [13, 12, 13, 12])


def _traces(n_calibration: int):
    rng = np.random.default_rng(3)
    score = rng.random((400 + n_calibration, 4))
    trace = ex.ExitTrace.from_scores(
        score, (rng.random(score.shape) < 0.3).astype(int), cost=COST, label=np.zeros(len(score), dtype=int)
    )
    return trace.take(slice(0, 400)), trace.take(slice(400, None))


@pytest.mark.parametrize(("n", "delta"), [(1, 0.3), (3, 0.05), (10, 1e-3), (30, 0.05), (30, 1e-3)])
@pytest.mark.parametrize("preset", [ex.eero, ex.common_threshold, partial(ex.eero, temperature=1e-3)])
def test_the_budget_that_an_error_names_can_be_had(n, delta, preset):
    fit, calibrate = _traces(n)
    for budget in (1.001, 1.3, 2.0, 3.0):
        try:
            preset(fit, calibrate, budget=budget, delta=delta)
        except ex.InfeasibleBudget as error:  # noqa: PERF203 - a handful of rounds
            found = preset(fit, calibrate, budget=error.smallest_budget, delta=delta)
            assert found.certificate.probability >= 1 - delta
            more = preset(fit, _traces(error.n_calibration_needed)[1], budget=budget, delta=delta)
            assert more.certificate.probability >= 1 - delta


def test_a_small_delta_is_not_printed_as_certainty():
    policy = ex.eero(*_traces(400), budget=3.5, delta=1e-8)
    assert "probability 1 - 1e-08 over" in str(policy.certificate)
    assert policy.certificate.cost_quantile <= 3.5 * (1 + 1e-9)


def test_the_whole_budget_can_be_certified_as_it_is():
    policy = ex.eero(*_traces(1000), budget="100%", delta=0.05)
    np.testing.assert_array_equal(policy.counts, [0, 0, 0, 1000])


@pytest.mark.parametrize(
    ("calibration", "rates", "told"),
    [
        ("sequential", [0.5, 0.2, 0.9, 0.0], "sum to 1"),
        ("marginal", [0.5, 0.2, 0.9, 0.0], "sum to 1"),
        ("sequential", [0.0, 0.0, 0.0, 1.0], "mean cost"),
    ],
)
def test_an_allocation_is_held_to_its_word(calibration, rates, told):
    with pytest.raises(ex.InputError, match=told):
        ex.compose("mine", lambda _: np.array(rates), *_traces(100), budget=2.0, calibration=calibration)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ex.ExitTrace.from_scores([[0.1, 0.2]], [[0, 1]], cost=[1, 2]), "CostModel"),
        (lambda: ex.ExitTrace.from_scores([[0.1, 0.2]], [[0, np.inf]], cost=ex.CostModel([1, 2])), "inf"),
        (lambda: ex.ExitTrace.from_scores([[1j, 0.2]], [[0, 1]], cost=ex.CostModel([1, 2])), "numbers"),
        (lambda: ex.ExitTrace.from_scores([[0.1, 0.2]], [[0, 1], [0]], cost=ex.CostModel([1, 2])), "regular"),
        (lambda: ex.ExitTrace.from_logits([[[1, 2]], [[1]]], cost=ex.CostModel([1])), "regular"),
        (lambda: ex.eero(*_traces(10), budget=2.0, score=3), "score must be"),
        (lambda: ex.eero(*_traces(100), budget=2.0, delta=1e-20), "1e-20"),
        (lambda: ex.frontier({"eero": ex.eero}, _traces(10)[0], "50%"), r"write \['50%'\]"),
        (lambda: ex.frontier({"oracle": ex.eero}, _traces(10)[0], ["50%"]), "row of that name"),
    ],
)
def test_more_wrong_inputs(make, message):
    with pytest.raises(ex.InputError, match=message):
        make()
