"""Ties between equal scores: uniform, fixed by key and seed, and different for copies where asked."""

from __future__ import annotations

import hashlib

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from exeunt.score.tie_breaking import distinct_keys, distinct_tie_breaks, row_keys, scramble, tie_breaks


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


def test_numbers_are_those_of_splitmix64_from_one_version_to_the_next():
    """Policies that are kept rest on them. The first two are the published outputs for these seeds."""
    keys = np.array([0, 1234567], dtype=np.uint64)
    assert scramble(keys).tolist() == [0xE220A8397B1DCDAF, 6457827717110365317]
    source = np.frombuffer(hashlib.blake2b(b"'a'", digest_size=8).digest(), dtype=np.uint64)
    assert row_keys("a", keys).tolist() == scramble(source ^ scramble(keys)).tolist()


@given(st.lists(st.integers(0, 5), min_size=1, max_size=40), st.integers(0, 2**64 - 1))
def test_copies_are_told_apart(ids, seed):
    id_ = np.array(ids, dtype=np.uint64)
    ties = distinct_tie_breaks(id_, seed)
    assert len(np.unique(ties)) == len(ties)
    plain = tie_breaks(id_, seed)
    first = np.unique(id_, return_index=True)[1]
    np.testing.assert_array_equal(ties[first], plain[first])
    np.testing.assert_array_equal(tie_breaks(distinct_keys(id_), seed), ties)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=40))
def test_copies_are_numbered_in_the_order_in_which_they_came(ids):
    """The k-th copy of a key has one key wherever it is, and no other has it."""
    made = distinct_keys(np.array(ids, dtype=np.uint64)).tolist()
    of: dict[tuple[int, int], int] = {}
    for at, key in enumerate(ids):
        of[key, ids[:at].count(key)] = made[at]
    assert len({*of.values()}) == len(ids)
    order = np.random.default_rng(0).permutation(len(ids))
    moved = distinct_keys(np.array(ids, dtype=np.uint64)[order]).tolist()
    for at, key in enumerate(np.array(ids)[order].tolist()):
        assert moved[at] == of[key, np.array(ids)[order][:at].tolist().count(key)]


def test_keys_of_rows_depend_on_their_source_and_number_alone():
    rows = np.arange(1000, dtype=np.uint64)
    keys = [row_keys(source, rows) for source in ("a", "b", ("a", 3))]
    assert len(np.unique(np.concatenate(keys))) == 3000
    np.testing.assert_array_equal(row_keys("a", rows[700:]), keys[0][700:])
    np.testing.assert_array_equal(row_keys("a", np.arange(1000)), keys[0])
    # Ties of them are as good as random: the share below each value is that value.
    ties = np.sort(tie_breaks(keys[0], 4))
    assert np.abs(ties - (np.arange(1000) + 0.5) / 1000).max() < 3 / 1000**0.5
