"""A total lasts for all inputs, in whatever order they come, and is used where it can be."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import exeunt as ex

PRICES = {"small": 1.0, "middle": 3.0, "large": 9.0}


@functools.cache
def world(n=6000, highest=1.0):
    rng = np.random.default_rng(0)
    label, easy = rng.integers(0, 4, n), rng.random(n)
    made = {}
    for k, (name, price) in enumerate(PRICES.items()):
        right = rng.random(n) < np.clip(0.5 + 0.2 * k + 0.5 * (easy - 0.5), 0, 1)
        score, answer = (
            (easy + 0.2 * rng.random(n))[:, None],
            np.where(right, label, (label + 1) % 4)[:, None],
        )
        cost = ex.CostModel([price], unit="usd")
        if highest > 1:
            cost = ex.CostModel(np.full((n, 1), price), unit="usd", highest=price * highest)
        made[name] = ex.ExitTrace.from_scores(score, answer, label=label, cost=cost, id=np.arange(n))
    fit, calibrate, test = ex.CascadeTrace(made).split(fit=0.3, calibrate=0.2, test=0.5)
    budgets = np.linspace(1.2, 10, 15).tolist()
    policies = ex.cascades(fit, calibrate, budgets=budgets, policy="eero", answer="own")
    return policies, test, easy[np.isin(np.arange(n), test.id)]


@functools.cache
def of_each_policy(**options):
    """By the identity of a policy: what each test input costs, how good its answer is, and at the first exit."""
    policies, test, _ = world(**options)
    found = {}
    for policy in policies:
        trace, at = policy.priced(test), (np.arange(test.n), policy.route(test))
        quality = policy.answer.on(trace).quality
        paid = trace.cost.of_inputs(test.n)[at].tolist()
        found[id(policy)] = paid, quality[at].tolist(), quality[:, 0].tolist(), trace.cost.first
    return found


def replayed(pace, found, order, price=1.0):
    """What is spent, and the share of right answers, if inputs come one by one; a ledger refuses what is too much."""
    left, first = pace.left, min(policy.cost.first for policy in pace.policies)
    spent, right = 0.0, 0.0
    for place, i in enumerate(order.tolist()):
        policy = pace.begin()
        costs, quality, at_first, cost_of_first = found[id(policy)]
        times = price if np.isscalar(price) else price[place]
        paid, got = costs[i] * times, quality[i]
        if paid > left - spent - first * times * (len(order) - place - 1):
            paid, got = cost_of_first * times, at_first[i]
        pace.end(policy, paid)
        spent, right = spent + paid, right + got
    return spent, right / len(order)


@pytest.mark.parametrize("share", [0.2, 0.4, 0.7])
def test_in_random_order_the_total_is_used_as_the_best_policy_in_hindsight_would(share):
    policies, test, _ = world()
    total = share * PRICES["large"] * test.n
    static = []
    for policy in policies:
        result = ex.evaluate(policy, test)
        if result.cost * test.n <= total:
            static.append((result.accuracy, result.cost * test.n))
    best, used = max(static)
    pace = ex.Pace(policies, total=total, inputs=test.n)
    spent, accuracy = replayed(pace, of_each_policy(), np.random.default_rng(1).permutation(test.n))
    assert spent <= total
    assert spent >= min(0.995 * total, used)
    assert accuracy > best - 0.003


@pytest.mark.parametrize("order", ["easy first", "hard first", "dearer"])
def test_whatever_the_order_the_total_is_kept(order):
    policies, test, easy = world(highest=2.0)
    total = 0.5 * PRICES["large"] * test.n
    inputs = np.argsort(-easy if order == "easy first" else easy)
    price = np.where(np.arange(test.n) < test.n // 2, 1.0, 2.0) if order == "dearer" else 1.0
    if order == "dearer":
        inputs = np.random.default_rng(2).permutation(test.n)
    pace = ex.Pace(policies, total=total, inputs=test.n)
    spent, _ = replayed(pace, of_each_policy(highest=2.0), inputs, price)
    assert 0.9 * total < spent <= total


@given(st.lists(st.floats(0.0, 1.0), min_size=1, max_size=60), st.floats(0.12, 1.5), st.integers(1, 9))
def test_while_each_answer_could_be_the_dearest_the_total_is_kept(costs, share, lag):
    """Policies are left out whose dearest answer is too much: only the cheapest one may need the ledger."""
    policies, _, _ = world()
    pace, open_, spent = ex.Pace(policies, total=share * 9.0 * len(costs), inputs=len(costs)), [], 0.0

    def end(policy, part):
        nonlocal spent
        paid = policy.cost.first if policy is pace.policies[0] else part * policy.costliest
        pace.end(policy, paid)
        spent += paid

    for part in costs:
        open_.append((pace.begin(), part))
        if len(open_) == lag:
            end(*open_.pop(0))
    for one in open_:
        end(*one)
    assert spent <= share * 9.0 * len(costs) * (1 + 1e-9)


def test_what_others_spend_of_the_total_changes_the_next_choice():
    """What was learned about prices stays: here each answer costs twice what is expected."""
    policies, _, _ = world(highest=2.0)
    pace = ex.Pace(policies, total=6.0 * 4000, inputs=4000)
    for _ in range(600):
        policy = pace.begin()
        pace.end(policy, 2 * policy.expected_cost)
    pace.update(total=6.0 * 1000, inputs=1000)
    assert pace.left == 6.0 * 1000
    dear = pace.begin()
    fresh = ex.Pace(policies, total=6.0 * 1000, inputs=1000).begin()
    assert 2 * dear.expected_cost <= 6.0 * 1.02 < 2 * fresh.expected_cost
    pace.update(total=1.2 * 1000, inputs=1000)
    assert pace.begin() is pace.policies[0]


def test_where_money_is_shortest_the_policy_with_the_cheapest_first_answer_answers():
    policies, _, _ = world()
    last = len(policies) - 1
    firsts = [1.0 if k == last else 3.0 for k in range(len(policies))]
    pace = ex.Pace(policies, total=1.0 * 100, inputs=100, firsts=firsts)
    assert pace.begin() is pace.policies[last]
    with pytest.raises(ex.InfeasibleBudget, match="a first answer to each of 100 inputs may cost 100 usd"):
        ex.Pace(policies, total=99.0, inputs=100, firsts=firsts)
    with pytest.raises(ex.InputError, match=f"one amount for each of {len(policies)} policies, got 1"):
        ex.Pace(policies, total=99.0, inputs=100, firsts=[1.0])


@pytest.mark.parametrize(("inputs", "at_once"), [(1, 1), (19, 1), (300, 30)])
def test_one_input_in_ten_is_under_way(inputs, at_once):
    assert ex.Pace(world()[0], total=10.0 * inputs, inputs=inputs).at_once == at_once


def test_wrong_calls_are_named(refuses):
    policies, _, _ = world()
    pace = ex.Pace(policies, total="20 usd", inputs=1)
    assert pace.left == 20
    policy = pace.begin()
    refuses({"all inputs have begun": pace.begin})
    pace.end(policy, 1.0)
    refused = {
        "call end once after each begin": lambda: pace.end(policy, 1.0),
        "cost.* got -1": lambda: pace.end(policy, -1.0),
        "cost.* got nan": lambda: pace.end(policy, np.nan),
        "at least 1, got 0": lambda: ex.Pace(policies, total=5.0, inputs=0),
        "total": lambda: ex.Pace(policies, total=-1.0, inputs=1),
        "for all inputs, such as '5 usd', got '50%'": lambda: ex.Pace(policies, total="50%", inputs=1),
        "among the policies of a PolicySet, got Policy": lambda: ex.Pace(policy, total="20 usd", inputs=1),
    }
    refuses(refused)
    with pytest.raises(ex.InfeasibleBudget, match="a first answer to each of 100 inputs may cost 100 usd"):
        ex.Pace(policies, total=99.0, inputs=100)
