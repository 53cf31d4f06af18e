"""Learned scores: ranks of scores between knots."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from exeunt.score.learned import rank_between


@pytest.mark.parametrize("n", [0, 1, 64, 1000, 1001])
def test_ranks_of_arrays_are_the_sum_over_the_pieces_to_the_last_bit(n):
    rng = np.random.default_rng(n)
    knots = np.sort(rng.random(25)).tolist()
    for scores in (rng.normal(0.5, 1, n), rng.choice(knots, n)):
        total = np.zeros(n)
        for low, high in pairwise(knots):
            total = total + np.clip((scores - low) / (high - low), 0.0, 1.0)
        np.testing.assert_array_equal(rank_between(scores, knots), total / 24, strict=True)
