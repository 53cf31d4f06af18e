"""Whether successive units of a client are alike, which units must not be: a test by permutations."""

from __future__ import annotations

import numpy as np

from exeunt._support.arrays import Floats, Integers
from exeunt.gateway.evidence import Evidence

_PERMUTATIONS, _AT_ONCE, _ENOUGH = 9_999, 500, 50
"""After so many permutations that are as correlated, no more are needed: the p-value is far from small."""
_NUMBERS = 5_000_000
"""Fewer permutations at once where there are so many units that they would fill the memory."""


def dependence(evidence: Evidence, seed: int) -> float:
    """Return the p-value of whether successive units of a client differ alike from the reference.

    What is compared is by how much the cheapest model's grades are below the reference's, on average over a unit. The
    products of successive units of a client are compared with those in random orders of that client's units.
    """
    losses, clients = _losses(evidence)
    return permutation_p_value(losses, clients, np.random.default_rng(seed))


def permutation_p_value(values: Floats, clients: Integers, rng: np.random.Generator) -> float:
    """Return the p-value of the sum of products of successive values (u,) of a client (u,), less their means."""
    order = np.argsort(clients, kind="stable")
    values, clients = values[order], clients[order]
    sizes = np.bincount(clients)
    values = values - (np.bincount(clients, weights=values) / np.maximum(sizes, 1))[clients]
    same = clients[1:] == clients[:-1]
    if not same.any():
        return 1.0
    observed = float(values[1:][same] @ values[:-1][same])
    as_high = tried = 0
    while tried < _PERMUTATIONS and as_high < _ENOUGH:
        n = min(_AT_ONCE, _PERMUTATIONS - tried, max(1, _NUMBERS // len(values)))
        # Clients keep their places: random numbers are sorted within each.
        places = np.argsort(rng.random((n, len(values))) + clients, axis=1)
        shuffled = values[places]
        products = (shuffled[:, 1:] * shuffled[:, :-1])[:, same].sum(axis=1)
        as_high += int((products >= observed - 1e-12).sum())
        tried += n
    return (as_high + 1) / (tried + 1)


def _losses(evidence: Evidence) -> tuple[Floats, Integers]:
    """Return the mean loss of the cheapest model over each unit's graded rows, if it has any, and its client.

    Grades that are missing say nothing: a grader that fails for an hour would make units alike.
    """
    trace = evidence.trace
    if trace is None:
        return np.empty(0), np.empty(0, np.int64)
    cheaper = [name for name in trace.answering.names if name != evidence.reference]
    cheapest = min(cheaper, key=lambda name: trace[name].cost.full)
    rows = (evidence.place >= 0) & evidence.graded
    lost = trace[evidence.reference].quality[:, 0] - trace[cheapest].quality[:, 0]
    unit = evidence.unit[rows]
    sums = np.bincount(unit, weights=lost[evidence.place[rows]], minlength=evidence.n_units)
    sizes = np.bincount(unit, minlength=evidence.n_units)
    graded = np.flatnonzero(sizes)
    names = np.array([evidence.units[k].client for k in graded.tolist()])
    return sums[graded] / sizes[graded], np.unique(names, return_inverse=True)[1]
