"""Policies of a run by the names of their budgets."""

from __future__ import annotations

import numpy as np
import pytest

import exeunt as ex
from exeunt.runs.saved_policies import named_by_budget


@pytest.mark.parametrize("seed", range(20))
def test_a_policy_is_found_by_the_name_of_its_budget(make_trace, seed):
    """Names are shares of six digits: one that was rounded down would ask for less than the smallest budget."""
    cost = np.cumsum(np.random.default_rng(seed).uniform(1, 10, 4))
    fit, calibrate, _ = make_trace(cost=cost, seed=seed).split()
    budgets = np.random.default_rng([seed, 1]).uniform(1.1 * cost[0], cost[-1], 5)
    made = ex.PolicySet.make(ex.eero, fit, calibrate, budgets=budgets.tolist())
    for name, policy in named_by_budget(made).items():
        assert made.at(name) is policy


def test_names_are_as_people_write_them(make_trace):
    fit, calibrate, _ = make_trace(cost=[1.0, 2.0, 3.0, 4.0]).split()
    made = ex.PolicySet.make(ex.eero, fit, calibrate, budgets="30%, 45%, 70%, 99.5%")
    assert set(named_by_budget(made)) <= {"30%", "45%", "70%", "99.5%"}
