"""Whether successive units of a client are alike: by all permutations, with and without dependence."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise, permutations, product

import numpy as np
import pytest
from scipy.stats import binom
from tests.gateway.made_records import CAP, WITHOUT_FEATURES, records, units, units_of

from exeunt.gateway import proposals as module
from exeunt.gateway.certifier import DEPENDENT
from exeunt.gateway.evidence import evidence_of
from exeunt.gateway.folder import GatewayModels
from exeunt.gateway.proposals import dependence, permutation_p_value
from exeunt.stream.records import COMPARED, NOT_GRADED, Said


def p_value(values, clients, seed=0):
    return permutation_p_value(
        np.array(values, float), np.array(clients, np.int64), np.random.default_rng(seed)
    )


def products(values, clients):
    """Return the sum of products of successive values of a client, less the client's mean."""
    total = 0.0
    for client in set(clients):
        own = np.array([value for value, of in zip(values, clients, strict=True) if of == client])
        own = own - own.mean()
        total += sum(one * other for one, other in pairwise(own))
    return total


def exact(values, clients):
    """Return the share of all orders of each client's units that are as alike."""
    found, names = products(values, clients), sorted(set(clients))
    by_name = {name: [v for v, of in zip(values, clients, strict=True) if of == name] for name in names}
    orders = [list(permutations(own)) for own in by_name.values()]
    sums = []
    for chosen in product(*orders):
        flat = [value for order in chosen for value in order]
        of = [name for name, order in zip(names, chosen, strict=True) for _ in order]
        sums.append(products(flat, of))
    return np.mean(np.array(sums) >= found - 1e-12)


@pytest.mark.parametrize(
    ("values", "clients"),
    [
        ([0, 1, 2, 3], [0, 0, 0, 0]),
        ([0, 0, 1, 1, 5], [0, 0, 0, 0, 0]),
        ([0, 7, 1, 7, 2, 9, 3], [0, 1, 0, 1, 0, 1, 0]),  # the clients take turns
        ([0, 1, 2, 3, 4, -100, 100], [0, 0, 0, 0, 0, 1, 1]),
        ([5, 1, 1], [0, 1, 2]),
        ([5, 5, 5, 5], [0, 0, 1, 1]),
        ([2, 1], [0, 0]),
        ([], []),
    ],
)
def test_the_p_value_is_that_of_all_permutations(values, clients):
    found, n = p_value(values, clients), 500
    if len(set(clients)) == len(clients):
        assert found == 1.0  # no two units of a client
        return
    expected = exact(values, clients)
    low, high = (binom.ppf(q, n, expected) for q in (1e-6, 1 - 1e-6))
    assert low / (n + 1) <= found <= (high + 1) / (n + 1)


def test_a_burst_of_units_that_are_alike_is_noticed():
    """Bursts of 40 that are counted as 40 units certified falsely in 42% of the runs."""
    rng = np.random.default_rng(0)
    values = np.repeat(rng.random(12) < 0.3, 40) * 1.0
    assert p_value(values, np.zeros(480)) < DEPENDENT
    assert p_value(values, np.repeat(np.arange(12), 40)) == 1.0  # each burst is all that its client asked
    assert p_value(rng.permutation(values), np.zeros(480)) > DEPENDENT
    turns = np.column_stack([values, rng.permutation(values)]).ravel()  # beside a client without any
    assert p_value(turns, np.tile([0, 1], 480)) < DEPENDENT


def test_as_many_permutations_are_made_as_tell_a_small_p_value_from_a_large_one():
    bursts = np.repeat(np.arange(12.0), 40)
    assert p_value(bursts, np.zeros(480)) == pytest.approx(1 / 10_000)  # none of 9,999 is as alike
    at_once = 501 * p_value(np.random.default_rng(0).random(60), np.zeros(60))
    assert at_once == pytest.approx(round(at_once))  # 500 were enough
    assert at_once > 51


@pytest.mark.parametrize("at_once", [1, 10**9])
def test_however_many_permutations_are_made_at_once_there_are_9999(monkeypatch, at_once):
    monkeypatch.setattr(module, "_NUMBERS", at_once * 4)
    monkeypatch.setattr(module, "_PERMUTATIONS", 999)
    monkeypatch.setattr(module, "_ENOUGH", 10**9)
    found = p_value([0, 1, 2, 3], [0, 0, 0, 0])  # 2 of 24 orders are as alike
    assert found * 1000 == pytest.approx(round(found * 1000), abs=1e-9)
    assert binom.ppf(1e-6, 999, 2 / 24) <= found * 1000 - 1 <= binom.ppf(1 - 1e-6, 999, 2 / 24)


def test_what_is_compared_is_the_mean_loss_of_the_cheapest_model_over_a_units_known_rows():
    models = GatewayModels("large", {"dear": 1e-3, "small": 4e-5, "large": 4e-4})
    made = units(40, rows=3, clients=["a", "b"])
    made = [
        (unit, [replace(one, said={**one.said, "dear": Said(9e-3, 0.5, 0.0)}) for one in inside])
        for unit, inside in made
    ]
    made[3][1][0] = replace(made[3][1][0], compared="no money")
    made[5] = (made[5][0], [])  # nothing is known of it
    values, clients = [], []
    for unit, inside in made:
        known = [one for one in inside if one.compared == "compared"]
        if known:
            values.append(np.mean([one.said["large"].grade - one.said["small"].grade for one in known]))
            clients.append(unit.client)
    assert len(values) in (38, 39)
    codes = np.unique(clients, return_inverse=True)[1]
    assert dependence(evidence_of(made, models, CAP, 3), 5) == p_value(values, codes, 5)


def test_a_grader_that_fails_for_a_while_makes_no_units_alike():
    """Where it fails, it is not known whether small was wrong. Had it found so forty times in a row, that would be."""
    for why, alike in ((NOT_GRADED, False), (COMPARED, True)):
        made = units(300)
        for k, (_, inside) in enumerate(made):
            small, wrong = inside[0].said["small"], 100 <= k < 140
            said = {"small": replace(small, grade=None if wrong else 1.0 - (k % 7 == 0)), "large": Said(1e-4)}
            inside[0] = replace(inside[0], said=said, compared=why if wrong else COMPARED)
        assert (dependence(evidence_of(made, WITHOUT_FEATURES, CAP, 3), 0) < DEPENDENT) == alike


def test_without_units_nothing_depends():
    assert dependence(evidence_of([], WITHOUT_FEATURES, CAP, 3), 0) == 1.0
    for n in (1, 2):
        assert 0 < dependence(evidence_of(units_of(records(n)), WITHOUT_FEATURES, CAP, 3), 0) <= 1.0
