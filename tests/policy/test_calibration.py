"""Thresholds against slow transcriptions of their definitions, ties, and edge rates."""

from __future__ import annotations

import math
from fractions import Fraction
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import exeunt as ex
from exeunt.policy.calibration import (
    RankedInMemory,
    Thresholds,
    at_least,
    checked_rates,
    exits_under,
    last_exit,
    marginal_thresholds,
    planned_counts,
    release,
    sequential_thresholds,
)
from exeunt.policy.calibration import _released_by_quantile as released_by_quantile
from exeunt.score.tie_breaking import tie_breaks


def route(score, tie, limits):
    """Walk every input through the exits, one at a time, comparing pairs as Python does."""
    exits = []
    for row, t in zip(score.tolist(), tie.tolist(), strict=True):
        pairs = zip(row, limits.score.tolist(), limits.tie.tolist(), strict=True)
        leaves = [(s, t) >= (least, tie_) for s, least, tie_ in pairs]
        exits.append(leaves.index(True))
    return np.array(exits, dtype=int)


def sequential_by_hand(score, tie, counts):
    """Sort the survivors at each exit and let the surest go, until as many as planned have left by then.

    Survivors as sure as the last one that goes, go with it.
    """
    exits, alive, planned = [None] * len(score), list(range(len(score))), 0
    for exit_, count in enumerate(counts):
        planned += count
        alive.sort(key=lambda i, e=exit_: (score[i][e], tie[i]), reverse=True)
        pairs = [(score[i][exit_], tie[i]) for i in alive]
        here = max(planned - (len(score) - len(alive)), 0)
        while 0 < here < len(alive) and pairs[here] == pairs[here - 1]:
            here += 1
        for i in alive[:here]:
            exits[i] = exit_
        alive = alive[here:]
    return exits


def algorithm_1(calibration, new, rates, constant):
    """The paper's Algorithm 1 word for word, for scores without ties: which exit answers each new input."""
    n, m = len(calibration), len(rates)
    exits = []
    for x in new:
        for exit_ in range(m):
            cumulative = sum(rates[: exit_ + 1])
            slack = (cumulative if constant == "paper" else constant) / math.sqrt(n)
            share = min(cumulative + slack, 1.0)
            rank = sum(1 for row in calibration if row[exit_] <= x[exit_]) / n  # F_l(s_l(x))
            if rank >= 1 - share - 1e-12 or exit_ == m - 1:
                exits.append(exit_)
                break
    return exits


def draw_rates(rng, m, zeros):
    rates = rng.dirichlet(np.ones(m))
    rates[:-1][rng.random(m - 1) < zeros] = 0
    return rates / rates.sum()


@pytest.mark.parametrize("keys", [1, 3, 12, 10**9])
@pytest.mark.parametrize("values", [1, 2, 5, 10**9])
def test_sequential_is_sorting_the_survivors(values, keys):
    rng = np.random.default_rng([values, keys])
    for _ in range(30):
        n, m = int(rng.integers(0, 40)), int(rng.integers(1, 6))
        key = rng.integers(0, keys, n)
        score = rng.integers(0, values, (n, m)).astype(float)
        if rng.random() < 0.5:  # copies score alike
            score = score[np.unique(key, return_inverse=True)[1]]
        tie, rates = tie_breaks(key.astype(np.uint64), 4), draw_rates(rng, m, 0.3)
        counts, last = planned_counts(rates, n), last_exit(rates)
        limits = sequential_thresholds(RankedInMemory(score, tie), counts, last)
        expected = sequential_by_hand(score.tolist(), tie.tolist(), counts.tolist())
        assert route(score, tie, limits).tolist() == expected
        released = np.bincount(np.array(expected, dtype=int), minlength=m)
        assert RankedInMemory(score, tie).counts(limits).tolist() == released.tolist()
        if len({*key.tolist()}) == n:
            np.testing.assert_array_equal(released, counts)
        # No atom is held back, and at most one more than is needed has left by each exit.
        over = (np.cumsum(released) - np.cumsum(counts))[:last]
        largest = max(np.unique(key, return_counts=True)[1], default=0)
        assert (over >= 0).all()
        assert (over < max(largest, 1)).all()


def test_what_left_too_early_is_made_up_for_by_the_next_exits():
    """By hand: six copies, four others; five are planned to leave at the first exit, and two at each of the next."""
    score = np.array([[0.9] * 3] * 6 + [[0.5, 0.5, 0.5], [0.4, 0.6, 0.5], [0.3, 0.7, 0.5], [0.2, 0.8, 0.5]])
    tie = np.array([0.3] * 6 + [0.1, 0.2, 0.4, 0.6])
    limits = sequential_thresholds(RankedInMemory(score, tie), np.array([5, 2, 3]), 2)
    # All six copies leave at once, so one is left to leave at the second exit: the surest there.
    assert route(score, tie, limits).tolist() == [0] * 6 + [2, 2, 2, 1]
    assert limits.score.tolist() == [0.9, 0.8, -np.inf]
    # Where more have left than were planned for the next exit as well, nobody leaves there.
    limits = sequential_thresholds(RankedInMemory(score, tie), np.array([5, 1, 4]), 2)
    assert route(score, tie, limits).tolist() == [0] * 6 + [2] * 4
    assert limits.score.tolist() == [0.9, np.inf, -np.inf]


@pytest.mark.parametrize("constant", ["paper", 0.0, 0.3, 1.0])
def test_marginal_is_algorithm_1(constant):
    rng = np.random.default_rng(8)
    for _ in range(40):
        n, m = int(rng.integers(1, 60)), int(rng.integers(1, 6))
        calibration, new = rng.random((n, m)), rng.random((40, m))
        rates = rng.dirichlet(np.ones(m))
        limits = marginal_thresholds(RankedInMemory(calibration, rng.random(n)), rates, constant)
        got = route(new, rng.random(40), limits)
        assert got.tolist() == algorithm_1(calibration.tolist(), new.tolist(), rates.tolist(), constant)


@pytest.mark.parametrize("slack", ["paper", 0.0, 0.5, 100.0, None])
def test_exits_with_rate_0_release_nothing_and_rate_1_everything(slack):
    """Marginal thresholds with slack, and sequential ones, which have none."""
    rng = np.random.default_rng(1)
    score, tie = rng.random((50, 4)), rng.random(50)
    ranked, huge = partial(RankedInMemory, score, tie), np.inf if slack is None else 1e9
    extreme, ties = np.vstack([score, [[huge] * 4, [-huge] * 4]]), np.append(tie, [0.0, 0.0])
    for rates in ([0, 0.5, 0, 0.5], [0, 1, 0, 0], [0, 0, 0, 1], [1, 0, 0, 0], [0.3, 0.7, 0, 0]):
        shares = np.array(rates, float)
        if slack is None:
            limits = sequential_thresholds(ranked(), planned_counts(shares, 50), last_exit(shares))
        else:
            limits = marginal_thresholds(ranked(), shares, slack)
        assert set(route(extreme, ties, limits)) <= set(np.flatnonzero(rates)), (rates, slack)


WEIGHTS = st.lists(st.integers(0, 1000), min_size=1, max_size=30).filter(any)


@given(WEIGHTS, st.integers(0, 10**6), st.integers(0, 100))
def test_counts_round_towards_safety(weights, n, first):
    rates = np.array(weights) / sum(weights)
    counts = planned_counts(rates, n)
    assert counts.sum() == n
    assert (counts >= 0).all()
    assert (counts[rates == 0] == 0).all()
    cost = np.arange(1, len(weights) + 1) + first
    # Exact arithmetic: the counts cost no more than the rates, less by less than an input per exit.
    exact = n * sum(Fraction(w, sum(weights)) * int(b) for w, b in zip(weights, cost, strict=True))
    planned = sum(int(c) * int(b) for c, b in zip(counts, cost, strict=True))
    assert planned <= exact * (1 + Fraction(1, 10**11))
    assert planned >= exact - len(weights)


def test_thresholds_of_no_calibration_inputs_still_answer():
    rates = np.array([0.5, 0.5])
    limits = sequential_thresholds(RankedInMemory(np.empty((0, 2)), np.empty(0)), planned_counts(rates, 0), 1)
    assert route(np.array([[0.9, 0.1]]), np.array([0.5]), limits).tolist() == [1]


def test_whole_numbers_are_thresholds_too():
    """Also of a file, though JSON has one kind of number."""
    read = Thresholds.from_dict({"score": [1, 2], "tie": [0, 3]})
    for limits in (Thresholds.of([(1, 0), (2, 3)]), read):
        assert (limits.score.dtype, limits.tie.dtype) == (np.float64, np.float64)
        assert (limits.score.tolist(), limits.tie.tolist()) == ([1, 2], [0, 3])


def test_pairs_compare_lexicographically():
    score, tie = np.array([1.0, 2.0, 2.0, 3.0]), np.array([0.9, 0.1, 0.5, 0.0])
    assert at_least(score, tie, 2.0, 0.3).tolist() == [False, False, True, True]
    assert not at_least(np.array([np.inf]), np.array([0.999]), np.inf, np.inf).any()
    assert at_least(np.array([-np.inf]), np.array([0.0]), -np.inf, -np.inf).all()


@pytest.mark.parametrize("rates", [[0.5, 0.6], [-0.1, 1.1], [np.nan, 1.0], [1.0]])
def test_rates_that_are_no_shares_are_refused(rates):
    with pytest.raises(ex.InputError, match=r"sum|NaN|shape"):
        checked_rates(rates, 2)


@given(st.integers(0, 30), st.integers(1, 5), st.integers(0, 10**6))
def test_exits_are_those_of_a_walk_whose_last_exit_answers_all(n, m, seed):
    rng = np.random.default_rng(seed)
    score, tie = rng.integers(0, 3, (n, m)).astype(float), rng.integers(0, 3, n).astype(float)
    limits = Thresholds.of([*rng.integers(0, 3, (m - 1, 2)), (3.0, 3.0)])
    open_ = Thresholds.of([*zip(limits.score[:-1], limits.tie[:-1], strict=True), (-np.inf, -np.inf)])
    assert exits_under(score, tie, limits).tolist() == list(route(score, tie, open_))


@pytest.mark.parametrize("slack", ["mine", -0.1, math.nan, math.inf])
def test_bad_slack_is_refused_by_value(slack):
    allowed = "slack must be 'paper' or a number of 0 or above" if slack == "mine" else "slack"
    with pytest.raises(ex.InputError, match=f"^{allowed}.*{slack}"):
        marginal_thresholds(RankedInMemory(np.zeros((2, 2)), np.zeros(2)), np.array([0.5, 0.5]), slack)


def test_a_quantile_releases_the_values_whose_rank_is_high_enough():
    for n in range(1, 40):
        for k in range(n + 1):
            expected = sum(Fraction(rank, n) >= 1 - Fraction(k, n) for rank in range(1, n + 1))
            assert released_by_quantile(k / n, n) == expected, (k, n)


def test_rounding_of_the_sum_moves_no_whole_input():
    for m in (3, 10, 49):
        for each in (1, 7, 1000):
            np.testing.assert_array_equal(planned_counts(np.full(m, 1 / m), m * each), np.full(m, each))
    np.testing.assert_array_equal(planned_counts(np.full(49, 1 / 49), 49 * 10**6), np.full(49, 10**6))
    # A ten-thousandth of an input is no rounding error, even of a million inputs.
    assert planned_counts(np.array([5.0001e-6, 1 - 5.0001e-6]), 10**6).tolist() == [6, 10**6 - 6]
    assert planned_counts(np.array([0.25, 0.0, 0.75]), 5).tolist() == [2, 0, 3]
    assert planned_counts(np.array([0.3, 0.7, 0.0]), 0).tolist() == [0, 0, 0]
    assert planned_counts(np.array([0.0, 1.0, 0.0]), 4).tolist() == [0, 4, 0]


def test_the_limits_are_the_pairs_of_the_last_to_leave():
    score = np.array([[0.9, 0.1], [0.5, 0.9], [0.5, 0.5], [0.1, 0.2]])
    tie = np.array([0.1, 0.2, 0.8, 0.4])
    for leave, last in ((2, (0.5, 0.8)), (3, (0.5, 0.2)), (0, (math.inf, math.inf))):
        limits = sequential_thresholds(RankedInMemory(score, tie), np.array([leave, 4 - leave]), 1)
        pairs = [*zip(limits.score.tolist(), limits.tie.tolist(), strict=True)]
        assert pairs == [last, (-math.inf, -math.inf)]


def test_rates_may_miss_their_sum_by_a_rounding_only():
    assert checked_rates([0.25, 0.75 + 5e-10], 2).tolist() == [0.25, 0.75 + 5e-10]
    for rates in ([0.25, 0.75 + 3e-9], [0.25, 0.75 - 3e-9]):
        with pytest.raises(ex.InputError, match="sum"):
            checked_rates(rates, 2)


def test_a_threshold_of_zero_has_no_sign():
    """0 and -0 are equal, and are written differently."""
    least, _ = release(np.array([-0.0, -0.0]), np.array([0.2, 0.7]), 1)
    assert math.copysign(1.0, least) == 1.0
