from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binom, norm

import exeunt as ex
from exeunt.guarantees.p_values import betting, binomial, hoeffding_bentkus
from exeunt.policy import Certificate, LossCertificate


@pytest.mark.parametrize("test", [betting, hoeffding_bentkus])
@pytest.mark.parametrize("mean", [0.02, 0.1, 0.5])
def test_false_rejections_stay_below_delta(test, mean):
    """At the edge of H0 (mean = bound), rejected at most as often as guaranteed, to a binomial bound at 1e-6."""
    rng = np.random.default_rng(0)
    trials, delta = 1500, 0.1
    rejected = sum(test((rng.uniform(size=200) < mean).astype(float), mean) <= delta for _ in range(trials))
    assert rejected <= binom.ppf(1 - 1e-6, trials, delta)


def test_betting_is_valid_for_losses_of_both_signs():
    rng = np.random.default_rng(1)
    trials, delta = 1500, 0.1
    draws = rng.choice([-1.0, 0.0, 1.0], p=[0.03, 0.92, 0.05], size=(trials, 300))
    rejected = sum(betting(row, 0.02) <= delta for row in draws)
    assert rejected <= binom.ppf(1 - 1e-6, trials, delta)


def test_both_have_power():
    few = np.zeros(2000)
    few[::200] = 1.0
    for test in (betting, hoeffding_bentkus):
        assert test(np.zeros(1000), 0.01) < 1e-3
        assert test(few, 0.02) < 1e-3
    both = np.zeros(2000)
    both[::50], both[1::50] = 1.0, -1.0
    assert betting(both, 0.02) < 0.05
    assert hoeffding_bentkus(np.maximum(both, 0), 0.02) > 0.5


@pytest.mark.parametrize("n", [1, 64, 512])  # means are exact: the oracle rounds whole counts up
@pytest.mark.parametrize("bound", [0.01, 0.1, 0.6])
def test_against_mapie(n, bound):
    mapie = pytest.importorskip("mapie.risk_control.methods")
    if not hasattr(mapie, "compute_hoeffding_bentkus_p_value"):
        pytest.skip("not in this version")
    loss = (np.random.default_rng(n).uniform(size=n) < bound / 2).astype(float)
    expected = mapie.compute_hoeffding_bentkus_p_value(np.array([loss.mean()]), n, np.array([bound])).item()
    if loss.mean() < bound:
        assert hoeffding_bentkus(loss, bound) == pytest.approx(min(expected, 1.0), rel=1e-6)


@pytest.mark.parametrize("n", [100, 1000])
@pytest.mark.parametrize("mean", [0.0, 0.03, 0.2])
def test_both_are_tighter_than_mapies_bounds_that_hold_for_any_n(n, mean):
    """Its third, "wsr", multiplies the highest capitals of two halves, which is no supermartingale: left out."""
    mapie = pytest.importorskip("mapie.risk_control.methods")
    loss = (np.random.default_rng(n).uniform(size=n) < mean).astype(float)
    theirs = min(
        mapie.get_r_hat_plus(loss[:, None], np.ones(1), "rcps", bound, 0.05, 0.25)[1].item()
        for bound in ("hoeffding", "bernstein")
    )
    for test in (betting, hoeffding_bentkus):
        ours = next(bound for bound in np.linspace(0.001, 1, 1000) if test(loss, bound) <= 0.05)
        assert ours <= theirs + 0.001


@pytest.mark.parametrize(("seed", "delta"), [(0, 0.05), (1, 0.3), (2, 0.01), (3, 0.1), (4, 0.05)])
def test_betting_is_a_gamblers_capital(seed, delta):
    """One input after the other, with the stake fixed before the loss is seen, until and beyond 1 / delta."""
    loss = np.random.default_rng(seed).choice([-1.0, 0.0, 1.0], p=[0.15, 0.75, 0.1], size=80)
    bound, capital, highest = 0.2, 1.0, 1.0
    squares = [0.25]
    for k, x in enumerate(loss):
        spread = np.mean(squares) ** 0.5
        stake = (2 * np.log(1 / delta) / 80) ** 0.5 / spread
        if highest < 1 / delta:
            chance = capital * delta / 1.05
            stake = norm.pdf(norm.ppf(chance)) / (chance * spread * (80 - k) ** 0.5)
        capital *= 1 + min(stake, 0.9 / (1 - bound)) * (bound - x)
        highest = max(highest, capital)
        squares.append((x - np.mean([bound / 2, *loss[:k]])) ** 2)
    assert betting(loss, bound, delta=delta) == pytest.approx(1 / highest)


def test_betting_needs_little_more_than_a_normal_test():
    """Half of the draws pass at a bound no more than 1.15 normal quantiles above the mean; fixed stakes need 1.29."""
    rng, n, delta = np.random.default_rng(0), 1000, 0.05
    loss = rng.choice([0.1, 1.0], p=[0.7, 0.3], size=(200, n))
    bound = 0.37 + 1.15 * norm.ppf(1 - delta) * 0.9 * (0.3 * 0.7 / n) ** 0.5
    assert np.median([betting(row, bound, delta=delta) for row in loss]) <= delta


@pytest.mark.parametrize("test", [betting, hoeffding_bentkus])
def test_edges(test):
    assert test([], 0.1) == 1.0
    assert test([1.0] * 50, 0.1) == 1.0
    assert test([1.0] * 1000, 0.1) == 1.0  # a capital below the least number
    assert test([0.0], 1.0) == 0.0
    with pytest.raises(ex.InputError, match="rescale"):
        test([1.5], 0.1)
    with pytest.raises(ex.InputError):
        test([float("nan")], 0.1)


@pytest.mark.parametrize(
    ("n", "wrong", "bound"),
    [(40, 0, 0.1), (40, 1, 0.1), (200, 9, 0.1), (1000, 60, 0.08), (30, 4, 0.5), (3, 1, 0.4)],
)
def test_hoeffding_bentkus_is_the_smaller_of_its_two_bounds(n, wrong, bound):
    loss, mean = np.repeat([1.0, 0.0], [wrong, n - wrong]), wrong / n
    hoeffding = ((bound / mean) ** wrong if wrong else 1.0) * ((1 - bound) / (1 - mean)) ** (n - wrong)
    at_most = sum(math.comb(n, k) * bound**k * (1 - bound) ** (n - k) for k in range(wrong + 1))
    assert hoeffding_bentkus(loss, bound) == pytest.approx(min(1.0, hoeffding, math.e * at_most), rel=1e-9)


def test_hoeffding_bentkus_counts_parts_of_a_loss_as_one_more_but_no_rounding():
    # 30 losses of 0.1 add up to 3.0000000000000004.
    whole = np.repeat([1.0, 0.0], [3, 27])
    assert hoeffding_bentkus([0.1] * 30, 0.3) == pytest.approx(hoeffding_bentkus(whole, 0.3), rel=1e-9)
    part = math.e * binom.cdf(21, 400, 0.08)
    assert hoeffding_bentkus(np.repeat([1.0, 0.25, 0.0], [20, 1, 379]), 0.08) == pytest.approx(part, rel=1e-9)
    assert hoeffding_bentkus([0.5, 0.0], 0.25) == 1.0


@pytest.mark.parametrize("n", [1, 2, 30, 400])
@pytest.mark.parametrize("bound", [0.003, 0.1, 0.5])
@pytest.mark.parametrize("delta", [0.05, 0.3])
def test_the_binomial_test_rejects_what_is_at_its_bound_with_probability_delta_at_most(n, bound, delta):
    """Exactly, as a sum over what may be counted; and with one loss more it would be rejected too often."""
    chance, most = 0.0, -1
    for count in range(n + 1):
        losses = np.repeat([1.0, 0.0], [count, n - count])
        p_value = sum(math.comb(n, k) * bound**k * (1 - bound) ** (n - k) for k in range(count + 1))
        assert binomial(losses, bound) == pytest.approx(p_value)
        if p_value <= delta:
            chance, most = chance + math.comb(n, count) * bound**count * (1 - bound) ** (n - count), count
    assert chance <= delta
    assert most == n or chance + binom.pmf(most + 1, n, bound) > delta


def test_losses_that_equal_the_bound_are_void_to_the_binomial_test():
    losses = np.array([0.0, 1.0, 0.2, 0.0, 0.2, 0.0])
    assert binomial(losses, 0.2) == binomial(losses[losses != 0.2], 0.2) < 1
    assert binomial(np.full(5, 0.2), 0.2) == binomial(np.empty(0), 0.2) == 1.0
    with pytest.raises(ex.InputError, match="use betting for losses between"):
        binomial(losses, 0.3)


def test_losses_outside_their_range_are_refused_by_value():
    assert betting([-1.0, 1.0], 0.5) <= 1
    for test, loss, low in ((betting, [-1.1, 0.2], "-1"), (hoeffding_bentkus, [-0.1, 0.2], "0")):
        with pytest.raises(ex.InputError, match=rf"\[{low}, 1\], got {loss[0]} to 0.2"):
            test(loss, 0.1)
        with pytest.raises(ex.InputError, match=r"got 0\.3 to 1\.2"):
            test([0.3, 1.2], 0.1)


def test_a_policy_keeps_its_loss_certificate(parts):
    certificate = LossCertificate(0.015, 0.05, 0.0123, "hoeffding_bentkus", 0.0342, 800)
    policy = ex.eero(parts[0], parts[1], budget="50%")
    assert policy.loss_certificate is None
    certified = replace(policy, loss_certificate=certificate, notes={"other": {"text": "kept"}})
    again = ex.Policy.from_dict(certified.to_dict())
    assert again == certified != policy
    assert again.certificate == again.loss_certificate == certificate
    assert policy.certificate is None
    assert f"kept\n{certificate}\n" in str(certified)
    assert str(certificate) == (
        "Guarantee: with probability 95% over the 800 labelled calibration inputs, the long-run accuracy per input "
        "is at "
        "most 1.5 points below that of the full network (measured: 3.42 points lost; p = 0.012, hoeffding-bentkus "
        "bound). It assumes that future inputs are exchangeable with these, and that nothing else was fitted on them."
    )
    cost = Certificate(2e9, 0.05, "MACs", 0.96, 1.5e9, 1.9e9, 800)
    assert "at most 2 GMACs (expected: 1.5). It assumes" in str(cost)
    assert "at most 2e+09 ms (expected: 1.5e+09). It" in str(replace(cost, unit="ms"))
    assert "(measured: 1.20 points gained; p" in str(replace(certificate, loss=-0.012))
    assert "(measured: 0.00 points lost; p" in str(replace(certificate, loss=0.0))
