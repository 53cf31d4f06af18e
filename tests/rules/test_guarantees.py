"""Certificates are guarantees: over many draws of the calibration inputs they are broken as often as they say."""

from __future__ import annotations

import pytest
from made_traces import trace
from scipy.stats import binom

from exeunt.errors import Infeasible
from exeunt.rules.catalogue import PRESETS
from exeunt.rules.cheapest import cheapest

# Of the other policies only rates and scores differ, which no guarantee rests on.
KINDS = ("auto", "eero", "patience", "risk_controlled")


def names(quick):
    """All policies; those that are not named here are for the slow tests."""
    return [pytest.param(name, marks=() if name in quick else pytest.mark.slow) for name in sorted(PRESETS)]


TEST = trace(10_000, 4, seed=1)  # so many that their mean cost is that of the distribution, to half a percent
FIT = trace(400, 4, seed=2)


@pytest.mark.parametrize("name", names({*KINDS} - {"auto"}))
def test_a_budget_is_overspent_as_often_as_its_certificate_says(name):
    """Within binomial bounds at 1e-4 on either side: neither too often, nor so seldom that budget is wasted."""
    trials, broken, chance = 40, 0, set()
    for seed in range(trials):
        policy = PRESETS[name](FIT, trace(60, 4, seed=10 + seed), budget="60%", delta=0.2)
        broken += TEST.cost.cumulative[policy.route(TEST)].mean() > policy.certificate.budget
        chance.add(1 - policy.certificate.probability)
    (breaks,) = chance  # the plan depends on the fit part and the number of calibration inputs alone
    assert breaks <= 0.2
    assert binom.ppf(1e-4, trials, breaks) <= broken <= binom.ppf(1 - 1e-4, trials, 0.2)


@pytest.mark.parametrize("name", names(["eero"]))  # the rule makes candidates, which are tested alike
def test_a_loss_is_exceeded_no_more_often_than_guaranteed(name):
    check_loss(name, None)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["auto", "stopping", "eero"])
def test_a_loss_and_a_budget_are_exceeded_no_more_often_than_guaranteed(name):
    check_loss(name, "90%")


def check_loss(name, budget):
    full = TEST.correct[:, -1].mean()
    trials, made, broken = 25, 0, 0
    for seed in range(trials):
        options = {"budget": budget, "policy": name, "points": 6}
        try:
            policy = cheapest(FIT, trace(800, 4, seed=300 + seed), max_loss=0.05, delta=0.2, **options)
        except Infeasible:
            continue
        made += 1
        loss = full - (policy.answers(TEST) == TEST.label).mean()  # `auto` may answer with an ensemble
        cost = TEST.cost.cumulative[policy.route(TEST)].mean()
        overspent = policy.cost_certificate is not None and cost > policy.cost_certificate.budget
        broken += loss > policy.loss_certificate.max_loss or overspent
    assert made > trials / 3
    assert broken <= binom.ppf(1 - 1e-4, trials, 0.2)
