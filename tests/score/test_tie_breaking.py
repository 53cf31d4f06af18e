"""Ties between equal scores: uniform, fixed by key and seed, and different for copies where asked."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from exeunt.score.tie_breaking import distinct_tie_breaks, scramble, tie_breaks


def test_ties_look_uniform_and_depend_on_key_and_seed_alone():
    keys = np.arange(100_000, dtype=np.uint64)
    a, b = tie_breaks(keys, 0), tie_breaks(keys, 1)
    assert len(np.unique(scramble(keys))) == len(keys)
    assert a.min() >= 0
    assert a.max() < 1
    for values in (a, b):
        gap = np.abs(np.sort(values) - (keys + 0.5) / len(keys)).max()
        assert gap < 3 / len(keys) ** 0.5  # Kolmogorov-Smirnov at about 1e-7
    assert abs(np.corrcoef(a, b)[0, 1]) < 0.02
    np.testing.assert_array_equal(tie_breaks(keys[::-1], 0), a[::-1])


@given(st.lists(st.integers(0, 5), min_size=1, max_size=40), st.integers(0, 2**64 - 1))
def test_copies_are_told_apart(ids, seed):
    id_ = np.array(ids, dtype=np.uint64)
    ties = distinct_tie_breaks(id_, seed)
    assert len(np.unique(ties)) == len(ties)
    plain = tie_breaks(id_, seed)
    first = np.unique(id_, return_index=True)[1]
    np.testing.assert_array_equal(ties[first], plain[first])
