"""Folds and parts: every row once, and copies of an input drawn like any other rows."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from exeunt.errors import InputError
from exeunt.trace.splitting import folds_of, part_rows, random_order, shaping_and_testing_rows


def log_of(n, atom, seed):
    """Keys of a query log in which one content, key 7, makes up a share `atom` of the draws; others are all new."""
    rng = np.random.default_rng([seed, n])
    return np.where(rng.random(n) < atom, np.uint64(7), rng.integers(2**40, 2**63, n).astype(np.uint64))


@pytest.mark.parametrize("copies", [1, 2])
@pytest.mark.parametrize("n", [7, 8, 100])
def test_folds_are_as_large_as_can_be_and_hold_every_row_once(n, copies):
    keys = np.repeat(np.arange(n, dtype=np.uint64), copies)
    folds = folds_of(keys, 3, 0)
    assert sorted(np.concatenate([rows for _, rows in folds])) == list(range(len(keys)))
    for rest, rows in folds:
        assert sorted([*rest, *rows]) == list(range(len(keys)))
        assert rows.tolist() == sorted(rows)
        assert len(rows) in (len(keys) // 3, len(keys) // 3 + 1)


def test_parts_have_their_shares_and_no_row_twice():
    keys = np.repeat(np.arange(100, dtype=np.uint64), 2)
    parts = part_rows(keys, {"a": 0.3, "b": 0.5}, seed=1)
    assert [len(rows) for rows in parts] == [60, 100]
    assert len(np.unique(np.concatenate(parts))) == 160


KEYS = np.arange(3, dtype=np.uint64)


def test_parts_may_be_all_of_few_rows():
    assert [len(rows) for rows in part_rows(KEYS, {"a": 0.4, "b": 0.6}, 0)] == [1, 2]
    assert sum(len(rows) for rows in part_rows(KEYS, dict.fromkeys("abc", 1 / 3), 0)) == 3


SHAPED = "too few: some give thresholds, and others test"


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (
            lambda: part_rows(KEYS, {"a": 0.5, "b": 0.6}, 0),
            r"^the parts add up to 1\.1 of the inputs, more than 1",
        ),
        (lambda: part_rows(KEYS, {"a": 0.5, "b": 1.5}, 0), r"^b must lie in \(0, 1\), got 1\.5"),
        (
            lambda: part_rows(KEYS, {"a": 0.1, "b": 0.5}, 0),
            r"^the part 'a' is empty: 0\.1 of 3 inputs is none$",
        ),
        (lambda: folds_of(KEYS // 2, 4, 0), "at least 2 folds and as many inputs, got 4 folds for 3"),
        (lambda: folds_of(np.arange(5, dtype=np.uint64), 1, 0), "got 1 folds"),
        (lambda: shaping_and_testing_rows(0, 0.5, 0), f"^0 calibration inputs are {SHAPED}"),
        (lambda: shaping_and_testing_rows(1, 0.5, 0), f"^1 calibration input is {SHAPED}"),
    ],
)
def test_parts_and_folds_that_cannot_be_are_refused(call, told):
    with pytest.raises(InputError, match=told):
        call()


def test_copies_come_into_all_parts_and_folds():
    keys = np.repeat(np.arange(100, dtype=np.uint64), 2)
    first, second = part_rows(keys, {"a": 0.5, "b": 0.5}, seed=1)
    shared = np.intersect1d(keys[first], keys[second])
    # 100 of 200 rows: each pair is divided with a chance of about a half.
    assert 25 < len(shared) < 75
    for rest, rows in folds_of(keys, 2, 0):
        assert np.isin(keys[rows], keys[rest]).any()
    one = np.full(10, 3, dtype=np.uint64)
    assert [len(rows) for rows in part_rows(one, {"a": 0.3, "b": 0.3}, seed=1)] == [3, 3]


@pytest.mark.parametrize("seeds", ["of the split", "of the log"])
def test_a_frequent_input_comes_into_a_part_as_into_a_random_sample_of_rows(seeds):
    """Over many splits of a log, and over many logs with one split: hypergeometric, neither all copies nor none."""
    away = []
    for seed in range(200):
        keys = log_of(500, 0.12, 0 if seeds == "of the split" else seed)
        _, rows = part_rows(keys, {"fit": 0.3, "calibrate": 0.4}, seed if seeds == "of the split" else 3)
        count, share = np.count_nonzero(keys[rows] == 7), np.mean(keys == 7)
        assert 0 < count < 500 * share
        away.append((count - 200 * share) / (200 * share * (1 - share) * 300 / 499) ** 0.5)
    assert abs(np.mean(away)) < norm.ppf(1 - 1e-6) / 200**0.5
    assert 0.7 < np.std(away) < 1.3  # 200 of them: 1 +- 0.05, six deviations


def test_where_all_keys_differ_parts_do_not_depend_on_the_order_of_the_rows():
    keys, order = log_of(300, 0.0, 0), np.random.default_rng(1).permutation(300)
    for a, b in (
        (part_rows(keys, {"a": 0.4, "b": 0.6}, 5), part_rows(keys[order], {"a": 0.4, "b": 0.6}, 5)),
        ([rows for _, rows in folds_of(keys, 4, 5)], [rows for _, rows in folds_of(keys[order], 4, 5)]),
    ):
        for one, other in zip(a, b, strict=True):
            assert sorted(keys[one]) == sorted(keys[order][other])


def test_where_all_keys_differ_the_split_is_that_of_the_keys_in_order():
    """By hand: the k-th smallest key has the k-th place of a seeded permutation. Runs and their traces rest on it."""
    keys = log_of(50, 0.0, 4)
    place = np.empty(50, dtype=int)
    place[np.argsort(keys)] = np.random.default_rng(9).permutation(50)
    first, second = part_rows(keys, {"a": 0.3, "b": 0.5}, 9)
    assert first.tolist() == np.flatnonzero(place < 15).tolist()
    assert second.tolist() == np.flatnonzero((place >= 15) & (place < 40)).tolist()
    for fold, (_, rows) in enumerate(folds_of(keys, 3, 9)):
        assert rows.tolist() == np.flatnonzero(place % 3 == fold).tolist()


@pytest.mark.parametrize("share", [1 / 3, 0.5])
def test_rows_that_shape_and_rows_that_test_are_drawn_at_random(share):
    assert sorted(random_order(50, 3)) == list(range(50))
    assert random_order(50, 3).tolist() == random_order(50, 3).tolist() != random_order(50, 4).tolist()
    shaped = np.zeros(50)
    for seed in range(400):
        shaping, testing = shaping_and_testing_rows(50, share, seed)
        assert len(shaping) == round(share * 50)
        assert sorted([*shaping, *testing]) == list(range(50))
        shaped[shaping] += 1
    # Each row shapes as often as another: binomial, five deviations.
    np.testing.assert_allclose(shaped / 400, share, atol=5 * (share * (1 - share) / 400) ** 0.5 + 0.01)
    # The order of the tests is random, too: neighbours are not neighbours in the data.
    _, testing = shaping_and_testing_rows(10_000, share, 0)
    assert abs(np.corrcoef(testing[:-1], testing[1:])[0, 1]) < 0.08
