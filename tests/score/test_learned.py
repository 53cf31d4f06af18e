"""Learned scores: ranks of scores between knots."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from exeunt.score.confidence import Evidence, softmax
from exeunt.score.learned import Grid, LearnedScore, quantile_knots, rank_between


def mean_of_pieces(scores, knots):
    total = np.zeros(len(scores))
    for low, high in pairwise(knots):
        total = total + np.clip((scores - low) / (high - low), 0.0, 1.0)
    return total / (len(knots) - 1)


@pytest.mark.parametrize("n", [0, 1, 64, 1000, 1001])
def test_ranks_of_arrays_are_the_sum_over_the_pieces_to_the_last_bit(n):
    rng = np.random.default_rng(n)
    knots = np.sort(rng.random(25)).tolist()
    for scores in (rng.normal(0.5, 1, n), rng.choice(knots, n)):
        expected = mean_of_pieces(scores, knots)
        np.testing.assert_array_equal(rank_between(scores, knots), expected, strict=True)
        alone = [rank_between(scores[i : i + 1], knots) for i in range(n)]
        np.testing.assert_array_equal(np.concatenate([np.empty(0), *alone]), expected, strict=True)


@pytest.mark.parametrize("n", [1, 2, 64, 333, 1001])
@pytest.mark.parametrize("numbers", [(25, 25, 25), (25, 3, 12), (2,), (2, 25)])
def test_ranks_of_several_scores_are_the_sums_over_their_pieces_to_the_last_bit(n, numbers):
    rng = np.random.default_rng(n)
    grid = Grid({str(place): tuple(np.sort(rng.random(number))) for place, number in enumerate(numbers)})
    scores = list(rng.normal(0.5, 1, (len(numbers), n)))
    for place, score in enumerate(scores):
        score[:1] = np.inf if place % 2 else -np.inf
    for found, score, knots in zip(grid.ranks(scores), scores, grid.knots.values(), strict=True):
        np.testing.assert_array_equal(found, mean_of_pieces(score, knots), strict=True)


@pytest.mark.parametrize("at_once", [1, 2, 64, 100, 101, 1000])
def test_a_score_of_some_rows_is_that_of_all_of_them_to_the_last_bit(at_once):
    rng, m, n = np.random.default_rng(0), 4, 1500
    names = ("margin", "entropy", "max_probability")
    knots = {name: tuple(np.sort(rng.random(25)).tolist()) for name in names}
    weights = rng.normal(size=(m, 7)), rng.normal(size=(m, 10))
    score = LearnedScore(Grid(knots), *weights, rng.normal(size=m), history=True)
    probabilities = softmax(rng.normal(0, 3, (n * m, 10))).reshape(n, m, 10)

    def scores(rows):
        memory, found = score.init(len(rows)), []
        for exit_ in range(m):
            at_exit, memory = score(exit_, Evidence(rows[:, exit_]), memory)
            found.append(at_exit)
        return np.stack(found, axis=1)

    parts = [scores(probabilities[i : i + at_once]) for i in range(0, n, at_once)]
    np.testing.assert_array_equal(np.concatenate(parts), scores(probabilities))


@pytest.mark.parametrize("huge", [-1e9, 1e9, 1e38])
def test_a_few_huge_scores_do_not_make_the_others_one(huge):
    scores = np.random.default_rng(0).random(1000)
    scores[:20] = huge  # stands for no answer
    knots = quantile_knots(scores, 24)
    assert len(knots) == 25
    ranks = rank_between(np.array([0.2, 0.5, 0.8]), knots)
    assert (np.diff(ranks) > 0.25).all()


def test_knots_are_as_far_apart_as_single_precision_tells():
    for size in (1.0, 50.0, 1e-8, 1e12):
        knots = quantile_knots(size * np.linspace(0.5, 0.5 + 1e-5, 1000), 24)
        assert 5 <= len(knots) < 25
        assert len(set(np.float32(knots).tolist())) == len(knots)
    assert quantile_knots(np.array([1.0, 1.0, 1.0]), 24) == (1.0,)
    assert quantile_knots(np.array([np.inf]), 24) == (0.0,)
    assert quantile_knots(np.array([0.0, 1e-7, 1.0]), 2) == (0.0, 1.0)  # as of probabilities in general
