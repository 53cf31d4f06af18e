"""Policies for several budgets in one file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

import exeunt as ex


def test_a_set_serves_any_budget_with_a_guarantee_that_covers_it(tmp_path, parts):
    fit, calibrate, test = parts
    grid = ["40%", "50%", "60%", "80%", "100%"]
    policies = ex.PolicySet.make(ex.eero, fit, calibrate, budgets=grid, delta=0.1, jointly=True)
    assert len(policies) == 5
    costs = [policy.distribution.mean for policy in policies]
    assert costs == sorted(costs)
    for share in (40, 45, 59, 60, 99, 100):
        chosen = policies.at(f"{share}%")
        assert chosen.certificate.budget <= share / 100 * test.cost.full * (1 + 1e-9)
        assert chosen.certificate.delta == pytest.approx(0.02)
    with pytest.raises(ex.InfeasibleBudget, match="smallest"):
        policies.at("35%")
    policies.save(tmp_path / "set.json")
    again = ex.PolicySet.load(tmp_path / "set.json")
    assert list(again) == list(policies)


def test_a_budget_that_spends_no_more_is_served_by_the_one_below(parts):
    fit, calibrate, test = parts

    def stuck(fit, calibrate, *, budget, **options):
        policy = ex.eero(fit, calibrate, budget=min(budget, 0.6 * fit.cost.full), **options)
        return replace(policy, budget=budget)

    policies = ex.PolicySet.make(stuck, fit, calibrate, budgets=["50%", "60%", "70%", "90%"])
    assert [policy.budget / test.cost.full for policy in policies] == pytest.approx([0.5, 0.6])
    assert policies.at("100%") is policies.policies[-1]


def test_a_set_is_of_one_network_and_monotone(fit, calibrate, refuses):
    small, large = (ex.eero(fit, calibrate, budget=budget) for budget in ("50%", "80%"))
    assert list(ex.PolicySet((large, small))) == [small, large]
    less, alike = replace(small, budget=0.9 * small.cost.full), replace(large, budget=small.budget)
    dearer = replace(large, cost=ex.CostModel(2 * large.cost.cumulative))
    make = ex.PolicySet.make
    refused = {
        "must be monotone": lambda: ex.PolicySet((large, less)),
        "have the same budget": lambda: ex.PolicySet((small, alike)),
        "their costs differ": lambda: ex.PolicySet((small, dearer)),
        "at least one": lambda: ex.PolicySet(()),
        "delta": lambda: make(ex.eero, fit, calibrate, budgets=["50%"], jointly=True),
    }
    refuses(refused)


def test_guarantees_hold_for_budgets_that_do_not_depend_on_the_inputs(make_trace):
    """Three standard errors allow for chance; hard inputs under the small budget exceed it by far more."""
    fit, calibrate, test = make_trace(9000, 4, seed=3).split(fit=1 / 3, calibrate=1 / 3, test=1 / 3)
    policies = ex.PolicySet.make(ex.eero, fit, calibrate, budgets=["40%", "70%"], delta=1e-3, jointly=True)
    small = policies.policies[0]
    hard = test.scores["score"][:, 0] < np.median(test.scores["score"][:, 0])
    coin = np.random.default_rng(0).random(test.n) < 0.5
    for chosen, holds in ((coin, True), (hard, False)):
        cost = small.cost.cumulative[small.route(test.take(chosen))]
        slack = 3 * cost.std() / len(cost) ** 0.5
        assert (cost.mean() <= small.budget + slack) == holds


def test_damaged_and_foreign_sets_are_refused(tmp_path, fit, calibrate):
    policies = ex.PolicySet.make(ex.eero, fit, calibrate, budgets=["50%"])
    file = tmp_path / "set.json"
    policies.save(file)
    text = file.read_text()
    for damage in (text[:-30], text.replace('"eero"', '"zero"'), text.replace("policy-set", "other")):
        file.write_text(damage)
        with pytest.raises(ex.ArtefactError):
            ex.PolicySet.load(file)


def test_a_set_shows_what_is_certified_and_what_is_spent(fit, calibrate):
    """The paper's thresholds spend less than the rates that they were planned from."""
    paper = ex.PolicySet.make(ex.eero, fit, calibrate, budgets=["50%"], calibration="marginal")
    (policy,) = paper
    mean = policy.cost.show(ex.evaluate(policy, calibrate).cost)
    assert policy.rates @ policy.cost.cumulative > 1.04 * policy.expected_cost
    row = str(paper).splitlines()[-1]
    assert mean in row
    assert row.endswith("not certified")
    assert str(ex.PolicySet.make(ex.eero, fit, calibrate, budgets=["50%"], delta=0.1)).endswith("0.9")


def test_models_have_one_order_in_every_process():
    """Sets of texts have another order in each process; files and servers must agree."""
    sets = [
        [["last"], ["x", "last"], ["y", "last"], ["z", "w", "last"]],
        [["x", "m", "z"], ["x", "k", "z"], ["x", "q", "z"], ["w", "z"]],
        [["b", "a"]],
    ]
    program = (
        "import sys, json\nfrom exeunt.trace.cascade_step import models_in_order\n"
        "print(json.dumps([models_in_order(one) for one in json.loads(sys.argv[1])]))"
    )
    orders = {
        subprocess.run(
            [sys.executable, "-c", program, json.dumps(sets)],
            env={**os.environ, "PYTHONHASHSEED": seed}, check=True, capture_output=True, text=True,
        ).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert len(orders) == 1
    found = json.loads(orders.pop())
    assert found[2] == ["b", "a"]
    for order, cascades in zip(found, sets, strict=True):
        for cascade in cascades:
            assert [name for name in order if name in cascade] == cascade
