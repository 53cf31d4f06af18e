"""The cells of inputs follow a Polya urn, exactly, also where inputs repeat."""

from __future__ import annotations

import itertools
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from scipy.stats import binom

from exeunt.errors import InputError
from exeunt.policy import watched_cells
from exeunt.policy.calibration import RankedInMemory, exits_under, sequential_thresholds
from exeunt.policy.score_bins import whole
from exeunt.policy.watched_cells import WatchedCells, cells_of_plan, drawn


def calibrated(scores, ties, planned, seed=0):
    """Thresholds and cells of a plan."""
    last = len(planned) - 1
    limits = sequential_thresholds(RankedInMemory(scores, ties), np.array(planned), last)
    ranked = RankedInMemory(scores, ties)
    counts = ranked.counts(limits)
    return limits, cells_of_plan(ranked, np.array(planned), last, limits, counts, seed)


def cells_of(cells, limits, scores, ties, draws):
    exits, first = exits_under(scores, ties, limits), scores[:, cells.first]
    return cells.of(exits, scores[np.arange(len(exits)), exits], first, lambda: (ties, draws)).tolist()


def by_urn(counts, sequence):
    """The probability of a sequence of cells under the urn."""
    weights, probability = [*counts[:-1], counts[-1] + 1], Fraction(1)
    for cell in sequence:
        probability *= Fraction(int(weights[cell]), int(sum(weights)))
        weights[cell] += 1
    return probability


@pytest.mark.parametrize("planned", [[1, 1], [2, 0], [0, 2]])
def test_over_all_orders_of_calibration_and_future_inputs_the_cells_follow_the_urn(planned):
    """Two calibration and two future inputs with any order of scores at either exit, all equally likely."""
    orders = [np.array(one, dtype=float) for one in itertools.permutations(range(4))]
    found = Counter()
    for first, second in itertools.product(orders, orders):
        scores, ties = np.stack([first, second], axis=1), np.full(4, 0.5)
        limits, cells = calibrated(scores[:2], ties[:2], planned)
        found[tuple(cells_of(cells, limits, scores[2:], ties[2:], np.full(2, 0.5)))] += 1
    for sequence, times in found.items():
        assert Fraction(times, len(orders) ** 2) == by_urn(cells.counts, sequence)
    assert sum(by_urn(cells.counts, sequence) for sequence in found) == 1


def test_over_all_orders_the_cells_inside_exits_follow_the_urn(monkeypatch):
    """Three calibration inputs and a future one, in any orders: an exit's inputs are cut by both of their scores."""
    monkeypatch.setattr(watched_cells, "_LEAST", 1)
    orders = [np.array(one, dtype=float) for one in itertools.permutations(range(4))]
    for shares, bins in (((0.5, 0.5), 1), ((1.0,), 2), ((0.5, 0.5), 2)):
        monkeypatch.setattr(watched_cells, "_SHARES", shares)
        monkeypatch.setattr(watched_cells, "_BINS", bins)
        found = Counter()
        for first, second in itertools.product(orders, orders):
            scores, ties = np.stack([first, second], axis=1), np.full(4, 0.5)
            limits, cells = calibrated(scores[:3], ties[:3], [1, 2])
            found[cells_of(cells, limits, scores[3:], ties[3:], np.full(1, 0.5))[0]] += 1
        assert cells.counts.tolist() == [1, 1, 1]
        for cell, times in found.items():
            assert Fraction(times, len(orders) ** 2) == by_urn(cells.counts, [cell])


@pytest.mark.parametrize("planned", [[1, 4, 2], [1, 2, 1]])
def test_an_edge_of_a_block_is_no_edge_inside_it(monkeypatch, planned):
    """The law of an input given the edges around it is that of the inputs between them, not that of the edges."""
    for name, value in (("_LEAST", 1), ("_SHARES", (0.5, 0.5)), ("_BINS", 2)):
        monkeypatch.setattr(watched_cells, name, value)
    rng, n, times = np.random.default_rng(0), sum(planned), 1200
    found = np.zeros(n)
    for _ in range(times):
        scores, ties = rng.random((n + 1, len(planned))), np.full(n + 1, 0.5)
        limits, cells = calibrated(scores[:n], ties[:n], planned)
        found[cells_of(cells, limits, scores[n:], ties[n:], np.full(1, 0.5))] += 1
    c = len(cells.counts)
    urn = (cells.counts + (np.arange(c) == c - 1)) / (n + 1)
    assert (binom.ppf(1e-7, times, urn) <= found[:c]).all()
    assert (found[:c] <= binom.isf(1e-7, times, urn)).all()


@pytest.mark.parametrize("weights", [[1.0], [0.5, 0.3, 0.2], [0.9, 0.1]])
def test_atoms_follow_the_urn_because_the_watch_breaks_their_ties_at_random(monkeypatch, weights):
    """Contents with scores of their own at two exits, drawn with replacement. Exits alone do not follow the urn."""
    for name, value in (("_LEAST", 2), ("_SHARES", (0.5, 0.5)), ("_BINS", 2)):
        monkeypatch.setattr(watched_cells, name, value)
    rng, n, times = np.random.default_rng(0), 20, 600
    of_content, tie_of = rng.random((len(weights), 2)), rng.random(len(weights))
    found, exits = np.zeros(6), np.zeros(2)
    for seed in range(times):
        contents = rng.choice(len(weights), n + 1, p=weights)
        scores, ties = of_content[contents], tie_of[contents]
        limits, cells = calibrated(scores[:n], ties[:n], [9, 11], seed)
        assert cells.counts.tolist() == [4, 5, 3, 3, 2, 3]
        found[cells_of(cells, limits, scores[n:], ties[n:], rng.random(1))] += 1
        exits[exits_under(scores[n:], ties[n:], limits)] += 1
    for times_found, urn in zip(found, np.array([4, 5, 3, 3, 2, 4]) / 21, strict=True):
        assert binom.ppf(1e-7, times, urn) <= times_found <= binom.isf(1e-7, times, urn)
    assert exits[0] > binom.isf(1e-7, times, 9 / 21) or weights == [0.9, 0.1]


def test_copies_drawn_in_calibration_and_in_use_are_drawn_independently():
    assert abs(np.corrcoef(drawn(np.arange(1000), 1), drawn(np.arange(1000), 2))[0, 1]) < 0.2
    first = drawn(np.arange(1000), 1)
    assert 0 <= first.min() < 0.01 < 0.99 < first.max() < 1


def test_cells_are_bins_of_fixed_size_in_the_order_of_exits_and_scores():
    rng = np.random.default_rng(0)
    scores, ties = rng.random((100, 3)), rng.random(100)
    limits, cells = calibrated(scores, ties, [41, 0, 59])
    assert cells.counts.tolist() == [14, 13, 14, 10, 11, 17, 10, 11]
    assert cells.cell_exits.tolist() == [0, 0, 0, 2, 2, 2, 2, 2]
    assert cells.exit_counts(3).tolist() == [41, 0, 59]
    # Each calibration input is in a cell of so many; one that is an edge counts above it, whatever its other score.
    found = np.bincount(cells_of(cells, limits, scores, ties, np.ones(100)), minlength=8)
    assert found[:3].tolist() == [14, 13, 14]
    assert (found[3:5].sum(), found[5], found[6:].sum()) == (21, 17, 21)
    nothing = np.full((1, 3), np.nan)
    assert cells_of(cells, limits, nothing, ties[:1], ties[:1]) == [7]


def test_of_very_many_inputs_the_cells_are_the_exits(monkeypatch):
    rng = np.random.default_rng(0)
    scores, ties = rng.random((100, 3)), rng.random(100)
    monkeypatch.setattr(watched_cells, "_MOST", 99)
    limits, cells = calibrated(scores, ties, [41, 20, 39])
    assert cells.counts.tolist() == [41, 20, 39]
    assert np.array_equal(cells.exit_bins.limits.score, limits.score[:2])
    assert cells_of(cells, limits, scores, ties, ties) == exits_under(scores, ties, limits).tolist()
    assert calibrated(np.ones((100, 3)), np.zeros(100), [41, 20, 39])[1] is None  # copies left together


def test_the_number_of_different_inputs_expected_among_some():
    rng = np.random.default_rng(0)
    contents = rng.integers(0, 12, 30)
    copies = np.unique(np.unique(contents, return_counts=True)[1], return_counts=True)
    cells = WatchedCells(np.zeros(1, int), None, *[whole(1)] * 3, repeats=dict(zip(*copies, strict=True)))
    for n in (0, 1, 7, 30, 99):
        drawn_ = [len(set(rng.permutation(contents)[:n].tolist())) for _ in range(2000)]
        assert cells.expected_distinct(n) == pytest.approx(np.mean(drawn_), abs=0.2)
    assert cells.expected_distinct(1) == pytest.approx(1, abs=1e-9)
    assert cells.has_copies


def test_cells_that_do_not_fit_their_edges_are_refused():
    rng = np.random.default_rng(0)
    body = calibrated(rng.random((50, 2)), rng.random(50), [20, 30])[1].to_dict()
    assert WatchedCells.from_dict(body).to_dict() == body
    with pytest.raises(InputError, match="edges between them"):
        WatchedCells.from_dict({**body, "counts": body["counts"][:-1]})
    edges = body["first_bins"]
    for name in ("draws", "firsts"):
        with pytest.raises(InputError, match="do not fit together"):
            WatchedCells.from_dict({**body, "first_bins": {**edges, name: edges[name][:-1]}})
